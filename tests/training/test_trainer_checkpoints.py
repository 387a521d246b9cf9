"""Checkpoints are whole or not there: folders, deletion, recovery after a crash, and uploads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerState

from modeling_lavis import LavisBlipForImageTextRetrieval
from modeling_lavis.training import checkpoints, last_checkpoint
from tests.training.trainer_cases import differing, retrieval_trainer, state_of, write_rows

pytest.importorskip("accelerate", reason="the Trainer needs the extra [train]")


def checkpoint(folder: Path, step: int, text: str = "{}") -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text("weights")
    (path / "trainer_state.json").write_text(text)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_whole_checkpoint(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "none") is None and last_checkpoint(tmp_path) is None
    whole = checkpoint(tmp_path, 9)
    checkpoint(tmp_path, 3)
    checkpoint(tmp_path, 100, text='{"global_step": 1')  # as a killed Trainer of transformers leaves it
    (checkpoint(tmp_path, 101) / "model.safetensors").unlink()
    (checkpoint(tmp_path, 102) / "trainer_state.json").unlink()
    checkpoint(tmp_path / "_partial-checkpoint-103", 103)
    assert last_checkpoint(tmp_path) == str(whole)


def test_publishing_replaces(tmp_path: Path) -> None:
    old, new = checkpoint(tmp_path, 3, "old"), checkpoint(tmp_path / "_partial-checkpoint-3", 3, "new")
    checkpoints.publish(new, old)
    assert (old / "trainer_state.json").read_text() == "new"
    checkpoints.publish(new, old)  # another process was faster
    assert names(tmp_path) == ["_partial-checkpoint-3", "checkpoint-3"]


def test_the_oldest_checkpoints_are_deleted(tmp_path: Path) -> None:
    for step in (10, 9, 100, 2):
        checkpoint(tmp_path, step)
    checkpoints.rotate(tmp_path, None)
    checkpoints.rotate(tmp_path, 0)
    assert len(names(tmp_path)) == 4
    checkpoints.rotate(tmp_path, 3)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-100", "checkpoint-9"]
    checkpoints.rotate(tmp_path, 1, best=tmp_path / "checkpoint-9")
    assert names(tmp_path) == ["checkpoint-100", "checkpoint-9"]
    checkpoints.rotate(tmp_path, 1)
    assert names(tmp_path) == ["checkpoint-100"]
    checkpoints.rotate(tmp_path / "none", 1)


def test_recovery(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path, 1, "whole")
    checkpoint(tmp_path / "_partial-checkpoint-2", 2)
    checkpoint(tmp_path, 3, "old").rename(tmp_path / "_replaced-checkpoint-3")
    checkpoint(tmp_path, 1_0, "old").rename(tmp_path / "_replaced-checkpoint-1")
    checkpoint(tmp_path, 4).rename(tmp_path / "_removed-checkpoint-4")
    for other in ("_partial-model", "_partial-mine", "_removed-photos", "_notes"):
        (tmp_path / other).mkdir()
    checkpoints.recover(tmp_path)
    assert names(tmp_path) == ["_notes", "_partial-mine", "_removed-photos", "checkpoint-1", "checkpoint-3"]
    assert (whole / "trainer_state.json").read_text() == "whole"
    checkpoints.recover(tmp_path / "none")


@pytest.mark.parametrize(
    "part", ["optimizer", *(pytest.param(part, marks=pytest.mark.slow) for part in ("weights", "generators", "state"))]
)
def test_a_crash_in_the_middle_of_a_checkpoint(
    part: str, goldens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is not there, and the run goes on from the one before."""
    rows = write_rows(tmp_path / "images", 8)
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "num_train_epochs": 1}
    run = tmp_path / "run"
    trainer = retrieval_trainer(goldens, rows, run, **options)
    method = {
        "weights": "_save",
        "optimizer": "_save_optimizer_and_scheduler",
        "generators": "_save_rng_state",
        "state": "save_to_json",
    }[part]
    owner = TrainerState if part == "state" else Trainer
    plain = getattr(owner, method)

    def crash(self: Any, *args: Any, **kwargs: Any) -> None:
        if getattr(self, "state", self).global_step == 3:
            if part == "state":
                Path(args[0]).write_text('{"global_')
            raise MemoryError(part)
        plain(self, *args, **kwargs)

    monkeypatch.setattr(owner, method, crash)
    with pytest.raises(MemoryError):
        trainer.train()
    monkeypatch.undo()
    assert [name for name in names(run) if name.startswith("checkpoint")] == ["checkpoint-2"]
    resumed = retrieval_trainer(goldens, rows, run, **options)
    resumed.train(resume_from_checkpoint=True)
    assert names(run) == ["checkpoint-4"] and resumed.state.global_step == 4


