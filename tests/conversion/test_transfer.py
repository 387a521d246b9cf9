"""Conversion from pre-training to other tasks: each weight has the origin that it has in the original."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel

from modeling_lavis.hub.convert import convert
from modeling_lavis.models.vision_vit import interpolate_grid_positions
from tests.conversion.golden_sets import BLIP, GOLDENS, TOKENIZER, arguments, settings, weights
from tests.conversion.test_convert import expected_key

FOLDER = GOLDENS / "transfer"
TARGETS: dict[str, Any] = {
    name: entry
    for name, entry in json.loads((FOLDER / "transfer.json").read_text())["targets"].items()
    if name.startswith("blip_")
}


def test_every_blip_architecture_except_pretraining_is_a_target() -> None:
    assert set(TARGETS) == set(BLIP) - {"blip_pretrain"}


def resized_values(architecture: str) -> dict[str, Tensor]:
    recorded = load_file(FOLDER / "resized.safetensors")
    return {name.removeprefix(f"{architecture}."): tensor for name, tensor in recorded.items() if architecture in name}


@pytest.mark.parametrize("architecture", sorted(TARGETS))
def test_origins_equal_recordings(architecture: str, tmp_path: Path) -> None:
    target = TARGETS[architecture]
    report = convert(
        architecture, FOLDER / target["source"], tmp_path / "repo", config=target["config"], tokenizer=TOKENIZER
    )
    model, info = AutoModel.from_pretrained(tmp_path / "repo", output_loading_info=True)
    assert not any(info.values())
    source = torch.load(FOLDER / target["source"], weights_only=True)["model"]
    state, resized = model.state_dict(), resized_values(architecture)
    checked = 0
    for name, origin in target["origin"].items():
        if name.endswith("position_ids") or name == "queue_ptr":
            continue
        ours = state[expected_key(name)]
        if origin is None:
            assert expected_key(name) in report.initialised, name
        elif origin.startswith("resized from "):
            torch.testing.assert_close(ours, resized[name], rtol=1e-5, atol=1e-6)
            assert expected_key(name) in report.resized
        else:
            assert torch.equal(ours, source[origin]), (name, origin)
        checked += 1
    assert checked > 80 and all(torch.isfinite(tensor).all() for tensor in state.values())


@pytest.mark.parametrize("architecture", ["blip_classification", "blip_nlvr"])
def test_new_heads_are_initialized_and_copied_to_momentum_heads(architecture: str, tmp_path: Path) -> None:
    target = TARGETS[architecture]
    convert(architecture, FOLDER / target["source"], tmp_path / "repo", config=target["config"], tokenizer=TOKENIZER)
    model = AutoModel.from_pretrained(tmp_path / "repo")
    assert 0.01 < model.cls_head[0].weight.std() < 0.03 and not model.cls_head[0].bias.any()
    if architecture == "blip_classification":
        assert torch.equal(model.cls_head_m[2].weight, model.cls_head[2].weight)


def deep_pretraining() -> dict[str, Tensor]:
    """The recorded pre-training checkpoint with repeated text layers, eight in total."""
    state = {}
    for name, tensor in weights("blip_pretrain").items():
        parts = name.split(".layer.")
        if len(parts) == 2:
            number, _, rest = parts[1].partition(".")
            for copy in range(int(number), 8, 2):
                state[f"{parts[0]}.layer.{copy}.{rest}"] = tensor.clone()
        else:
            state[name] = tensor
    return state


def test_merge_layers_of_upper_layers_are_initialized(tmp_path: Path) -> None:
    torch.save({"model": deep_pretraining()}, tmp_path / "deep.pth")
    config = settings("blip_pretrain")
    config = {"vision": config["vision"], "text": {"num_attention_heads": 4}}
    report = convert("blip_nlvr", tmp_path / "deep.pth", tmp_path / "repo", config=config, tokenizer=TOKENIZER)
    merges = {name for name in report.initialised if "merge_layer" in name}
    assert {name.split(".layer.")[1].split(".")[0] for name in merges} == {"6", "7"} and len(merges) == 4
    _, info = AutoModel.from_pretrained(tmp_path / "repo", output_loading_info=True)
    assert not any(info.values())


def test_missing_momentum_encoders_are_copied_after_resizing(tmp_path: Path) -> None:
    kept = {name: tensor for name, tensor in weights("blip_pretrain").items() if "_m." not in name}
    torch.save({"model": kept}, tmp_path / "file.pth")
    target = TARGETS["blip_retrieval"]
    report = convert(
        "blip_retrieval", tmp_path / "file.pth", tmp_path / "repo", config=target["config"], tokenizer=TOKENIZER
    )
    model = AutoModel.from_pretrained(tmp_path / "repo")
    assert torch.equal(model.vision_model_m.pos_embed, model.vision_model.pos_embed)  # resized, then copied
    assert model.vision_model.pos_embed.shape[1] == 37 and "vision_model_m.pos_embed" in report.initialised


def test_classification_from_a_captioning_checkpoint(tmp_path: Path) -> None:
    config = settings("blip_caption") | {
        "arch": "blip_classification",
        "num_classes": 3,
        "labels": ["no", "maybe", "yes"],
    }
    report = convert(**arguments("blip_caption", tmp_path / "repo", architecture="blip_classification", config=config))
    model = AutoModel.from_pretrained(tmp_path / "repo")
    source = weights("blip_caption")
    name = "encoder.layer.1.attention.self.query.weight"
    assert torch.equal(model.text_encoder.state_dict()[name], source[f"text_decoder.bert.{name}"])
    assert report.source_architecture == "blip_caption" and model.config.id2label == {0: "no", 1: "maybe", 2: "yes"}


def test_retrieval_from_a_matching_checkpoint(tmp_path: Path) -> None:
    kept = {
        name: tensor
        for name, tensor in weights("blip_image_text_matching").items()
        if "_m." not in name and "queue" not in name and name != "temp"
    }
    torch.save(kept, tmp_path / "file.pth")
    config = settings("blip_image_text_matching") | {"arch": "blip_retrieval", "queue_size": 6}
    report = convert("blip_retrieval", tmp_path / "file.pth", tmp_path / "repo", config=config, tokenizer=TOKENIZER)
    model = AutoModel.from_pretrained(tmp_path / "repo")
    assert report.source_architecture == "blip_image_text_matching"
    assert model.temp.item() == pytest.approx(0.07) and model.image_queue.shape == (16, 6)


def test_model_type_sets_the_resolution(tmp_path: Path) -> None:
    heads = {"vision": {"num_heads": 4}, "text": {"num_attention_heads": 4}}
    source = FOLDER / "blip_pretrain.pth"
    for model_type, patches in (("base_coco", 48 * 48), (None, 16)):
        output = tmp_path / str(model_type)
        convert("blip_caption", source, output, model_type=model_type, config=heads, tokenizer=TOKENIZER)
        assert AutoModel.from_pretrained(output).vision_model.pos_embed.shape[1] == patches + 1


def test_positions_of_equal_size_are_not_resized() -> None:
    table = torch.randn(1, 17, 8)
    assert interpolate_grid_positions(table, (4, 4)) is table
    bigger = interpolate_grid_positions(table, (6, 6))
    assert torch.equal(bigger[:, 0], table[:, 0]) and bigger.shape == (1, 37, 8)
