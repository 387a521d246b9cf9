"""Models from parts: features of timm's image encoders and of BERT are kept, and every weight is accounted for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

from modeling_lavis import (
    LavisBlipForPreTraining,
    LavisEvaConfig,
    LavisEvaModel,
    LavisTimesformerConfig,
    LavisTimesformerModel,
)
from modeling_lavis.embedded import embedded_model_path
from modeling_lavis.training.smooth_positions import smooth_positions
from modeling_lavis.training.starting_points import from_pretrained_parts
from modeling_lavis.training.text_parts import fill_text, read_text_part
from modeling_lavis.training.vision_parts import fill_vision, read_vision_part, vision_config
from modeling_lavis.training.vocabularies import train_tokenizer

TEXTS = ["el niño come una manzana roja", "la niña está en el jardín", "un árbol", "el pingüino"]
SIZE = 64
OPT_SIZES = {
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def timm_vit(**options: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", **{"pretrained": False, "img_size": SIZE, "depth": 2, "num_classes": 3, **options}
    )
    return randomized(model)


def timm_eva(**options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"embed_dim": 48, "depth": 3, "num_heads": 4, "img_size": 56, "num_classes": 0}
    return randomized(timm.create_model("eva_giant_patch14_clip_224", pretrained=False, **{**sizes, **options}))


def randomized(model: nn.Module) -> Any:
    """No weight is zero or one, so that none that is left out goes unnoticed."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def bert(vocabulary: int, cls: Any = BertForMaskedLM, **options: Any) -> Any:
    torch.manual_seed(1)
    kind = RobertaConfig if cls in (RobertaModel, RobertaForMaskedLM) else BertConfig
    config = kind(
        **{
            "vocab_size": vocabulary,
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 40,
            **options,
        }
    )
    return randomized(cls(config))


