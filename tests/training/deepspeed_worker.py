"""Two processes that train with transformers' Trainer, by DDP and by DeepSpeed; `test_deepspeed` starts them."""

import os
import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from transformers import Trainer, TrainingArguments

from tests.training.fsdp_worker import CASES, RUNS, STEPS, Rows, collate, deterministic

# Compiling DeepSpeed's own communication between processes of a CPU takes minutes; without it, gloo is used.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def arguments(folder: str, stage: int | None, **options: Any) -> TrainingArguments:
    """Arguments of a run; DDP without a stage."""
    config = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage},
    }
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=2,
        max_steps=STEPS,
        report_to=[],
        use_cpu=True,
        save_steps=2,
        logging_steps=1,
        remove_unused_columns=False,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        disable_tqdm=True,
        adam_epsilon=1e-3,  # rounding errors of gradients near zero would decide about the sign of a step
        max_grad_norm=1.0,
        **options,
        **({} if stage is None else {"deepspeed": config}),
    )


def train(label: str, mode: str, folder: str) -> dict[str, Any]:
    """
    Train, and return losses, the final state and what is loaded from the saved model. `mode` is `ddp` or a stage, and
    words after it: `resumed` (from the second step of the run without that word), `accumulated`, `bf16`.
    """
    name, options = RUNS[label]
    kind, *words = mode.split()
    place = f"{folder}/{' '.join(word for word in mode.split() if word != 'resumed')}"
    accumulated = 2 if "accumulated" in words else 1
    args = arguments(
        place, None if kind == "ddp" else int(kind), bf16="bf16" in words, gradient_accumulation_steps=accumulated
    )
    model = CASES[name].model(**options)
    trainer = Trainer(model, args, collate, train_dataset=Rows(CASES[name], torch.float32))
    trainer.train(resume_from_checkpoint=f"{place}/checkpoint-2" if "resumed" in words else None)
    trainer.save_model(f"{folder}/{mode} saved")
    dist.barrier()
    return {
        "losses": torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]),
        "state": trainer.model.state_dict(),
        "loaded": type(model).from_pretrained(f"{folder}/{mode} saved").state_dict(),
        "engine": type(trainer.model_wrapped).__name__,
    }


def error_of(label: str, folder: str, model_first: bool) -> str:
    """The error of stage 3, for a model that is made before or after DeepSpeed's configuration is known."""
    name, options = RUNS[label]
    try:
        model = CASES[name].model(**options) if model_first else None
        args = arguments(folder, 3)
        Trainer(
            model or CASES[name].model(**options), args, collate, train_dataset=Rows(CASES[name], torch.float32)
        ).train()
    except ValueError as error:
        return str(error)
    return "no error"


def run(number: int, label: str, mode: str, folder: str) -> None:
    """One process of one run, saved to `{folder}/{mode}.{number}.pt`."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store {mode}", rank=number, world_size=2)
    deepspeed.init_distributed("gloo")  # takes over the process group
    with deterministic():
        if mode.startswith("refused"):
            found: Any = error_of(label, f"{folder}/{mode}", mode == "refused model first")
        else:
            found = train(label, mode, folder)
    torch.save(found, f"{folder}/{mode}.{number}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    # `deepspeed_worker FOLDER LABEL=MODE,MODE...`
    for argument in sys.argv[2:]:
        chosen, _, modes = argument.partition("=")
        target = Path(sys.argv[1]) / chosen
        target.mkdir()
        for wanted in modes.split(","):
            mp.start_processes(run, (chosen, wanted, str(target)), nprocs=2, start_method="fork")
