"""Checkpoints in transformers' BLIP format: equal outputs, intended differences, and saving in that format.

The models are tiny and random, with the layout of the published repositories: image and text hidden sizes are equal in
the base checkpoints and differ in the large ones.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    BlipProcessor,
)

from modeling_lavis import (
    LavisBlipConfig,
    LavisBlipForConditionalGeneration,
    LavisBlipForImageTextRetrieval,
    LavisBlipForPreTraining,
    LavisBlipForQuestionAnswering,
    LavisBlipModel,
    LavisBlipProcessor,
)
from tests.hub.server import LoopbackHub
from tests.hub.sessions import run_python
from tests.models.contract import assert_same_state

CLS, SEP, PAD, DEC, VOCAB = 101, 102, 0, 600, 602
SIZES = {"base": 24, "large": 32}
HEADS = {
    "captioning": (BlipForConditionalGeneration, LavisBlipForConditionalGeneration),
    "answering": (BlipForQuestionAnswering, LavisBlipForQuestionAnswering),
    "retrieval": (BlipForImageTextRetrieval, LavisBlipForImageTextRetrieval),
}
CASES = [(task, size) for task in HEADS for size in SIZES if (task, size) != ("answering", "large")]
ALL_CASES = pytest.mark.parametrize(("task", "size"), CASES, ids=[f"{task}-{size}" for task, size in CASES])


def transformers_model(task: str, size: str = "base") -> Any:
    """A model of transformers whose random weights are large enough to show mistakes."""
    hidden_size = SIZES[size]
    config = BlipConfig(
        vision_config={
            "image_size": 32,
            "patch_size": 16,
            "hidden_size": hidden_size,
            "intermediate_size": 2 * hidden_size,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        text_config={
            "vocab_size": VOCAB,
            "hidden_size": 24,
            "encoder_hidden_size": hidden_size,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 48,
            "bos_token_id": DEC,
            "sep_token_id": SEP,
            "eos_token_id": SEP,
            "pad_token_id": PAD,
        },
        image_text_hidden_size=8,
    )
    model = HEADS[task][0](config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(1 + noise if "norm" in name.lower() and name.endswith("weight") else noise)
    model.tie_weights()
    return model


def batch(rows: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(200, 600, (rows, 6), generator=generator)
    ids[:, 0], ids[:, -1] = CLS, SEP
    mask = torch.ones_like(ids)
    ids[1, 3], ids[1, 4:], mask[1, 4:] = SEP, PAD, 0
    return {"pixel_values": torch.randn(rows, 3, 32, 32, generator=generator), "input_ids": ids, "attention_mask": mask}


def assert_near(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


def save_and_load(task: str, folder: Path, theirs: Any, **options: Any) -> Any:
    """Save a model of transformers and load it with this package; all keys must match."""
    theirs.save_pretrained(folder)
    ours, info = HEADS[task][1].from_pretrained(folder, output_loading_info=True, **options)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert info["missing_keys"] <= {"temp"}, "transformers' format has no temperature"
    return ours


@pytest.mark.parametrize("task", HEADS)
def test_save_original_format(task: str, tmp_path: Path) -> None:
    """Saved by this package, loaded, and saved in transformers' format: transformers loads every tensor."""
    theirs = transformers_model(task)
    save_and_load(task, tmp_path / "theirs", theirs).save_pretrained(tmp_path / "ours")
    their_class, our_class = HEADS[task]
    our_class.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "back", save_original_format=True)
    back, info = their_class.from_pretrained(tmp_path / "back", config=theirs.config, output_loading_info=True)
    assert not info["missing_keys"] and info["unexpected_keys"] <= {"temp"}, info
    assert_same_state(back, theirs)


