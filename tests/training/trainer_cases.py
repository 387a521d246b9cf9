"""A tiny retrieval run with everything that a resumed run restores: queue, momentum encoders, ramp, transforms."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from modeling_lavis import (
    LavisBlipForConditionalGeneration,
    LavisBlipForImageTextRetrieval,
    LavisBlipProcessor,
    LavisImageProcessor,
)
from modeling_lavis.data.collators import CaptioningCollator, ImageTextCollator
from modeling_lavis.data.transforms import blip_image_train
from modeling_lavis.models.tokenization_lavis import blip_tokenizer
from modeling_lavis.training import LavisTrainer
from tests.models.lavis_blip_cases import SIZE, blip_config

ROWS = 14
_WORDS = ("a red dog", "two cats on the mat", "the house", "a small man", "one more", "in the park", "no dog")


def processor(goldens: Path) -> LavisBlipProcessor:
    return LavisBlipProcessor(LavisImageProcessor(size=SIZE), blip_tokenizer(goldens / "tokenizer"))


def retrieval_model(**options: Any) -> Any:
    """A head with a queue, momentum encoders, distillation and dropout."""
    torch.manual_seed(0)
    text = {"vocab_size": 602, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    options = {"queue_size": 12, "use_momentum": True, "use_distill": True, "bos_token_id": 600, **options}
    return LavisBlipForImageTextRetrieval(blip_config(text, enc_token_id=601, **options))


def captioning_model() -> Any:
    torch.manual_seed(0)
    return LavisBlipForConditionalGeneration(blip_config({"vocab_size": 602}, bos_token_id=600, enc_token_id=601))


def write_rows(folder: Path, count: int = ROWS) -> list[dict[str, Any]]:
    """Rows with JPEGs on disk, and two captions each."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.RandomState(0)
    rows = []
    for index in range(count):
        path = folder / f"{index}.jpg"
        pixels = noise.randint(0, 255, (5, 6, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).resize((48, 40)).save(path, quality=90)
        captions = [_WORDS[index % len(_WORDS)], f"{_WORDS[(index + 3) % len(_WORDS)]} and more"]
        rows.append({"image": str(path), "caption": captions, "image_id": index})
    return rows


class NoisyRows(torch.utils.data.Dataset):
    """Rows of a user's data set that draws from the generators of Python and NumPy."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = dict(self.rows[index])
        if random.random() < 0.5:
            row["caption"] = row["caption"][:1]
        return {**row, "caption": [f"{text} {np.random.randint(3)}" for text in row["caption"]]}


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    return TrainingArguments(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 2,
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_steps": 1,
            "dataloader_pin_memory": False,
            **options,
        }
    )


def retrieval_trainer(
    goldens: Path, rows: Any, folder: Path, model: nn.Module | None = None, trainer: type = LavisTrainer, **options: Any
) -> Any:
    """A Trainer of the retrieval run; `options` are those of LavisTrainer or of the arguments."""
    own = {"evaluation", "evaluate_loss", "groups", "layer_decay", "recipe_schedule", "schedule_options", "callbacks"}
    own |= {"eval_dataset", "curves", "freeze", "ramp_epochs", "shared_evaluation"}
    given = {name: options.pop(name) for name in own & options.keys()}
    tools = processor(goldens)
    return trainer(
        model=retrieval_model() if model is None else model,
        args=arguments(folder, **options),
        data_collator=ImageTextCollator(tools, transform=blip_image_train(SIZE)),
        train_dataset=NoisyRows(rows) if isinstance(rows, list) else rows,
        processing_class=tools,
        **{"curves": False, **given} if trainer is LavisTrainer else given,
    )


def captioning_trainer(goldens: Path, rows: Any, folder: Path, **options: Any) -> Any:
    """A Trainer of a captioner, with `options` as for [`retrieval_trainer`]."""
    tools = processor(goldens)
    given = {name: options.pop(name) for name in ("evaluation", "eval_dataset", "callbacks") if name in options}
    return LavisTrainer(
        model=captioning_model(),
        args=arguments(folder, **options),
        data_collator=CaptioningCollator(tools),
        train_dataset=rows,
        processing_class=tools,
        curves=False,
        **given,
    )


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def differing(left: dict[str, Tensor], right: dict[str, Tensor]) -> list[str]:
    """Names of weights and buffers that are not equal bit for bit."""
    assert left.keys() == right.keys()
    return [name for name in left if not torch.equal(left[name], right[name])]
