# SPDX-License-Identifier: Apache-2.0
"""Steps of a Trainer's own loop, one per call, and how much of each is forward, backward and optimizer."""

import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from benchmarks.workloads.base import Tensors

#: more steps than are ever measured
MANY = 100_000


class TrainerSteps(TrainerCallback):
    """
    Runs `train()` in a thread, which waits at the end of every step for the next call.

    A call covers one round of the loop: log of the last step, batch, forward, backward, optimizer, callbacks.

    Args:
        make_trainer: function from callbacks to a Trainer, which is not to stop by itself.
        outputs: further outputs of each call.
    """

    def __init__(self, make_trainer: Callable[[list[TrainerCallback]], Any], outputs: Tensors | None = None) -> None:
        self._outputs = outputs or {}
        self._inside = {"forward": 0.0, "backward": 0.0, "optimizer": 0.0}
        self._start, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._trainer = make_trainer([self])
        self._thread = threading.Thread(target=self._train, daemon=True)

    def __call__(self) -> Tensors:
        """Make a step; its seconds in each part are among the outputs."""
        if not self._thread.is_alive() and self._error is None:
            self._thread.start()
        else:
            self._start.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error
        seconds = {f"seconds_{name}": torch.tensor(value) for name, value in self._inside.items()}
        self._inside = dict.fromkeys(self._inside, 0.0)
        return {**self._outputs, **seconds}

    def _train(self) -> None:
        try:
            self._trainer.train()
            raise RuntimeError("The training ended by itself; expected more steps.")
        except BaseException as error:
            self._error = error
            self._done.release()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the parts of a step from here on."""
        begun: list[float] = []
        kwargs["model"].register_forward_pre_hook(lambda *_: begun.append(time.perf_counter()))
        kwargs["model"].register_forward_hook(lambda *_: self._add("forward", begun.pop()))
        for owner, name, part in (
            (self._trainer.accelerator, "backward", "backward"),
            (self._trainer.optimizer, "step", "optimizer"),
        ):
            setattr(owner, name, self._timed(getattr(owner, name), part))

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self._add(part, start)
            return result

        return call

    def _add(self, part: str, start: float) -> None:
        self._inside[part] += time.perf_counter() - start

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait for the next call."""
        self._done.release()
        self._start.acquire()


def training_arguments(folder: str, **options: Any) -> TrainingArguments:
    """Arguments of a measured training: on the CPU, AdamW as in LAVIS's runs, nothing saved."""
    return TrainingArguments(
        **{
            "output_dir": folder,
            "max_steps": MANY,
            "learning_rate": 1e-5,
            "weight_decay": 0.02,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "logging_steps": 10,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            **options,
        }
    )