def test_resuming_needs_a_whole_checkpoint(goldens: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "images", 4)
    (checkpoint(tmp_path / "run", 5) / "trainer_state.json").unlink()
    trainer = retrieval_trainer(goldens, rows, tmp_path / "run")
    with pytest.raises(ValueError, match="There is no whole checkpoint in"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_uploads_and_the_best_checkpoint_have_final_names(
    goldens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(tmp_path / "images", 8)
    pushed: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        Trainer,
        "_push_from_checkpoint",
        lambda self, path: pushed.append((path, Path(path, "trainer_state.json").exists())),
    )
    values = iter([0.1, 0.4, 0.2])
    trainer = retrieval_trainer(
        goldens,
        rows,
        tmp_path / "run",
        evaluation=lambda *_: {"recall": next(values)},
        eval_dataset=rows,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        metric_for_best_model="recall",
        greater_is_better=True,
        load_best_model_at_end=True,
    )
    trainer.args.push_to_hub = True
    monkeypatch.setattr(Trainer, "_finish_current_push", lambda self: None)
    trainer.train()
    assert pushed == [(str(tmp_path / "run" / f"checkpoint-{step}"), True) for step in (1, 2, 3)]
    assert names(tmp_path / "run") == ["checkpoint-2", "checkpoint-3"]
    for step in (2, 3):
        state = json.loads((tmp_path / "run" / f"checkpoint-{step}" / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == str(tmp_path / "run" / "checkpoint-2")


@pytest.mark.parametrize("greater_is_better", [True, False])
def test_of_equal_metrics_the_later_checkpoint_is_the_best(
    goldens: Path, tmp_path: Path, greater_is_better: bool
) -> None:
    """A metric of whole captions is 0 for many epochs; the model of the first of them is almost untrained."""
    rows = write_rows(tmp_path / "images", 4)
    worse = -1.0 if greater_is_better else 1.0
    values = iter([worse, 0.0, 0.0, worse])
    trainer = retrieval_trainer(
        goldens,
        rows,
        tmp_path / "run",
        evaluation=lambda *_: {"recall": next(values)},
        eval_dataset=rows,
        max_steps=4,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        metric_for_best_model="recall",
        greater_is_better=greater_is_better,
        load_best_model_at_end=True,
    )
    trainer.train()
    best = tmp_path / "run" / "checkpoint-3"
    assert trainer.state.best_global_step == 3 and trainer.state.best_model_checkpoint == str(best)
    assert differing(state_of(LavisBlipForImageTextRetrieval.from_pretrained(best)), state_of(trainer.model)) == []


def test_the_saved_model_is_whole(goldens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_rows(tmp_path / "images", 4)
    trainer = retrieval_trainer(goldens, rows, tmp_path / "run")
    trainer.save_model()
    saved = names(tmp_path / "run")
    assert {"model.safetensors", "config.json", "training_args.bin", "processor_config.json"} <= set(saved)
    loaded = LavisBlipForImageTextRetrieval.from_pretrained(tmp_path / "run")
    assert differing(state_of(loaded), state_of(trainer.model)) == []
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with torch.no_grad():
        trainer.model.vision_proj.weight.zero_()
    monkeypatch.setattr(Trainer, "_save", _half)
    with pytest.raises(OSError, match="disk full"):
        trainer.save_model()
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def _half(self: Any, output_dir: str, state_dict: Any = None) -> None:
    Path(output_dir).mkdir(exist_ok=True)
    Path(output_dir, "model.safetensors").write_text("half")
    raise OSError("disk full")
