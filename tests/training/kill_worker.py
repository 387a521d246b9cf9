"""Trains in child processes that are killed at random moments, then to the end; run by test_trainer_kill.py.

Arguments: folder of the goldens, folder for the run, number of kills, seed of the moments.
"""

import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.utils import logging

from modeling_lavis.training import last_checkpoint
from tests.kills import fork, status_of
from tests.training.trainer_cases import retrieval_trainer, state_of, write_rows


class Tell(TrainerCallback):
    """Writes a byte to a pipe at the beginning of each step."""

    def __init__(self, pipe: int | None) -> None:
        self.pipe = pipe

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        if self.pipe is not None:
            os.write(self.pipe, b"s")


def train(goldens: Path, folder: Path, epochs: int, pipe: int | None = None, **options: Any) -> Any:
    rows = write_rows(folder.parent / "images") if pipe is None else json.loads((folder.parent / "rows").read_text())
    options = {"num_train_epochs": epochs, "gradient_accumulation_steps": 1, "logging_steps": 10, **options}
    trainer = retrieval_trainer(goldens, rows, folder, callbacks=[Tell(pipe)], **options)
    trainer.train(last_checkpoint(folder))
    return trainer


def in_child(
    goldens: Path, folder: Path, epochs: int, moments: random.Random | None, while_writing: bool = False
) -> bool:
    """
    Train in a child process, which is killed within two steps if there are moments; whether it ended by itself. With
    `while_writing`, it is killed once a checkpoint is being written: on a busy machine, random moments seldom find one.
    """
    reading, writing = os.pipe()

    def work() -> None:
        options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
        trainer = train(goldens, folder, epochs, writing, **options)
        torch.save(state_of(trainer.model), folder.parent / "killed.pt")

    child = fork(work)
    os.close(writing)
    if moments is not None:
        for _ in range(moments.randint(1, 2)):
            select.select([reading], [], [], 60)
            os.read(reading, 1)
        if while_writing:
            deadline = time.monotonic() + 60
            while not has_half(folder) and time.monotonic() < deadline:
                time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.005 if while_writing else 0.12))
        os.kill(child, signal.SIGKILL)
    else:
        while os.read(reading, 4096):
            pass
    os.close(reading)
    status = status_of(child)
    if status:
        raise SystemExit(f"the training failed with status {status}")
    return status == 0


def has_half(run: Path) -> bool:
    """Whether there is a checkpoint that is not whole."""
    return run.exists() and any(path.name.startswith("_") for path in run.iterdir())


def main(goldens: Path, folder: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    epochs = -(-kills * 4 // 7) + 1
    run, moments = folder / "killed", random.Random(seed)
    undisturbed = train(goldens, folder / "undisturbed", epochs)
    torch.save(state_of(undisturbed.model), folder / "undisturbed.pt")
    (folder / "rows").write_text(json.dumps(write_rows(folder / "images")))
    killed, halves = 0, 0
    for number in range(kills):
        if in_child(goldens, run, epochs, moments, while_writing=number % 3 == 2):
            break
        killed += 1
        halves += has_half(run)
    in_child(goldens, run, epochs, None)
    left = sorted(path.name for path in run.iterdir())
    (folder / "report.json").write_text(json.dumps({"killed": killed, "halves": halves, "left": left}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
