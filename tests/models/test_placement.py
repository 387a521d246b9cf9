"""Offloading and device maps: every head computes what it computes without them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from modeling_lavis.models.transformers_compat import major_minor
from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import Case, assert_same
from tests.models.lavis_blip_2_cases import LANGUAGE_MODELS, pixels, prompts, second_stage

accelerate = pytest.importorskip("accelerate")

CPU = torch.device("cpu")
CASES = [*albef_cases.CASES, *alpro_cases.CASES, *lavis_blip_cases.CASES, *lavis_blip_2_cases.CASES]
cases = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def offload(model: PreTrainedModel, where: str, folder: Path) -> PreTrainedModel:
    """A copy of a model whose weights accelerate keeps on the CPU or on the disk, and loads for each submodule."""
    model = copy.deepcopy(model)
    if where == "cpu":
        accelerate.cpu_offload(model, execution_device=CPU)
    else:
        accelerate.disk_offload(model, str(folder), execution_device=CPU)
    assert all(value.is_meta for value in model.parameters())
    return model


def methods(case: Case) -> dict[str, Callable[[Any], Any]]:
    """Calls of public methods besides `forward` and `generate`, by name."""
    inputs = case.inputs(3)
    images = inputs[case.pixel_name]
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    answers = {f"answer_{name}": value[:, :4] for name, value in text.items()}
    pairs = torch.tensor([[0, 1], [2, 0]])
    calls: dict[str, Callable[[Any], Any]] = {
        "get_image_features": lambda model: model.get_image_features(images),
        "get_video_features": lambda model: model.get_video_features(images),
        "get_text_features": lambda model: model.get_text_features(**text),
        "score_pairs": lambda model: model.score_pairs(images, text, pairs),
        "rank_answers": lambda model: model.rank_answers(**inputs, **answers, num_candidates=2),
    }
    return {name: call for name, call in calls.items() if hasattr(case.model_class, name)}


def compare(found: PreTrainedModel, expected: PreTrainedModel, case: Case) -> None:
    """Forward passes with and without gradients and in all modes, methods, and greedy and beam search."""
    assert found.device == CPU
    for grad in (False, True):
        for _, call in case.calls():
            with torch.set_grad_enabled(grad):
                outputs = []
                for model in (found, expected):
                    torch.manual_seed(0)  # negatives and masked tokens are drawn
                    outputs.append(model(**call))
            assert_same(*outputs)
    for call in methods(case).values():
        assert_same(call(found), call(expected))
    if expected.can_generate():
        names = ("pixel_values", "input_ids", "attention_mask")
        inputs = {name: value for name, value in case.inputs(3).items() if name in names}
        for beams in (1, 2):
            options = {"max_new_tokens": 4, "num_beams": beams, "do_sample": False}
            ids = found.generate(**inputs, **options)
            assert ids.shape[1] > 1 and torch.equal(ids, expected.generate(**inputs, **options))


@cases
@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_weights(case: Case, where: str, tmp_path: Path) -> None:
    model = case.model()
    compare(offload(model, where, tmp_path), model, case)


@pytest.mark.parametrize("where", ["cpu", "disk"])
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_offloaded_language_models(kind: str, where: str, tmp_path: Path) -> None:
    model = second_stage(kind)
    offloaded = offload(model, where, tmp_path)
    inputs = {"pixel_values": pixels(2), **prompts(2, pad=LANGUAGE_MODELS[kind]["pad_token_id"])}
    for beams in (1, 2):
        options = {**inputs, "max_new_tokens": 4, "num_beams": beams}
        assert torch.equal(offloaded.generate(**options), model.generate(**options))


#: older versions of accelerate raise an error, see test_transformers_compat.py
loads_offloaded = pytest.mark.skipif(
    major_minor(accelerate.__version__) < (1, 15), reason="offloading in `from_pretrained` needs accelerate 1.15"
)


@cases
@loads_offloaded
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_memory_for_a_share_of_the_weights(case: Case, share: float, tmp_path: Path) -> None:
    """`device_map="auto"` puts what does not fit on the disk."""
    model = case.model()
    model.save_pretrained(tmp_path / "model")
    size = sum(value.numel() * value.element_size() for value in [*model.parameters(), *model.buffers()])
    placed = case.model_class.from_pretrained(
        tmp_path / "model",
        device_map="auto",
        max_memory={"cpu": int(share * size), "disk": 10 * size},
        offload_folder=tmp_path / "disk",
    )
    assert "disk" in placed.hf_device_map.values()
    compare(placed, model, case)


@cases
@loads_offloaded
def test_each_part_on_the_disk(case: Case, tmp_path: Path) -> None:
    model = case.model()
    model.save_pretrained(tmp_path / "model")
    parts = [name for name, _ in model.named_children() if list(model.get_submodule(name).parameters())]
    single = [name for name, _ in model.named_parameters() if "." not in name]
    # weights that are tied across parts have to be in one place, where device_map="auto" puts them
    ties = {frozenset(name.partition(".")[0] for name in tie) for tie in model.all_tied_weights_keys.items()}
    shared = set().union(*(tie for tie in ties if len(tie) > 1))
    inputs = case.inputs(3)
    options = next(iter(case.modes.values()))
    expected = model(**{**inputs, **options})
    blocks = [f"vision_model.blocks.{index}" for index in range(2)]
    for part in [*(part for part in parts if part not in shared), *blocks]:
        if part.partition(".")[0] == part:
            device_map = {name: "disk" if name == part else "cpu" for name in parts}
        else:
            inside = [name for name, _ in model.vision_model.named_children() if name != "blocks"]
            inside += [name for name, _ in model.vision_model.named_parameters() if "." not in name]
            device_map = {name: "cpu" for name in parts if name != "vision_model"}
            device_map |= {f"vision_model.{name}": "cpu" for name in inside}
            device_map |= {name: "disk" if name == part else "cpu" for name in blocks}
        device_map |= dict.fromkeys(single, "cpu")
        device_map |= {name: "cpu" for name, _ in model.named_buffers() if "." not in name}
        placed = case.model_class.from_pretrained(
            tmp_path / "model", device_map=device_map, offload_folder=tmp_path / f"disk-{part}"
        )
        assert any(value.is_meta for name, value in placed.named_parameters() if name.startswith(part)), part
        assert_same(placed(**{**inputs, **options}), expected)


@cases
def test_files_have_a_scalar_temperature(case: Case, tmp_path: Path) -> None:
    """The parameter has the shape (1,), so that it can be sharded; state dicts and files keep the original's shape."""
    model = case.model()
    if not hasattr(model, "temp"):
        pytest.skip("the head has no temperature")
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["temp"].shape == ()
    assert model.state_dict()["temp"].shape == () and model.temp.shape == (1,)
    again = case.model_class.from_pretrained(tmp_path)
    assert torch.equal(again.temp, model.temp)
    for shape in ((), (1,)):
        again.load_state_dict({**model.state_dict(), "temp": torch.full(shape, 0.3)})
        assert again.temp.shape == (1,) and again.temp.item() == pytest.approx(0.3)
