"""Stopping and resuming at any step gives the weights of a run without stop, bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.trainer_cases import (
    differing,
    retrieval_model,
    retrieval_trainer,
    state_of,
    write_rows,
)

pytest.importorskip("accelerate", reason="the Trainer needs the extra [train]")

# 14 rows, batches of 2: seven batches per epoch
CASES: dict[str, tuple[dict[str, Any], list[int]]] = {
    "one batch per step": ({}, [1, 3, 6, 7, 8, 13]),
    "accumulation with a remainder": ({"gradient_accumulation_steps": 3}, [1, 2, 3, 4, 5]),
    "workers": ({"dataloader_num_workers": 2}, [3, 7, 9]),
    "persistent workers": ({"dataloader_num_workers": 2, "dataloader_persistent_workers": True}, [3, 7, 9]),
    "momentum in every forward pass": ({"gradient_accumulation_steps": 2, "every_forward": True}, [1, 4, 6]),
}
FAST = {("one batch per step", 3), ("one batch per step", 8), ("accumulation with a remainder", 2)}


def trainer_of(goldens: Path, rows: Any, folder: Path, **options: Any) -> Any:
    every_forward = options.pop("every_forward", False)
    model = retrieval_model(momentum_every_forward=every_forward)
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None, **options}
    return retrieval_trainer(goldens, rows, folder, model, ramp_epochs=1.5, **options)


@pytest.fixture(scope="module")
def undisturbed(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Final weights and checkpoints of runs without stop, made once each."""
    made: dict[str, Any] = {}

    def run(name: str) -> Any:
        if name not in made:
            folder = tmp_path_factory.mktemp("undisturbed")
            rows = write_rows(folder / "images")
            trainer = trainer_of(goldens, rows, folder / "run", **CASES[name][0])
            trainer.train()
            made[name] = (rows, folder / "run", state_of(trainer.model))
        return made[name]

    return run


@pytest.mark.parametrize(
    ("name", "step"),
    [
        pytest.param(name, step, marks=[] if (name, step) in FAST else [pytest.mark.slow])
        for name, (_, steps) in CASES.items()
        for step in steps
    ],
)
def test_resuming_at_a_step(name: str, step: int, undisturbed: Any, goldens: Path, tmp_path: Path) -> None:
    rows, run, expected = undisturbed(name)
    shutil.copytree(run / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    trainer = trainer_of(goldens, rows, tmp_path, **CASES[name][0])
    before = state_of(trainer.model)
    torch.manual_seed(77)  # whatever was drawn before
    trainer.train(resume_from_checkpoint=True)
    assert differing(state_of(trainer.model), expected) == []
    assert {"image_queue", "queue_ptr", "vision_proj_m.weight"} <= set(differing(before, expected))