def pixels(size: int = SIZE, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


HEADS = [
    ("lavis_blip", "captioning"),
    pytest.param("lavis_blip", "retrieval", marks=pytest.mark.slow),
    pytest.param("lavis_blip", "vqa", marks=pytest.mark.slow),
    pytest.param("lavis_blip", "nlvr", marks=pytest.mark.slow),
    pytest.param("lavis_blip", "classification", marks=pytest.mark.slow),
    pytest.param("lavis_blip", "pretraining", marks=pytest.mark.slow),
    pytest.param("albef", "retrieval", marks=pytest.mark.slow),
    pytest.param("albef", "vqa", marks=pytest.mark.slow),
    ("albef", "nlvr"),
    pytest.param("albef", "classification", marks=pytest.mark.slow),
    pytest.param("albef", "pretraining", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("family", "task"), HEADS)
def test_features_of_every_head(family: str, task: str) -> None:
    tokenizer, vit = train_tokenizer(TEXTS), timm_vit()
    source = bert(len(tokenizer))
    model, processor = from_pretrained_parts(family, vit, source, task=task, tokenizer=tokenizer, queue_size=8)
    with torch.no_grad():
        expected = vit.forward_features(pixels())
        torch.testing.assert_close(model.vision_model(pixels()).last_hidden_state, expected, rtol=1e-4, atol=1e-4)
    texts = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = source.bert(**texts, output_hidden_states=True).hidden_states
        keep = texts["attention_mask"].bool()
        for name in ("text_encoder", "text_decoder"):
            module = getattr(model, name, None)
            module = getattr(module, "bert", module)
            if module is None or (name == "text_decoder" and family == "albef"):
                continue
            # without images; ALBEF's text encoder has the lower half of the layers
            output = module(texts["input_ids"], texts["attention_mask"], mode="text").last_hidden_state
            expected = states[2] if family == "albef" else states[4]
            torch.testing.assert_close(output[keep], expected[keep], rtol=1e-4, atol=1e-4)
    if (family, task) == ("lavis_blip", "captioning"):
        head, kept = model.text_decoder.cls(states[-1]), source.cls(states[-1])
        torch.testing.assert_close(head[..., : kept.shape[-1]], kept, rtol=1e-4, atol=1e-4)
        assert head.shape[-1] == kept.shape[-1] + 2 == len(processor.tokenizer)  # [DEC] and [ENC]
    if (family, task) == ("albef", "pretraining"):
        torch.testing.assert_close(model.mlm_head(states[-1]), source.cls(states[-1]), rtol=1e-4, atol=1e-4)
    if (family, task) == ("albef", "vqa"):  # the answer decoder starts from the fusion layers
        layer = model.text_decoder.bert.encoder.layer[0].attention.self.query.weight
        assert torch.equal(layer, source.bert.encoder.layer[2].attention.self.query.weight)
    if (family, task) == ("albef", "nlvr"):  # both layers of a pair start from the same one
        layers = [layer.intermediate.dense.weight for layer in model.text_encoder.encoder.layer]
        sources = [layer.intermediate.dense.weight for layer in source.bert.encoder.layer]
        assert [torch.equal(layers[i], sources[j]) for i, j in enumerate((0, 1, 2, 2, 3, 3))] == [True] * 6
    for online, momentum in getattr(model, "momentum_pairs", []):
        for (name, mine), copy in zip(online.named_parameters(), momentum.parameters(), strict=True):
            assert torch.equal(mine, copy), name
    assert processor.cleaning == "caption" and not model.training


def test_image_size_and_layers() -> None:
    vit = timm_vit()
    part = read_vision_part(vit)
    tokenizer = train_tokenizer(TEXTS)
    model, processor = from_pretrained_parts(
        "LavisBlipForImageTextRetrieval",
        vit,
        bert(len(tokenizer)),
        tokenizer=tokenizer,
        image_size=96,
        use_momentum=False,
        vision_config={"drop_path_rate": 0.1, "num_hidden_layers": 1},
        text_config={"num_hidden_layers": 3},
        processor_options={"max_text_length": 20, "background": "white", "image_mean": [0.5] * 3},
    )
    assert model.vision_model.pos_embed.shape == (1, 37, 192) and len(model.vision_model.blocks) == 1
    assert model.config.vision_config.drop_path_rate == 0.1 and len(model.text_encoder.encoder.layer) == 3
    assert (
        processor(images=[torch.zeros(3, 5, 5)], text="un árbol", return_tensors="pt")["pixel_values"].shape[-1] == 96
    )
    assert processor.max_text_length == 20 and tuple(processor.image_processor.image_mean) == (0.5,) * 3
    resized = timm.layers.resample_abs_pos_embed(vit.pos_embed, (6, 6), num_prefix_tokens=1, antialias=False)
    torch.testing.assert_close(model.vision_model.pos_embed, resized)
    account = fill_vision(model.vision_model, part)
    assert {name for name in account.dropped if "blocks" in name} == {n for n in part.state if "blocks.1." in n}
    assert account.dropped["head.weight"] == "the head of another task" and account.new == {}
    assert set(account.filled) == {name for name, _ in model.vision_model.named_parameters()}


def test_eva_of_blip_2() -> None:
    eva, tokenizer = timm_eva(), train_tokenizer(TEXTS)
    source = bert(len(tokenizer))
    model, processor = from_pretrained_parts("lavis_blip_2", eva, source, task="pretraining", tokenizer=tokenizer)
    assert isinstance(model.vision_model, LavisEvaModel) and len(model.vision_model.blocks) == 2  # one less
    with torch.no_grad():
        states = eva.forward_intermediates(pixels(56), indices=[1], return_prefix_tokens=True, output_fmt="NLC")[1][0]
        patches, prefix = states
        output = model.vision_model(pixels(56)).last_hidden_state
    torch.testing.assert_close(output, torch.cat([prefix, patches], dim=1), rtol=1e-4, atol=1e-4)
    texts = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = source.bert(**texts).last_hidden_state
        found = model.encode_texts(texts["input_ids"], texts["attention_mask"])
    keep = texts["attention_mask"].bool()
    torch.testing.assert_close(found[keep], expected[keep], rtol=1e-4, atol=1e-4)
    layer = model.qformer.encoder.layer[0]
    assert torch.equal(layer.intermediate.dense.weight, layer.intermediate_query.dense.weight)
    torch.testing.assert_close(
        model.cls.predictions.transform.dense.weight, source.cls.predictions.transform.dense.weight
    )
    assert processor.tokenizer.bos_token == "[DEC]" and model.config.bos_token_id == len(tokenizer) - 1


def test_eva_as_vit_and_vit_as_eva() -> None:
    """The bias of keys has no effect, so that an EVA is a ViT and, but for the last norm, a ViT an EVA."""
    tokenizer = train_tokenizer(TEXTS)
    model, _ = from_pretrained_parts(
        "albef", timm_eva(), bert(len(tokenizer)), task="classification", tokenizer=tokenizer
    )
    with torch.no_grad():
        expected = timm_eva().forward_features(pixels(56))
        found = model.vision_model(pixels(56)).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    part = read_vision_part(timm_vit())
    fields = vision_config(part, "lavis_blip_2", {"num_hidden_layers": 2})
    assert fields.pop("model_type") == "lavis_eva"
    encoder = LavisEvaModel(LavisEvaConfig(**fields)).eval()
    account = fill_vision(encoder, part)
    assert account.dropped["norm.weight"].startswith("BLIP-2 has a layer norm of its own")
    with torch.no_grad():
        output = timm_vit().norm(encoder(pixels()).last_hidden_state)
    torch.testing.assert_close(output, timm_vit().forward_features(pixels()), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_layer_scale_is_folded() -> None:
    vit = timm_vit(init_values=0.5, class_token=True)
    tokenizer = train_tokenizer(TEXTS)
    model, _ = from_pretrained_parts("albef", vit, bert(len(tokenizer)), task="classification", tokenizer=tokenizer)
    with torch.no_grad():
        found = model.vision_model(pixels()).last_hidden_state
        torch.testing.assert_close(found, vit.forward_features(pixels()), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_clip_of_timm() -> None:
    options = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 4, "patch_size": 16}
    clip = randomized(
        timm.create_model("vit_base_patch16_clip_quickgelu_224", pretrained=False, num_classes=0, **options)
    )
    tokenizer = train_tokenizer(TEXTS)
    model, _ = from_pretrained_parts("lavis_blip_2", clip, bert(len(tokenizer)), task="retrieval", tokenizer=tokenizer)
    assert model.config.vision_config.hidden_act == "quick_gelu" and len(model.vision_model.blocks) == 2
    with torch.no_grad():
        patches, prefix = clip.forward_intermediates(
            pixels(), indices=[1], return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )[0]
        output = model.vision_model(pixels()).last_hidden_state
    torch.testing.assert_close(output, torch.cat([prefix, patches], dim=1), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="such an encoder fits BLIP-2 only"):
        from_pretrained_parts("albef", clip, bert(len(tokenizer)), task="retrieval", tokenizer=tokenizer)


def test_video_encoder_starts_as_image_encoder() -> None:
    """With zeros in the output of the attention over time, a clip of one picture gives the picture's features."""
    part, vit = read_vision_part(timm_vit()), timm_vit()
    encoder = LavisTimesformerModel(LavisTimesformerConfig(**vision_config(part, "alpro", {"num_frames": 2}))).eval()
    account = fill_vision(encoder, part)
    assert set(account.new.values()) == {"as initialized: zero, so that frames are encoded as images"}
    block = encoder.blocks[0]
    assert torch.equal(block.temporal_attn.qkv.weight, block.attn.qkv.weight)
    clip = pixels()[:, None].expand(-1, 2, -1, -1, -1)
    with torch.no_grad():
        found = encoder(clip).last_hidden_state
        torch.testing.assert_close(found, vit.forward_features(pixels()), rtol=1e-4, atol=1e-4)
    tokenizer = train_tokenizer(TEXTS)
    text = bert(len(tokenizer), hidden_size=192, num_attention_heads=4)
    model, processor = from_pretrained_parts(
        "alpro", vit, text, task="video-qa", tokenizer=tokenizer, vision_config={"num_frames": 2}, num_labels=5
    )
    assert model.config.num_labels == 5 and processor.video_processor.num_frames == 2
    types = model.text_encoder.embeddings.token_type_embeddings.weight
    assert torch.equal(types, text.bert.embeddings.token_type_embeddings.weight)


@pytest.mark.parametrize("cls", [pytest.param(RobertaModel, marks=pytest.mark.slow), RobertaForMaskedLM])
def test_roberta(cls: Any) -> None:
    tokenizer = train_tokenizer(TEXTS)
    source = bert(len(tokenizer), cls, pad_token_id=tokenizer.pad_token_id, type_vocab_size=1)
    model, _ = from_pretrained_parts("lavis_blip", timm_vit(), source, task="vqa", tokenizer=tokenizer)
    texts = tokenizer(TEXTS, padding=True, return_tensors="pt")
    texts.pop("token_type_ids", None)
    with torch.no_grad():
        expected = getattr(source, "roberta", source)(**texts).last_hidden_state
        found = model.text_encoder(texts["input_ids"], texts["attention_mask"], mode="text").last_hidden_state
        keep = texts["attention_mask"].bool()
        torch.testing.assert_close(found[keep], expected[keep], rtol=1e-4, atol=1e-4)
        if cls is RobertaForMaskedLM:
            kept = source.lm_head(expected)
            head = model.text_decoder.cls(expected)[..., : kept.shape[-1]]
            torch.testing.assert_close(head, kept, rtol=1e-4, atol=1e-4)
    assert model.config.text_config.max_position_embeddings == 40 - tokenizer.pad_token_id - 1


def test_folders_and_own_models(tmp_path: Path) -> None:
    """BERT with a tokenizer from a folder, timm's and our own image encoder from a folder."""
    tokenizer = train_tokenizer(TEXTS)
    source = bert(len(tokenizer), BertModel)
    source.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    sizes = {"img_size": SIZE, "depth": 2}  # which timm records by itself only in later versions than 1.0.20
    timm.models.save_for_hf(timm_vit(), tmp_path / "vit", model_args=sizes)
    options = {"task": "captioning", "text": tmp_path / "bert"}
    first, processor = from_pretrained_parts("lavis_blip", tmp_path / "vit", **options)
    first.save_pretrained(tmp_path / "blip")
    processor.save_pretrained(tmp_path / "blip")
    second, _ = from_pretrained_parts("lavis_blip", tmp_path / "blip", **options)
    third, _ = from_pretrained_parts("lavis_blip", timm_vit(), source, task="captioning", tokenizer=tokenizer)
    with torch.no_grad():
        outputs = [model.vision_model(pixels()).last_hidden_state for model in (first, second, third)]
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
    loaded = type(first).from_pretrained(tmp_path / "blip")
    assert torch.equal(loaded.text_decoder.bert.embeddings.word_embeddings.weight, first.get_input_embeddings().weight)


@pytest.mark.slow
def test_second_stage_with_language_model(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS)
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    config = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=16, word_embed_proj_dim=16, ffn_dim=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    language_model = randomized(OPTForCausalLM(config))
    language_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, processor = from_pretrained_parts(
        "LavisBlip2ForConditionalGeneration", timm_eva(), bert(50), language_model=tmp_path
    )
    for name, value in language_model.state_dict().items():
        assert torch.equal(model.language_model.state_dict()[name], value), name
    assert processor.language_model == "causal" and len(processor.tokenizer) == len(tokenizer)
    inputs = processor(images=[torch.zeros(3, 5, 5)], return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=3).shape[0] == 1
    query = model.qformer.encoder.layer[1].intermediate_query.dense.weight
    assert torch.equal(query, bert(50).bert.encoder.layer[1].intermediate.dense.weight)


def test_new_encoders() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model, processor = from_pretrained_parts(
        "lavis_blip", task="retrieval", tokenizer=train_tokenizer(TEXTS), image_size=32, vision_config=sizes,
        text_config=sizes, use_momentum=False,
    )  # fmt: skip
    batch = processor(images=[torch.zeros(3, 5, 5)] * 2, text=TEXTS[:2], return_tensors="pt")
    assert torch.isfinite(model(**batch, return_loss=True).loss)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vision": lambda: timm_vit(reg_tokens=2)}, "has 3 tokens before its patches .* expected one class token"),
        ({"vision": lambda: timm_vit(class_token=False, global_pool="avg")}, "expected one class token"),
        (
            {"vision": lambda: timm_vit(qk_norm=True)},
            "has the weight blocks.0.attn.q_norm.weight, for which .* no place",
        ),
        ({"vision": lambda: timm_vit(global_pool="avg")}, "has no weight for norm.weight"),
        ({"vision": lambda: timm.create_model("resnet18")}, "is a ResNet; expected a plain ViT"),
        ({"vision": lambda: nn.Linear(1, 1)}, "has no image encoder of this package"),
        ({"vision": lambda: "vit_of_nobody"}, "vit_of_nobody is neither a folder nor a model of timm"),
        (
            {"text": lambda: SimpleNamespace(config=OPTConfig())},
            "model type 'opt'; expected",
        ),
        ({"text": lambda: bert(4)}, None),
        ({"text_config": lambda: {"hidden_size": 64}}, "does not fit: embeddings.word_embeddings.weight has the shape"),
        ({"text_config": lambda: {"num_hidden_layers": 5}}, "has no weight for encoder.layer.4"),
        ({"text_config": lambda: {"max_position_embeddings": 41}}, "does not fit: .*position_embeddings.weight"),
        ({"tokenizer": lambda: None}, "The tokenizer is missing"),
        ({"image_statistics": lambda: "imagenet"}, "image_statistics is 'imagenet'; expected 'clip' or 'vision'"),
        ({"task": lambda: "chess"}, "has no head for the task 'chess'; expected one of captioning"),
        ({"language_model": lambda: "x"}, "has no language model; leave out language_model"),
        ({"head_class": lambda: "BlipForChess"}, "There is no model class 'BlipForChess'"),
    ],
)
def test_parts_that_do_not_fit(arguments: dict[str, Any], message: str | None) -> None:
    tokenizer = train_tokenizer(TEXTS)
    given = {"head_class": "lavis_blip", "task": "vqa", "vision": timm_vit(), "text": bert(len(tokenizer))}
    given = {**given, "tokenizer": tokenizer, **{name: make() for name, make in arguments.items()}}
    if message is None:  # a text encoder with fewer tokens than the tokenizer gets new ones
        model, _ = from_pretrained_parts(**given)
        assert model.get_input_embeddings().num_embeddings == len(tokenizer)
        return
    with pytest.raises(ValueError, match=message):
        from_pretrained_parts(**given)


def test_account_of_texts() -> None:
    tokenizer = train_tokenizer(TEXTS)
    source = bert(len(tokenizer))
    model, _ = from_pretrained_parts("lavis_blip", timm_vit(), source, task="captioning", tokenizer=tokenizer)
    part = read_text_part(source)
    account = fill_text(model.text_decoder, part, [0, 1, 2, 3], is_decoder=True)
    used = {name for names in account.filled.values() for name in names.split(" + ")}
    assert used | account.dropped.keys() == part.state.keys()
    assert all("crossattention" in name or "decoder" in name for name in account.new)
    parameters = {name for name, _ in model.text_decoder.named_parameters(remove_duplicate=False)}
    assert account.filled.keys() | account.new.keys() == parameters


@pytest.mark.slow
def test_statistics_of_the_image_encoder() -> None:
    tokenizer = train_tokenizer(TEXTS)
    options = {"task": "vqa", "text": bert(len(tokenizer)), "tokenizer": tokenizer}
    own = from_pretrained_parts("lavis_blip", timm_vit(), image_statistics="vision", **options)[1]
    assert tuple(own.image_processor.image_mean) == tuple(timm_vit().pretrained_cfg["mean"]) == (0.5, 0.5, 0.5)
    clip = from_pretrained_parts("lavis_blip", timm_vit(), **options)[1]
    assert round(clip.image_processor.image_mean[0], 4) == 0.4815


def test_embedded_parts() -> None:
    source = LavisBlipForPreTraining.from_pretrained(embedded_model_path())
    qformer = {"cross_attention_frequency": 1, "num_query_tokens": 4}
    model, processor = from_pretrained_parts(
        "LavisBlip2ForConditionalGeneration",
        "embedded",
        "embedded",
        vision_config={"num_hidden_layers": 6},
        qformer_config=qformer,
        text_config={"model_type": "opt", **OPT_SIZES},
    )
    layer, its = model.qformer.encoder.layer[1], source.text_encoder.encoder.layer[1]
    for name in ("self.key", "output.dense"):  # attention to images that is trained already
        assert torch.equal(
            layer.crossattention.get_parameter(f"{name}.weight"), its.crossattention.get_parameter(f"{name}.weight")
        )
    assert torch.equal(model.vision_model.blocks[5].mlp.fc1.weight, source.vision_model.blocks[5].mlp.fc1.weight)
    assert processor.tokenizer.bos_token == "[CLS]" and processor.tokenizer.eos_token == "[SEP]"
    assert processor.image_processor.size["height"] == 72


def test_smooth_positions() -> None:
    torch.manual_seed(0)
    sizes = {"image_size": 64, "patch_size": 16, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    encoder = LavisTimesformerModel(LavisTimesformerConfig(num_frames=8, **sizes))
    smooth_positions(encoder)
    grid = encoder.pos_embed[0, 1:].unflatten(0, (4, 4))
    for places in (grid.transpose(0, 1), grid, encoder.time_embed):
        places = places if places.ndim == 3 else places[None]
        near = (places[:, 1:] - places[:, :-1]).norm(dim=-1).mean()
        far = (places[:, 0] - places[:, -1]).norm(dim=-1).mean()
        assert near < 0.8 * far
    assert all(block.temporal_fc.weight.std() > 0 for block in encoder.blocks)
    assert 0.025 < encoder.patch_embed.proj.weight.std() < 0.035
