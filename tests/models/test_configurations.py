"""Configurations: sizes of the MLP, special tokens and the vocabulary, configurations made from a tokenizer."""

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

import modeling_lavis
from modeling_lavis import (
    AlbefConfig,
    AlproConfig,
    LavisBlip2Config,
    LavisBlip2ForConditionalGeneration,
    LavisBlipConfig,
    LavisClipVisionConfig,
    LavisEvaConfig,
    LavisEvaModel,
    LavisTimesformerConfig,
    LavisTimesformerModel,
    LavisViTConfig,
    LavisViTModel,
)
from modeling_lavis.models.configuration_vision import size_from_ratio
from modeling_lavis.models.processing_lavis_blip_2 import qformer_tokenizer
from modeling_lavis.models.tokenization_lavis import bert_tokenizer, blip_tokenizer
from tests.models.lavis_blip_2_cases import LANGUAGE_MODELS

VISION: tuple[Any, ...] = (LavisViTConfig, LavisClipVisionConfig, LavisEvaConfig, LavisTimesformerConfig)
FAMILIES: tuple[Any, ...] = (AlbefConfig, AlproConfig, LavisBlipConfig, LavisBlip2Config)

every_vision = pytest.mark.parametrize("kind", VISION, ids=lambda kind: kind.__name__)
every_family = pytest.mark.parametrize("kind", FAMILIES, ids=lambda kind: kind.__name__)

# Pairs of hidden size and intermediate size for which `int(hidden_size * ratio)` is one short.
ONE_SHORT = [
    (width, size) for width in range(8, 400) for size in range(1, 4 * width) if int(width * (size / width)) != size
]


# ---- sizes of the MLP ----


def test_ratios_of_integers_give_these_integers() -> None:
    assert len(ONE_SHORT) > 1000
    assert all(size_from_ratio(width, size / width) == size for width, size in ONE_SHORT)
    # earlier versions added half a unit against rounding errors
    assert all(size_from_ratio(width, (size + 0.5) / width) == size for width, size in ONE_SHORT)
    assert size_from_ratio(1408, 4.3637) == 6144
    assert size_from_ratio(37, 2.7) == 99  # as before, a fraction is cut off


@every_vision
def test_intermediate_size(kind: Any, tmp_path: Path) -> None:
    sizes = {"hidden_size": 56, "num_attention_heads": 4}
    default = kind(**sizes)
    assert default.intermediate_size == int(56 * (4.3637 if kind is LavisEvaConfig else 4))
    for given in ({"intermediate_size": 57}, {"mlp_ratio": 57 / 56}):
        config = kind(**sizes, **given)
        assert config.intermediate_size == 57 and config.mlp_ratio == pytest.approx(57 / 56)
        config.save_pretrained(tmp_path)
        stored = json.loads((tmp_path / "config.json").read_text())
        assert stored["intermediate_size"] == 57 and "mlp_ratio" not in stored
        assert kind.from_pretrained(tmp_path).intermediate_size == 57
        assert AutoConfig.from_pretrained(tmp_path).intermediate_size == 57
    config.mlp_ratio = 2
    assert config.intermediate_size == 112
    assert kind.from_pretrained(tmp_path, mlp_ratio=3).intermediate_size == 168
    assert kind(**sizes, mlp_ratio=2, intermediate_size=112).intermediate_size == 112
    with pytest.raises(ValueError, match="intermediate_size is 57, but mlp_ratio 2 makes it 112"):
        kind(**sizes, mlp_ratio=2, intermediate_size=57)


@every_vision
def test_files_of_earlier_versions_have_a_ratio(kind: Any, tmp_path: Path) -> None:
    width, size = next((width, size) for width, size in ONE_SHORT if width % 4 == 0)
    kind(hidden_size=width, num_attention_heads=4).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["intermediate_size"]
    for ratio in (size / width, (size + 0.5) / width):
        (tmp_path / "config.json").write_text(json.dumps({**stored, "mlp_ratio": ratio}))
        assert kind.from_pretrained(tmp_path).intermediate_size == size


