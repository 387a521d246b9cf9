"""Processes that train with transformers' Trainer, and one process with the batches of all; `test_ddp` starts them.

One launcher imports everything, then forks the processes, with the environment that torchrun sets.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch import multiprocessing as mp
from transformers import Trainer, TrainingArguments

from modeling_lavis.models import task_retrieval
from tests.models.contract import Case
from tests.models.distributed_worker import CASES, RUNS, deterministic, enqueue_alone, losses_alone

#: Runs whose loss is that of one process with the batches of all, with plain calls of the model. What makes it so:
#: `use_momentum=False`, because a queue's candidates come in addition to the process's own batch (as in the originals),
#: where heads without a queue contrast the batches of all processes; `negative_all_rank=True` for BLIP, which BLIP-2
#: always does; and for ALBEF and ALPRO, whose hard negatives come from the process's own rows by definition, draws from
#: the same rows in the one process.
PLAIN = {
    "ALBEF without momentum": "own rows",
    "BLIP without momentum": "all rows",
    "BLIP-2 stage 1": "all rows",
    "BLIP-2 retrieval": "all rows",
    "ALPRO": "own rows",
}
#: Runs with a queue. The one process computes each part of the loss by definition: over the rows of all processes, or
#: as the mean over the processes' own.
WITH_QUEUE = ("ALBEF retrieval", "ALBEF pretraining", "BLIP retrieval", "BLIP, local negatives", "BLIP pretraining")
LABELS = (*PLAIN, *WITH_QUEUE)
ROWS_PER_PROCESS, STEPS, ACCUMULATION = 2, 3, (1, 2)


class Rows(torch.utils.data.Dataset):
    """Different images in float64, with texts of equal length, so that means over tokens are means over rows."""

    def __init__(self, case: Case, count: int) -> None:
        self.columns = {**case.inputs(count, padded=False), "image_ids": torch.arange(count)}
        pixels = self.columns[case.pixel_name]
        generator = torch.Generator().manual_seed(1)
        self.columns[case.pixel_name] = torch.randn(pixels.shape, generator=generator, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.columns["image_ids"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[index] for name, column in self.columns.items()}


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {**{name: torch.stack([row[name] for row in rows]) for name in rows[0]}, "return_loss": True}


class DefinitionTrainer(Trainer):
    """A Trainer of one process, whose batch has the rows of several processes one after the other."""

    case: Case
    whole_parts: frozenset[str]

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **keywords: Any) -> Any:
        head: Any = model
        count = len(inputs["input_ids"]) // ROWS_PER_PROCESS
        parts = [
            {name: value.chunk(count)[number] if isinstance(value, Tensor) else value for name, value in inputs.items()}
            for number in range(count)
        ]
        loss = sum(losses_alone(head, parts, self.whole_parts).values())
        enqueue_alone(head, self.case, parts)
        head.update_is_due = True
        return loss


def negatives_of_own_rows(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Replacement of `draw_negatives` in one process: the most probable among the rows of one process."""
    owner = torch.arange(weights.shape[1]) // ROWS_PER_PROCESS
    return weights.masked_fill(owner[: len(weights), None] != owner, -1.0).argmax(dim=1)


@contextmanager
def draws(label: str, alone: bool) -> Iterator[None]:
    """Negatives and masks without chance."""
    with ExitStack() as stack:
        stack.enter_context(deterministic())
        if alone and PLAIN.get(label) == "own rows":
            stack.enter_context(mock.patch.object(task_retrieval, "draw_negatives", negatives_of_own_rows))
        yield


def train(label: str, processes: int, accumulation: int, alone: bool, folder: str) -> dict[str, Any]:
    """Losses, gradient norms and the final state; `alone` is one process with the batches of `processes`."""
    name, options, whole_parts = RUNS[label]
    case = CASES[name]
    model = case.model(**options).double()
    start = {key: value.clone() for key, value in model.state_dict().items()}
    trainer_class = DefinitionTrainer if alone and label in WITH_QUEUE else Trainer
    trainer = trainer_class(
        model,
        TrainingArguments(
            folder,
            per_device_train_batch_size=ROWS_PER_PROCESS * (processes if alone else 1),
            gradient_accumulation_steps=accumulation,
            num_train_epochs=1,
            learning_rate=1e-3,
            adam_epsilon=1e-3,  # rounding errors of gradients near zero would decide about the sign of a step
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            remove_unused_columns=False,
            disable_tqdm=True,
        ),
        collate,
        train_dataset=Rows(case, ROWS_PER_PROCESS * processes * accumulation * STEPS),
    )
    if isinstance(trainer, DefinitionTrainer):
        trainer.case, trainer.whole_parts = case, whole_parts
    with draws(label, alone):
        trainer.train()
    wrapper = type(trainer.model_wrapped).__name__
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        "wrapper": wrapper,
        "world": trainer.args.world_size,
        "losses": [entry["loss"] for entry in logs],
        "norms": [entry["grad_norm"] for entry in logs],
        "start": start,
        "state": {key: value.clone() for key, value in model.state_dict().items()},
    }


def run(number: int, processes: int, world: int, labels: list[str], folder: str) -> None:
    """One of `world` processes, 1 or `processes`; all runs, saved to `{folder}/{world}.{number}.pt`."""
    torch.set_num_threads(1)
    if world > 1:
        torchrun = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ.update({key: str(value) for key, value in torchrun.items()}, MASTER_ADDR="127.0.0.1")
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=world)
    found = {
        (label, accumulation): train(label, processes, accumulation, world == 1, folder)
        for label in labels
        for accumulation in ACCUMULATION
    }
    torch.save(found, Path(folder) / f"{world}.{number}.pt")
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    # `ddp_worker FOLDER PROCESSES LABEL...`
    place, wanted, *chosen = sys.argv[1:]
    for size in (1, int(wanted)):
        mp.start_processes(run, (int(wanted), size, chosen, place), nprocs=size, start_method="fork")
