"""FSDP2 under transformers' Trainer, with two processes, against DDP."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_lavis.models import distributed
from tests.training.fsdp_worker import CASES, RUNS, new_model

#: labels of heads whose text layers are shared by encoder and decoder, and stay in the group of the whole model
SHARED_LAYERS = ("BLIP pretraining",)


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


@pytest.mark.slow
@pytest.mark.parametrize("label", RUNS)
def test_fsdp2_gives_the_weights_of_ddp(tmp_path: Path, label: str) -> None:
    """Also momentum weights, queues and their pointer; what is saved loads without processes."""
    found = run(tmp_path, label, "ddp", "fsdp")
    expected = found["ddp"][0]["state"]
    for result in found["fsdp"]:
        # the model and the layers of both encoders
        assert len(result["groups"]) >= (2 if label in SHARED_LAYERS else 3)
        assert_same_state(result["loaded"], expected)
    assert_same_state(found["fsdp"][0]["state"], expected)
    assert_same_state(found["ddp"][1]["state"], expected)
    torch.testing.assert_close(found["fsdp"][0]["losses"], found["ddp"][0]["losses"])
    start = new_model(label).state_dict()
    online = {name for name in start if "vision_proj." in name or name.startswith(("vision_model.", "qformer."))}
    online = {name for name in online if name in expected and not torch.equal(start[name], expected[name])}
    momentum = {name for name in start if "vision_proj_m." in name or name == "vision_model_m.blocks.0.mlp.fc1.weight"}
    assert bool(momentum) == hasattr(new_model(label), "momentum_pairs")
    moving = online | momentum | {name for name in start if name.endswith("queue")}
    assert online and all(not torch.equal(start[name], expected[name]) for name in moving)


@pytest.mark.slow
@pytest.mark.parametrize("label", ["ALBEF", "BLIP pretraining"])
@pytest.mark.parametrize("kind", ["fsdp", "fsdp sharded"])
def test_a_checkpoint_of_fsdp2_is_resumed(tmp_path: Path, label: str, kind: str) -> None:
    """Of full and of sharded state dicts."""
    found = run(tmp_path, label, kind, f"{kind} resumed")
    first, second = found[kind][0], found[f"{kind} resumed"][0]
    assert torch.equal(first["losses"], second["losses"])
    assert_same_state(second["state"], first["state"])
    of_each_process = {f"checkpoint-2/pytorch_model_fsdp_0/__{number}_0.distcp" for number in range(2)}
    assert (kind == "fsdp sharded") == of_each_process.issubset(found[kind][0]["files"])


@pytest.mark.slow
def test_activation_checkpointing_changes_nothing(tmp_path: Path) -> None:
    found = run(tmp_path, "ALBEF", "ddp", "fsdp checkpointing")
    assert "FSDPCheckpointWrapper" in found["fsdp checkpointing"][0]["groups"]
    assert_same_state(found["fsdp checkpointing"][0]["state"], found["ddp"][0]["state"])


@pytest.mark.slow
def test_adapters_of_peft_under_fsdp2(tmp_path: Path) -> None:
    """Momentum encoders follow the adapted weights."""
    found = run(tmp_path, "ALBEF", "ddp adapted", "fsdp adapted")
    assert_same_state(found["fsdp adapted"][0]["state"], found["ddp adapted"][0]["state"])


@pytest.mark.slow
@pytest.mark.parametrize("label", ["ALBEF", "BLIP-2 stage 1"])
def test_bfloat16_under_fsdp2(tmp_path: Path, label: str) -> None:
    """Weights and momentum encoders stay in float32, all else equals DDP with autocast to bfloat16's precision."""
    found = run(tmp_path, label, "ddp bf16", "fsdp bf16")
    result, expected = found["fsdp bf16"][0], found["ddp bf16"][0]
    torch.testing.assert_close(result["losses"], expected["losses"], rtol=0.01, atol=0)
    start = new_model(label).state_dict()
    # Weights, momentum weights and queues as wholes: single small gradients are noise in bfloat16, under DDP, too.
    differences: dict[str, list[torch.Tensor]] = {}
    for name, value in expected["state"].items():
        assert result["state"][name].dtype == value.dtype, name
        if value.is_floating_point():
            kind = "queue" if name.endswith("queue") else "momentum" if "_m." in name else "weights"
            pair = torch.stack([result["state"][name].reshape(value.shape) - value, value - start[name].float()])
            differences.setdefault(kind, []).append(pair.reshape(2, -1))
    assert differences.keys() == ({"queue", "momentum", "weights"} if label == "ALBEF" else {"weights"})
    for kind, pairs in differences.items():
        difference, moved = torch.cat(pairs, dim=1).norm(dim=1)
        assert 0 < difference <= 0.3 * moved, f"{kind}: {difference} of {moved}"


@pytest.mark.slow
def test_loading_in_one_process_does_not_lose_the_queue(tmp_path: Path) -> None:
    """accelerate sends parameters only. Where there are no buffers, it works."""
    for message in run(tmp_path, "ALBEF", "efficient loading")["efficient loading"]:
        assert "image_queue" in message and "cpu_ram_efficient_loading to False" in message
    assert run(tmp_path, "ALPRO", "efficient loading")["efficient loading"] == ["no error"] * 2


def test_shared_parameters_stay_in_the_group_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only while accelerate shards: until the first forward pass, and only what is shared."""
    case = CASES["LavisBlipForPreTraining"]
    model = case.model()
    assert model._no_split_modules == {"ViTBlock", "BertLayer"}, "for placement on devices"
    embeddings, hooks = model.get_input_embeddings(), len(model._forward_pre_hooks)
    monkeypatch.setattr(distributed, "is_sharded_by_fsdp2", lambda: True)
    for _ in range(2):
        assert model._no_split_modules == {"ViTBlock"}, "text layers are shared by encoder and decoder"
        assert model.get_input_embeddings() is None and model.get_output_embeddings() is None
    model(**case.inputs(2))
    assert model.get_input_embeddings() is embeddings and len(model._forward_pre_hooks) == hooks
    model = CASES["LavisBlipForImageTextRetrieval"].model()
    assert model._no_split_modules == {"ViTBlock", "BertLayer"}
    assert model.get_input_embeddings() is model.text_encoder.embeddings.word_embeddings, "not tied to anything"
    model = CASES["AlbefForPreTraining"].model()
    assert model._no_split_modules == {"ViTBlock", "BertLayer"} and model.get_input_embeddings() is None
    assert type(model)._no_split_modules is None


def test_models_of_other_processes_are_not_sharded() -> None:
    assert not distributed.is_sharded_by_fsdp2()
