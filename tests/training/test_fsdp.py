"""FSDP2 under transformers' Trainer, with two processes, against DDP."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_lavis.training import prepare_for_fsdp
from tests.training.fsdp_worker import CASES, RUNS, new_model

QUICK = ("ALBEF", "ALBEF pretraining")


def run(folder: Path, label: str, *modes: str) -> dict[str, list[Any]]:
    """What each of the two processes found, by mode."""
    command = [sys.executable, "-m", "tests.training.fsdp_worker", str(folder), f"{label}={','.join(modes)}"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {mode: [torch.load(folder / label / f"{mode}.{number}.pt") for number in range(2)] for mode in modes}


def assert_same_state(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name].reshape(value.shape), value, atol=1e-10, rtol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(
    "label", [pytest.param(label, marks=[pytest.mark.slow] * (label not in QUICK)) for label in RUNS]
)
def test_fsdp2_gives_the_weights_of_ddp(tmp_path: Path, label: str) -> None:
    """Also momentum weights, queues and their pointer; what is saved loads without processes."""
    found = run(tmp_path, label, "ddp", "fsdp")
    expected = found["ddp"][0]["state"]
    for result in found["fsdp"]:
        # the model and the layers of both encoders; BLIP's text layers are shared by encoder and decoder
        assert len(result["groups"]) >= (2 if label == "BLIP pretraining" else 3)
        assert_same_state(result["loaded"], expected)
    assert_same_state(found["fsdp"][0]["state"], expected)
    assert_same_state(found["ddp"][1]["state"], expected)
    start = new_model(label).state_dict()
    online = {name for name in start if "vision_proj." in name}
    momentum = {name for name in start if "vision_proj_m." in name}
    assert bool(momentum) == hasattr(new_model(label), "queue_ptr")
    moving = online | momentum | {name for name in start if name.endswith("queue")}
    assert online and all(not torch.equal(start[name], expected[name]) for name in moving)


@pytest.mark.slow
@pytest.mark.parametrize("label", ["ALBEF", "BLIP pretraining"])
def test_a_checkpoint_of_fsdp2_is_resumed(tmp_path: Path, label: str) -> None:
    found = run(tmp_path, label, "fsdp", "resumed fsdp")
    assert_same_state(found["resumed fsdp"][0]["state"], found["fsdp"][0]["state"])


@pytest.mark.slow
def test_loading_in_one_process_does_not_lose_the_queue(tmp_path: Path) -> None:
    """accelerate sends parameters only. Where there are no buffers, it works."""
    for message in run(tmp_path, "ALBEF", "efficient loading")["efficient loading"]:
        assert "image_queue" in message and "cpu_ram_efficient_loading to False" in message
    assert run(tmp_path, "ALPRO", "efficient loading")["efficient loading"] == ["no error"] * 2


def test_prepare_for_fsdp_is_undone_by_the_first_forward_pass() -> None:
    model = CASES["LavisBlipForPreTraining"].model()
    embeddings = model.get_input_embeddings()
    assert prepare_for_fsdp(model) is model
    assert model.get_input_embeddings() is None and model.get_output_embeddings() is None
    assert model._no_split_modules == {"ViTBlock"}, "text layers are shared by encoder and decoder"
    hooks = len(model._forward_pre_hooks)
    model(**CASES["LavisBlipForPreTraining"].inputs(2))
    assert model.get_input_embeddings() is embeddings and len(model._forward_pre_hooks) == hooks - 1


@pytest.mark.slow
@pytest.mark.parametrize("label", ["ALBEF pretraining", "BLIP pretraining", "BLIP-2 stage 1"])
def test_shared_parameters_are_refused_otherwise(tmp_path: Path, label: str) -> None:
    """If this fails, `prepare_for_fsdp` is needed no longer."""
    for message in run(tmp_path, label, "unprepared")["unprepared"]:
        assert "shared with a parameter already managed by another FSDP group" in message