@ALL_CASES
def test_outputs_equal_transformers(task: str, size: str, tmp_path: Path) -> None:
    theirs, call = transformers_model(task, size), batch()
    ours = save_and_load(task, tmp_path, theirs, enc_token_id=None)
    assert ours.config.vision_config.hidden_size == SIZES[size]
    if task == "captioning":
        with_start_token = {**call, "input_ids": call["input_ids"].clone()}
        with_start_token["input_ids"][:, 0] = DEC
        expected = theirs(**with_start_token).logits
        assert_near(ours(**with_start_token).logits, expected)
        assert_near(ours(**call).logits, expected)  # the model sets the start token
        for options in ({"do_sample": False}, {"num_beams": 3, "min_length": 9}):
            generated = ours.generate(call["pixel_values"], max_length=9, **options)
            assert torch.equal(generated, theirs.generate(call["pixel_values"], max_length=9, **options))
        prompt = call["input_ids"][:1]
        generated = ours.generate(call["pixel_values"][:1], input_ids=prompt, max_length=11, min_length=11)
        assert torch.equal(
            generated, theirs.generate(call["pixel_values"][:1], prompt.clone(), max_length=11, min_length=11)
        )
    elif task == "answering":
        for options in ({"do_sample": False}, {"num_beams": 3, "min_length": 7}):
            generated = ours.generate(**call, max_length=7, **options)
            assert torch.equal(generated, theirs.generate(**call, max_length=7, **options))
        labels = torch.tensor([[DEC, 300, 301, SEP]])
        one = {name: value[:1] for name, value in call.items()}
        ours.config.label_smoothing = 0.0
        assert_near(ours(**one, labels=labels).loss / 3, theirs(**one, labels=labels).loss)
    else:
        assert_near(ours(**call, match_head="itm").logits, theirs(**call, use_itm_head=True).itm_score)
        cosines = theirs(**call, use_itm_head=False).itm_score
        assert_near(ours(**call).logits_per_image * ours.temp, cosines)
        images = ours.get_image_features(call["pixel_values"]).pooler_output
        texts = ours.get_text_features(*list(call.values())[1:]).pooler_output
        assert_near(images @ texts.T, cosines)


@pytest.mark.parametrize("task", ["answering", "retrieval"])
def test_enc_token_is_an_intended_difference(task: str, tmp_path: Path) -> None:
    theirs, call = transformers_model(task), batch()
    ours = save_and_load(task, tmp_path, theirs)
    assert ours.config.enc_token_id == DEC + 1
    replaced = {**call, "input_ids": call["input_ids"].clone()}
    replaced["input_ids"][:, 0] = DEC + 1
    if task == "retrieval":
        logits = ours(**call, match_head="itm").logits
        assert not torch.allclose(logits, theirs(**call, use_itm_head=True).itm_score, atol=1e-3)
        assert_near(logits, theirs(**replaced, use_itm_head=True).itm_score)
    else:
        # Rows without padding, because the decoder of transformers attends to padded question tokens in training.
        call, replaced = ({name: value[[0, 2]] for name, value in made.items()} for made in (call, replaced))
        labels = torch.tensor([[DEC, 300, 301, SEP]] * 2)
        ours.config.label_smoothing = 0.0
        ours_loss, theirs_loss = ours(**call, labels=labels).loss / 3, theirs(**call, labels=labels).loss
        assert not torch.allclose(ours_loss, theirs_loss, atol=1e-3)
        assert_near(ours_loss, theirs(**replaced, labels=labels).loss)


def test_label_smoothing_is_an_intended_difference(tmp_path: Path) -> None:
    theirs, call = transformers_model("captioning"), batch()
    ours = save_and_load("captioning", tmp_path, theirs)
    assert ours.config.label_smoothing == 0.1
    with_start_token = {**call, "input_ids": call["input_ids"].clone()}
    with_start_token["input_ids"][:, 0] = DEC
    labels = with_start_token["input_ids"].masked_fill(call["attention_mask"] == 0, -100)
    theirs_loss = theirs(**with_start_token, labels=labels).loss
    assert not torch.allclose(ours(**with_start_token, labels=labels).loss, theirs_loss, atol=1e-3)
    ours.config.label_smoothing = 0.0
    assert_near(ours(**with_start_token, labels=labels).loss, theirs_loss)


@ALL_CASES
def test_saved_with_keys_of_this_package(task: str, size: str, tmp_path: Path) -> None:
    ours = save_and_load(task, tmp_path / "theirs", transformers_model(task, size))
    ours.save_pretrained(tmp_path / "ours")
    stored = load_file(tmp_path / "ours" / "model.safetensors")
    assert set(stored) <= set(ours.state_dict())
    assert not any("vision_model.encoder" in name or "class_embedding" in name for name in stored)
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == "lavis_blip"
    again, info = HEADS[task][1].from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_same_state(again, ours)


def test_configuration_is_converted(tmp_path: Path) -> None:
    transformers_model("retrieval", "large").config.save_pretrained(tmp_path)
    config = LavisBlipConfig.from_pretrained(tmp_path)
    assert config.model_type == "lavis_blip" and config.use_momentum is False
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (DEC, SEP, PAD)
    assert config.vision_config.mlp_ratio == 2.0 and config.text_config.intermediate_size == 40
    assert config.text_config.encoder_hidden_size == 32 and config.projection_dim == 8
    # Missing entries have transformers' defaults.
    bare = LavisBlipConfig.from_dict({"model_type": "blip", "vision_config": {}, "text_config": {}})
    defaults = BlipConfig()
    assert bare.vision_config.layer_norm_eps == defaults.vision_config.layer_norm_eps
    assert bare.vision_config.image_size == defaults.vision_config.image_size
    assert bare.text_config.num_attention_heads == defaults.text_config.num_attention_heads
    assert bare.text_config.hidden_dropout_prob == defaults.text_config.hidden_dropout_prob


