"""DeepSpeed under transformers' Trainer, with two processes on a CPU, against DDP; where it is installed."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments
from transformers.integrations import deepspeed as integration

from modeling_lavis.models import distributed, momentum
from tests.models.albef_cases import RETRIEVAL
from tests.models.alpro_cases import CASES as ALPRO_CASES
from tests.training.test_momentum_update import OptimizerOfCopies, Rows, collate

LABELS = ("ALBEF", "BLIP", "BLIP-2 stage 1", "ALPRO", "ALBEF pretraining", "BLIP pretraining")
installed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra `deepspeed`")


def run(folder: Path, label: str, *modes: str) -> dict[str, list[Any]]:
    """What each of the two processes found, by mode."""
    command = [sys.executable, "-m", "tests.training.deepspeed_worker", str(folder), f"{label}={','.join(modes)}"]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, timeout=500, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return {mode: [torch.load(folder / label / f"{mode}.{number}.pt") for number in range(2)] for mode in modes}


def assert_equal(result: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(result["losses"], expected["losses"], atol=tolerance, rtol=tolerance)
    for found in (result["state"], result["loaded"]):
        assert found.keys() == expected["state"].keys()
        for name, value in expected["state"].items():
            torch.testing.assert_close(
                found[name].to(value.dtype), value, atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
            )


@installed
@pytest.mark.slow
@pytest.mark.parametrize("label", LABELS)
def test_zero_gives_the_weights_of_ddp(tmp_path: Path, label: str) -> None:
    """Losses, weights, momentum encoders and queues, also after saving, loading and resuming."""
    modes = ("ddp", "0", "1", "2", "2 resumed")
    found = run(tmp_path, label, *modes)
    expected = found["ddp"][0]
    for mode in modes[1:]:
        for result in found[mode]:
            assert result["engine"] == "DeepSpeedEngine"
            assert_equal(result, expected)


@installed
@pytest.mark.slow
def test_zero_accumulates_gradients_and_computes_in_bfloat16(tmp_path: Path) -> None:
    found = run(tmp_path, "ALBEF", "ddp", "ddp accumulated", "2 accumulated", "0 bf16", "2 bf16")
    assert_equal(found["2 accumulated"][0], found["ddp accumulated"][0])
    for mode in ("0 bf16", "2 bf16"):
        # weights are stored in bfloat16 between steps, unlike with autocast
        torch.testing.assert_close(found[mode][0]["losses"], found["ddp"][0]["losses"], rtol=0.05, atol=0)


@installed
@pytest.mark.slow
@pytest.mark.parametrize("label", ["ALBEF", "BLIP-2 stage 1"])
def test_stage_3_is_refused(tmp_path: Path, label: str) -> None:
    for messages in run(tmp_path, label, "refused", "refused model first").values():
        assert all("ZeRO stage 3" in message and "to 2" in message for message in messages)


# ---- without DeepSpeed ----


def test_stage_3_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A partitioned model when it is put into training mode, and every new model under such a configuration."""
    for case in (RETRIEVAL, ALPRO_CASES[0]):
        model = case.model()
        for weight in model.parameters():
            weight.ds_id = 0
        with pytest.raises(ValueError, match=f"{case.name} does not run under DeepSpeed's ZeRO stage 3"):
            model.train()
        model.eval()
    monkeypatch.setattr(distributed, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match=r"shard parameters by FSDP2 \(TrainingArguments\(fsdp=True\)\)"):
        RETRIEVAL.model_class(RETRIEVAL.config())


@pytest.mark.parametrize("accumulated", [1, 2])
def test_momentum_encoders_follow_an_optimizer_of_copies(
    tmp_path: Path, accumulated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a callback, in a process that DeepSpeed's configuration was given to."""
    states = []
    for of_copies in (False, True):
        torch.manual_seed(0)
        model = RETRIEVAL.model()
        arguments = TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=accumulated,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            remove_unused_columns=False,
            max_grad_norm=0.0,
            num_train_epochs=1,
            lr_scheduler_type="constant",
        )
        parameters = [value for value in model.parameters() if value.requires_grad]
        optimizer = OptimizerOfCopies(parameters, 0.05) if of_copies else torch.optim.SGD(parameters, 0.05)
        trainer = Trainer(model, arguments, collate, train_dataset=Rows(RETRIEVAL), optimizers=(optimizer, None))
        if of_copies:
            monkeypatch.setattr(momentum, "is_trained_by_deepspeed", lambda head: True)
        trainer.train()
        states.append(model.state_dict())
        again = model.state_dict()
        assert all(torch.equal(again[name], value) for name, value in states[-1].items()), "one update per step"
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, msg=lambda m, n=name: f"{n}: {m}")


def test_deepspeed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = RETRIEVAL.model()
    assert not distributed.is_trained_by_deepspeed(model)
    model.temp._hp_mapping = None
    assert distributed.is_trained_by_deepspeed(model)
    del model.temp._hp_mapping
    monkeypatch.setattr(integration, "_hf_deepspeed_config_weak_ref", lambda: type("Config", (), {"config": {}})())
    assert distributed.is_trained_by_deepspeed(model)
