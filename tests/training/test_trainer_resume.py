"""Stopping and resuming at any step gives the weights of a run without stop, bit for bit."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from tests.training.trainer_cases import (
    NoisyRows,
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
    "stream": ({"stream": True, "max_steps": 5}, [2, 4]),
    "stream and worker": ({"stream": True, "max_steps": 5, "dataloader_num_workers": 1}, [2]),
    "groups of lengths": ({"train_sampling_strategy": "group_by_length", "max_steps": 10}, [3, 8]),
    "adapters": ({"adapted": True}, [3, 9]),
    "momentum in every forward pass": ({"gradient_accumulation_steps": 2, "every_forward": True}, [1, 4, 6]),
}
FAST = {("one batch per step", 3), ("one batch per step", 8), ("accumulation with a remainder", 2)}


class Stream(torch.utils.data.IterableDataset):
    """Rows in an order that is drawn anew in every pass."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = NoisyRows(rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in torch.randperm(len(self.rows)).tolist():
            yield self.rows[index]


def trainer_of(goldens: Path, rows: Any, folder: Path, **options: Any) -> Any:
    every_forward, adapted = options.pop("every_forward", False), options.pop("adapted", False)
    model = retrieval_model(momentum_every_forward=every_forward)
    if adapted:
        peft = pytest.importorskip("peft")
        lora = peft.LoraConfig(target_modules=["query", "qkv"], lora_dropout=0.1, modules_to_save=["text_proj"])
        model = peft.get_peft_model(model, lora)
    if options.pop("stream", False):
        rows = Stream(rows)
    elif "train_sampling_strategy" in options:
        rows = datasets.Dataset.from_list([{**row, "length": index % 5} for index, row in enumerate(rows)])
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
    changed = {changed.removeprefix("base_model.model.") for changed in differing(before, expected)}
    assert {"image_queue", "text_proj_m.weight"} <= changed