@pytest.mark.parametrize("other", [LavisBlipForPreTraining, LavisBlipModel])
def test_other_heads_load_transformers_checkpoints(other: Any, tmp_path: Path) -> None:
    theirs = transformers_model("retrieval")
    theirs.save_pretrained(tmp_path)
    ours = other.from_pretrained(tmp_path, allow_new_weights=other is LavisBlipForPreTraining)
    assert torch.equal(ours.vision_model.blocks[1].mlp.fc1.weight, theirs.vision_model.encoder.layers[1].mlp.fc1.weight)
    assert torch.equal(ours.text_proj.weight, theirs.text_proj.weight)
    assert all(bool(value.isfinite().all()) for value in ours.state_dict().values())


def test_pickled_checkpoint(tmp_path: Path) -> None:
    """Published checkpoints are pickles with position ids, and with tied weights stored twice."""
    theirs = transformers_model("captioning")
    theirs.config.save_pretrained(tmp_path)
    state = {**theirs.state_dict(), "text_decoder.bert.embeddings.position_ids": torch.arange(48)[None]}
    assert "text_decoder.cls.predictions.decoder.bias" in state
    torch.save(state, tmp_path / "pytorch_model.bin")
    ours, info = LavisBlipForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    call = batch()
    call["input_ids"][:, 0] = DEC
    assert_near(ours(**call).logits, theirs(**call).logits)


def save_repository(folder: Path, task: str, tokenizer: Path) -> Any:
    """Save model, tokenizer and image processor with transformers."""
    theirs = transformers_model(task)
    theirs.save_pretrained(folder)
    bert_tokenizer = BertTokenizer.from_pretrained(tokenizer)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), bert_tokenizer).save_pretrained(folder)
    return theirs


_SCRIPT = """
import json, torch
import modeling_lavis
call = torch.load({call!r})
found = {{}}
for task, (name, repo) in json.loads({names!r}).items():
    model = getattr(modeling_lavis, name).from_pretrained(repo, enc_token_id=None)
    processor = modeling_lavis.LavisBlipProcessor.from_pretrained(repo)
    found[f"{{task}} processor"] = processor.image_processor(call["image"], return_tensors="pt")["pixel_values"]
    if task == "retrieval":
        found[task] = model(**call["batch"], match_head="itm").logits.detach()
    else:
        found[task] = model.generate(**call["batch"], max_length=9, do_sample=False)
torch.save(found, {found!r})
"""


@pytest.mark.slow
def test_load_from_the_hub(goldens: Path, photos: dict[str, Path], tmp_path: Path) -> None:
    models = {task: save_repository(tmp_path / task, task, goldens / "tokenizer") for task in HEADS}
    call = {"batch": batch(), "image": str(photos["coffee"])}
    torch.save(call, tmp_path / "call.pt")
    names = {task: (HEADS[task][1].__name__, f"someone/{task}") for task in HEADS}
    with LoopbackHub(tmp_path / "hub") as hub:
        for task in HEADS:
            hub.create(f"someone/{task}", tmp_path / task)
        places = {"call": str(tmp_path / "call.pt"), "found": str(tmp_path / "found.pt")}
        run_python(_SCRIPT.format(names=json.dumps(names), **places), hub)
    found = torch.load(tmp_path / "found.pt")
    assert_near(found["retrieval"], models["retrieval"](**call["batch"], use_itm_head=True).itm_score)
    assert torch.equal(found["answering"], models["answering"].generate(**call["batch"], max_length=9, do_sample=False))
    captions = HEADS["captioning"][1].from_pretrained(tmp_path / "captioning")
    assert torch.equal(found["captioning"], captions.generate(**call["batch"], max_length=9, do_sample=False))
    for task in HEADS:
        folder = LavisBlipProcessor.from_pretrained(tmp_path / task)
        pixels = folder.image_processor(str(photos["coffee"]), return_tensors="pt")["pixel_values"]
        assert pixels.shape == (1, 3, 32, 32) and torch.equal(found[f"{task} processor"], pixels)
