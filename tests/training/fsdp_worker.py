"""Two processes that train with transformers' Trainer, by DDP and by FSDP2; `test_fsdp` starts them.

The launcher imports everything, then forks the processes of one run after the other. accelerate shards on accelerators
only; here it takes the CPU for one.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch import distributed as dist
from torch import multiprocessing as mp
from transformers import Trainer, TrainingArguments

from modeling_lavis.training import MomentumUpdate, prepare_for_fsdp
from tests.models.contract import Case
from tests.models.distributed_worker import CASES, deterministic

#: label -> class, options, whether `prepare_for_fsdp` is called first
RUNS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "ALBEF": ("AlbefForImageTextRetrieval", {}, False),
    "BLIP": ("LavisBlipForImageTextRetrieval", {"negative_all_rank": True}, False),
    "BLIP-2": ("LavisBlip2ForImageTextRetrieval", {}, False),
    "ALPRO": ("AlproForVideoTextRetrieval", {}, False),
    "ALBEF pretraining": ("AlbefForPreTraining", {}, True),
    "BLIP pretraining": ("LavisBlipForPreTraining", {}, True),
    "BLIP-2 stage 1": ("LavisBlip2ForPreTraining", {}, True),
}
STEPS, ROWS = 4, 16


class Rows(torch.utils.data.Dataset):
    """Rows of a case, with pixels in float64."""

    def __init__(self, case: Case) -> None:
        self.columns = {**case.inputs(ROWS), "image_ids": torch.arange(ROWS)}
        self.columns[case.pixel_name] = self.columns[case.pixel_name].double()

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[index] for name, column in self.columns.items()}


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {**{name: torch.stack([row[name] for row in rows]) for name in rows[0]}, "return_loss": True}


def arguments(folder: str, sharded: bool, **config: Any) -> TrainingArguments:
    made = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=2,
        max_steps=STEPS,
        report_to=[],
        use_cpu=True,
        save_steps=2,
        remove_unused_columns=False,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        disable_tqdm=True,
        adam_epsilon=1e-3,  # rounding errors of gradients near zero would decide about the sign of a step
        max_grad_norm=1.0,
        **({"fsdp": True, "fsdp_config": config} if sharded else {}),
    )
    if sharded:
        PartialState()._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return made


def new_model(label: str) -> Any:
    name, options, _ = RUNS[label]
    return CASES[name].model(**options).double()


def train(label: str, mode: str, folder: str) -> dict[str, Any]:
    """Train, and return the complete final state; a resumed run goes on from the second step."""
    name, _, by_us = RUNS[label]
    args = arguments(f"{folder}/{mode.removeprefix('resumed ')}", mode != "ddp")
    model = new_model(label)
    if mode != "ddp" and by_us:
        model = prepare_for_fsdp(model)
    trainer = Trainer(model, args, collate, train_dataset=Rows(CASES[name]), callbacks=[MomentumUpdate()])
    trainer.train(resume_from_checkpoint=f"{args.output_dir}/checkpoint-2" if mode.startswith("resumed") else None)
    state = trainer.accelerator.get_state_dict(trainer.model) if mode != "ddp" else trainer.model.state_dict()
    saved = f"{folder}/{mode} saved"
    trainer.save_model(saved)
    dist.barrier()
    loaded = type(new_model(label)).from_pretrained(saved, dtype=torch.float64).state_dict()
    inner = trainer.accelerator.unwrap_model(trainer.model)
    groups = sorted({type(module).__name__ for module in inner.modules() if type(module).__name__.startswith("FSDP")})
    return {"state": {key: value.clone() for key, value in state.items()}, "loaded": loaded, "groups": groups}


def error_of(label: str, folder: str, **config: Any) -> str:
    """The error of sharding without `prepare_for_fsdp`."""
    name, _, _ = RUNS[label]
    args = arguments(folder, True, **config)
    try:
        Trainer(new_model(label), args, collate, train_dataset=Rows(CASES[name])).train()
    except ValueError as error:
        return str(error)
    return "no error"


def run(number: int, label: str, mode: str, folder: str) -> None:
    """One process of one run, saved to `{folder}/{mode}.{number}.pt`."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store {mode}", rank=number, world_size=2)
    with deterministic():
        if mode == "efficient loading":
            found: Any = error_of(label, folder, cpu_ram_efficient_loading=True)
        else:
            found = error_of(label, folder) if mode == "unprepared" else train(label, mode, folder)
    torch.save(found, f"{folder}/{mode}.{number}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    # `fsdp_worker FOLDER LABEL=MODE,MODE...`
    for argument in sys.argv[2:]:
        chosen, _, modes = argument.partition("=")
        place = Path(sys.argv[1]) / chosen
        place.mkdir()
        for wanted in modes.split(","):
            mp.start_processes(run, (chosen, wanted, str(place)), nprocs=2, start_method="fork")
