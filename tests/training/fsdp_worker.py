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
from peft import LoraConfig, get_peft_model
from torch import distributed as dist
from torch import multiprocessing as mp
from transformers import Trainer, TrainingArguments

from modeling_lavis.training import lora_target_modules
from tests.models.contract import Case
from tests.models.distributed_worker import CASES, deterministic

#: label -> class, options
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "ALBEF": ("AlbefForImageTextRetrieval", {}),
    "BLIP": ("LavisBlipForImageTextRetrieval", {"negative_all_rank": True}),
    "BLIP-2": ("LavisBlip2ForImageTextRetrieval", {}),
    "ALPRO": ("AlproForVideoTextRetrieval", {}),
    "ALBEF pretraining": ("AlbefForPreTraining", {}),
    "BLIP pretraining": ("LavisBlipForPreTraining", {}),
    "BLIP-2 stage 1": ("LavisBlip2ForPreTraining", {}),
    "BLIP-2 stage 2": ("LavisBlip2ForConditionalGeneration", {}),
    "BLIP captioning": ("LavisBlipForConditionalGeneration", {}),
    "ALBEF VQA": ("AlbefForQuestionAnswering", {}),
    "BLIP NLVR": ("LavisBlipForImagesAndTextClassification", {}),
}
STEPS, ROWS = 4, 16


class Rows(torch.utils.data.Dataset):
    """Rows of a case, with pixels of a dtype."""

    def __init__(self, case: Case, dtype: torch.dtype = torch.float64) -> None:
        columns = {**case.inputs(ROWS), **case.training(ROWS)}
        if columns.pop("return_loss", False):
            columns["image_ids"] = torch.arange(ROWS)
        if "answer_counts" in columns:  # one answer per question
            del columns["answer_counts"], columns["answer_weights"]
        self.columns = {name: column[:ROWS] for name, column in columns.items()}
        self.columns[case.pixel_name] = self.columns[case.pixel_name].to(dtype)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[index] for name, column in self.columns.items()}


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return {**batch, "return_loss": True} if "image_ids" in batch else batch


def arguments(folder: str, sharded: bool, config: dict[str, Any] | None = None, **options: Any) -> TrainingArguments:
    made = TrainingArguments(
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
        **({"fsdp": True, "fsdp_config": config or {}} if sharded else {}),
    )
    if sharded:
        PartialState()._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return made


def new_model(label: str, dtype: torch.dtype = torch.float64) -> Any:
    name, options = RUNS[label]
    return CASES[name].model(**options).to(dtype)


#: word of a mode -> entries of `fsdp_config`
CONFIGS: dict[str, dict[str, Any]] = {
    "sharded": {"state_dict_type": "SHARDED_STATE_DICT"},
    "checkpointing": {"activation_checkpointing": True},
}


def train(label: str, mode: str, folder: str) -> dict[str, Any]:
    """
    Train, and return losses, the complete final state and what is loaded from the saved model.

    `mode` is `ddp` or `fsdp`, and words after it: those of `CONFIGS`, `bf16`, `adapted` by peft, and `resumed` from the
    second step of the run without that word.
    """
    name, _ = RUNS[label]
    kind, *words = mode.split()
    place = f"{folder}/{' '.join(word for word in mode.split() if word != 'resumed')}"
    config: dict[str, Any] = {}
    for word in words:
        config.update(CONFIGS.get(word, {}))
    args = arguments(place, kind == "fsdp", config, bf16="bf16" in words)
    dtype = torch.float32 if "bf16" in words else torch.float64
    model: Any = new_model(label, dtype)
    if "adapted" in words:
        model = get_peft_model(model, LoraConfig(target_modules=lora_target_modules(model), init_lora_weights=False))
        model.to(dtype)
    trainer = Trainer(model, args, collate, train_dataset=Rows(CASES[name], dtype))
    trainer.train(resume_from_checkpoint=f"{place}/checkpoint-2" if "resumed" in words else None)
    state = trainer.accelerator.get_state_dict(trainer.model) if kind == "fsdp" else trainer.model.state_dict()
    saved = f"{folder}/{mode} saved"
    trainer.save_model(saved)
    dist.barrier()
    inner = trainer.accelerator.unwrap_model(trainer.model)
    groups = sorted({type(module).__name__ for module in inner.modules() if type(module).__name__.startswith("FSDP")})
    found = {
        "losses": torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]),
        "state": {key: value.clone() for key, value in state.items()},
        "groups": groups,
        "files": sorted(str(path.relative_to(place)) for path in Path(place).rglob("*") if path.is_file()),
    }
    if not words or words == ["resumed"]:
        found["loaded"] = type(new_model(label)).from_pretrained(saved, dtype=dtype).state_dict()
    return found


def error_of(label: str, folder: str, config: dict[str, Any]) -> str:
    """The error of sharding in some way."""
    name, _ = RUNS[label]
    args = arguments(folder, True, config)
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
            found: Any = error_of(label, folder, {"cpu_ram_efficient_loading": True})
        else:
            found = train(label, mode, folder)
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
