"""Two processes that train with LavisTrainer; `test_trainer_processes` starts them.

Arguments: folder of the goldens, folder of the run, runs by name.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing as mp

from tests.training.trainer_cases import retrieval_model, retrieval_trainer, state_of, write_rows

STEPS = 6


def train(name: str, goldens: Path, folder: Path) -> dict[str, Any]:
    number = dist.get_rank()
    rows = json.loads((folder / "rows.json").read_text())
    calls: list[int] = []
    own: list[tuple[int, float]] = []

    def evaluation(model: Any, processor: Any, rows: Any) -> dict[str, float]:
        calls.append(number)
        if name == "failing":
            raise ArithmeticError("no captions")
        return {"recall": len(calls) / 10}

    options: dict[str, Any] = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}
    trainer = retrieval_trainer(
        goldens,
        rows,
        folder / name.removeprefix("resumed "),
        retrieval_model(),
        evaluation=evaluation,
        eval_dataset=rows[:3],
        eval_strategy="steps",
        eval_steps=2,
        shared_evaluation=name == "shared",
        metric_for_best_model="recall",
        greater_is_better=True,
        ddp_backend="gloo",
        gradient_accumulation_steps=2,
        **options,
    )
    plain = trainer.compute_loss

    def compute_loss(*args: Any, **kwargs: Any) -> Any:
        loss, outputs = plain(*args, **{**kwargs, "return_outputs": True})
        own.append((trainer.state.global_step, outputs.loss_itm.item()))
        return loss

    trainer.compute_loss = compute_loss
    error = ""
    try:
        trainer.train(str(folder / "whole" / "checkpoint-4") if name.startswith("resumed") else None)
    except (ArithmeticError, RuntimeError) as found:
        error = f"{type(found).__name__}: {found}"
    return {
        "state": state_of(trainer.model),
        "log": trainer.state.log_history,
        "calls": len(calls),
        "own": own,
        "error": error,
        "best": trainer.state.best_model_checkpoint,
    }


def run(number: int, name: str, goldens: str, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store {name}", rank=number, world_size=2)
    torch.save(train(name, Path(goldens), Path(folder)), f"{folder}/{name}.{number}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    place = Path(sys.argv[2])
    (place / "rows.json").write_text(json.dumps(write_rows(place / "images", 16)))
    for wanted in sys.argv[3:]:
        mp.start_processes(run, (wanted, sys.argv[1], sys.argv[2]), nprocs=2, start_method="fork")