@pytest.mark.parametrize(
    ("model", "kind"),
    [(LavisViTModel, LavisViTConfig), (LavisEvaModel, LavisEvaConfig), (LavisTimesformerModel, LavisTimesformerConfig)],
)
def test_models_read_intermediate_size(model: Any, kind: Any) -> None:
    width, size = next((width, size) for width, size in ONE_SHORT if width % 4 == 0)
    options = {"image_size": 32, "patch_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}
    built = model(kind(hidden_size=width, mlp_ratio=size / width, **options))
    assert built.blocks[0].mlp.fc1.weight.shape == (size, width)
    assert built.blocks[0].mlp.fc2.weight.shape == (width, size)


@pytest.mark.parametrize(("kind", "model_type"), [(LavisBlipConfig, "blip"), (LavisBlip2Config, "blip-2")])
def test_intermediate_size_of_transformers_format(kind: Any, model_type: str) -> None:
    for width, size in [pair for pair in ONE_SHORT if pair[0] % 4 == 0][:50]:
        vision = {"hidden_size": width, "intermediate_size": size, "num_attention_heads": 4}
        config = kind.from_dict({"model_type": model_type, "vision_config": vision})
        assert config.vision_config.intermediate_size == size


@every_family
def test_a_part_that_is_given_to_loading_replaces_what_it_says(kind: Any, tmp_path: Path) -> None:
    kind().save_pretrained(tmp_path)
    vision = {"mlp_ratio": 2, "num_attention_heads": 2}
    config = kind.from_pretrained(tmp_path, vision_config=vision)
    default = kind().vision_config
    assert config.vision_config.intermediate_size == 2 * default.hidden_size
    assert config.vision_config.num_attention_heads == 2 and config.vision_config.image_size == default.image_size
    if kind is not AlproConfig:  # where both encoders have one size
        wider = kind.from_pretrained(tmp_path, vision_config={"hidden_size": 64, "num_attention_heads": 2})
        text = wider.qformer_config if kind is LavisBlip2Config else wider.text_config
        assert text.encoder_hidden_size == 64


# ---- names of classes ----


@pytest.mark.parametrize("given", [("id2label", "label2id"), ("id2label",), ("label2id",)], ids="+".join)
def test_names_of_classes_that_are_given_replace_those_of_a_file(given: tuple[str, ...], tmp_path: Path) -> None:
    LavisBlipConfig(id2label={0: "cat", 1: "dog", 2: "eel"}).save_pretrained(tmp_path)
    tables: dict[str, Any] = {"id2label": {0: "blue", 1: "red"}, "label2id": {"blue": 0, "red": 1}}
    config = LavisBlipConfig.from_pretrained(tmp_path, **{name: tables[name] for name in given})
    assert {name: getattr(config, name) for name in tables} == tables and config.num_labels == 2
    assert LavisBlipConfig.from_pretrained(tmp_path, num_labels=2).label2id == {"LABEL_0": 0, "LABEL_1": 1}


def test_one_table_of_classes_is_enough() -> None:
    assert LavisBlipConfig(id2label={0: "cat", 1: "dog"}).label2id == {"cat": 0, "dog": 1}
    config = LavisBlipConfig.from_dict({"label2id": {"cat": 0, "dog": 1, "eel": 2}})
    assert config.id2label == {0: "cat", 1: "dog", 2: "eel"} and config.num_labels == 3


# ---- special tokens ----


def tiny(kind: Any, vocab_size: int | None, **options: Any) -> Any:
    """A configuration with sizes only."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    text = {**sizes, "max_position_embeddings": 40, **({} if vocab_size is None else {"vocab_size": vocab_size})}
    part = "qformer_config" if kind is LavisBlip2Config else "text_config"
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    return {
        "vision_config": vision,
        part: text,
        "projection_dim": 8,
        **({} if kind in FAMILIES[1::2] else {"queue_size": 4}),
    } | options


IDS = {"pad_token_id": 0, "cls_token_id": 2, "eos_token_id": 3}
ALL_IDS: dict[Any, dict[str, int]] = {
    AlbefConfig: {**IDS, "mask_token_id": 4},
    AlproConfig: IDS,
    LavisBlipConfig: {**IDS, "bos_token_id": 5, "enc_token_id": 6},
    LavisBlip2Config: {**IDS, "bos_token_id": 5},
}


@every_family
def test_token_ids_have_to_be_in_the_vocabulary(kind: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"cls_token_id is 101.*vocab_size is 60; .* 0 to 59.*{kind.__name__}.from_tok"
    ):
        kind(**tiny(kind, 60))
    kind(**tiny(kind, None))  # the published vocabulary
    right = ALL_IDS[kind]
    kind(**tiny(kind, 60, **right))
    for name in right:
        for wrong in (60, -1):
            with pytest.raises(ValueError, match=rf"\b{name} is {wrong}\b.*, but"):
                kind(**tiny(kind, 60, **{**right, name: wrong}))


@every_family
def test_only_sizes_in_a_file_are_refused_too(kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": kind.model_type, **tiny(kind, 60)}))
    for load in (kind.from_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(ValueError, match=rf"{path} cannot be used: .*cls_token_id is 101.*vocab_size is 60"):
            load(tmp_path)
    config = kind.from_pretrained(tmp_path, **ALL_IDS[kind])
    assert config.cls_token_id == 2
    with pytest.raises(ValueError, match=r"cls_token_id is 77.*vocab_size is 60"):
        kind.from_pretrained(tmp_path, **{**ALL_IDS[kind], "cls_token_id": 77})


@every_family
def test_ids_that_a_repository_has_give_a_warning(
    kind: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every head uses each of them, and a resized vocabulary may leave one out."""
    config = kind(**tiny(kind, 60, **ALL_IDS[kind]))
    config.eos_token_id = 102
    config.save_pretrained(tmp_path)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    assert AutoConfig.from_pretrained(tmp_path).eos_token_id == 102
    assert "eos_token_id is 102, but" in caplog.text and "from_tokenizer" in caplog.text
    copy.deepcopy(config)


def tokenizer_of(kind: Any, goldens: Path) -> Any:
    make = {LavisBlipConfig: blip_tokenizer, LavisBlip2Config: qformer_tokenizer}.get(kind, bert_tokenizer)
    return make(str(goldens / "tokenizer"))


HEADS = {
    AlbefConfig: "AlbefForPreTraining",
    AlproConfig: "AlproForVideoTextRetrieval",
    LavisBlipConfig: "LavisBlipForPreTraining",
    LavisBlip2Config: "LavisBlip2ForPreTraining",
}


@every_family
def test_configuration_from_a_tokenizer(kind: Any, goldens: Path) -> None:
    tokenizer = tokenizer_of(kind, goldens)
    config = kind.from_tokenizer(tokenizer, **tiny(kind, None))
    part = config.qformer_config if kind is LavisBlip2Config else config.text_config
    assert part.vocab_size == len(tokenizer) and part.hidden_size == 16
    assert part.pad_token_id == config.pad_token_id == tokenizer.pad_token_id
    assert (config.cls_token_id, config.eos_token_id) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    if kind is AlbefConfig:
        assert config.mask_token_id == tokenizer.mask_token_id and config.bos_token_id == tokenizer.cls_token_id
    if kind in (LavisBlipConfig, LavisBlip2Config):
        assert config.bos_token_id == tokenizer.convert_tokens_to_ids("[DEC]")
    if kind is LavisBlipConfig:
        assert config.enc_token_id == tokenizer.convert_tokens_to_ids("[ENC]")
    model = getattr(modeling_lavis, HEADS[kind])(config).eval()
    inputs = tokenizer(["a dog", "the man in a red house"], padding=True, return_tensors="pt")
    shape = (2, 8, 3, 32, 32) if kind is AlproConfig else (2, 3, 32, 32)
    name = "pixel_values_videos" if kind is AlproConfig else "pixel_values"
    texts = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        assert model(**{name: torch.rand(shape)}, **texts, return_loss=True).loss.isfinite()


@every_family
def test_what_is_given_with_a_tokenizer_counts(kind: Any, goldens: Path) -> None:
    tokenizer = tokenizer_of(kind, goldens)
    part = "qformer_config" if kind is LavisBlip2Config else "text_config"
    config = kind.from_tokenizer(tokenizer, **tiny(kind, len(tokenizer) + 6, eos_token_id=7))
    assert getattr(config, part).vocab_size == len(tokenizer) + 6 and config.eos_token_id == 7
    with pytest.raises(ValueError, match=rf"{part}.vocab_size is 60, but the tokenizer has {len(tokenizer)} tokens"):
        kind.from_tokenizer(tokenizer, **tiny(kind, 60))
    with pytest.raises(ValueError, match="Got a tokenizer of type str; pass a tokenizer"):
        kind.from_tokenizer("bert-base-uncased")


def test_tokenizers_that_lack_a_token(goldens: Path) -> None:
    plain = bert_tokenizer(str(goldens / "tokenizer"))
    with pytest.raises(ValueError, match=r"no bos_token for bos_token_id. Make it with blip_tokenizer"):
        LavisBlipConfig.from_tokenizer(plain, **tiny(LavisBlipConfig, None))
    with pytest.raises(ValueError, match=r"no \[ENC\] for enc_token_id"):
        LavisBlipConfig.from_tokenizer(qformer_tokenizer(str(goldens / "tokenizer")), **tiny(LavisBlipConfig, None))
    config = LavisBlipConfig.from_tokenizer(plain, **tiny(LavisBlipConfig, None, bos_token_id=2, enc_token_id=None))
    assert config.enc_token_id is None and config.bos_token_id == 2


def test_answer_decoders_have_the_same_vocabulary(goldens: Path) -> None:
    tokenizer = bert_tokenizer(str(goldens / "tokenizer"))
    answer = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AlbefConfig.from_tokenizer(tokenizer, **tiny(AlbefConfig, None, answer_config=answer))
    assert config.answer_config.vocab_size == config.text_config.vocab_size == len(tokenizer)
    assert config.answer_config.encoder_hidden_size == config.text_config.hidden_size
    with pytest.raises(ValueError, match="answer_config.vocab_size is 50"):
        AlbefConfig(**tiny(AlbefConfig, None, answer_config={**answer, "vocab_size": 50}))


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_configuration_from_the_tokenizer_of_a_language_model(kind: str, goldens: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(goldens / f"blip2_{kind}" / "llm")
    own = {"vocab_size", "pad_token_id", "bos_token_id", "eos_token_id"}
    text = {name: value for name, value in LANGUAGE_MODELS[kind].items() if name not in own}
    options = tiny(LavisBlip2Config, None)
    options["qformer_config"]["use_text"] = False
    config = LavisBlip2Config.from_tokenizer(tokenizer, **options, text_config=text)
    assert config.text_config.vocab_size == len(tokenizer)
    assert config.text_config.pad_token_id == tokenizer.pad_token_id
    assert config.text_config.eos_token_id == tokenizer.eos_token_id
    model = LavisBlip2ForConditionalGeneration(config)
    inputs = tokenizer("a", return_tensors="pt")
    assert (
        model.generate(pixel_values=torch.rand(1, 3, 32, 32), input_ids=inputs["input_ids"], max_new_tokens=2).ndim == 2
    )


def test_a_second_stage_needs_no_ids_of_the_q_former() -> None:
    options = tiny(LavisBlip2Config, 60)
    options["qformer_config"]["use_text"] = False
    assert LavisBlip2Config(**options, text_config=LANGUAGE_MODELS["opt"]).cls_token_id == 101


def test_a_smaller_vocabulary_after_construction(tmp_path: Path) -> None:
    model = modeling_lavis.LavisBlipForImageTextRetrieval(
        LavisBlipConfig(**tiny(LavisBlipConfig, 120, bos_token_id=110, enc_token_id=5))
    )
    model.resize_token_embeddings(105)
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).config.text_config.vocab_size == 105
