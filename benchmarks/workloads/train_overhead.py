# SPDX-License-Identifier: Apache-2.0
"""A step of LavisTrainer with JPEGs, LAVIS's augmentation and workers: the share outside of forward, backward and
optimizer.

BLIP's captioner with ViT-B, AdamW, two workers. The JPEGs have the size of COCO's pictures, and are drawn.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from benchmarks import flops, weights
from benchmarks.workloads.base import OURS, Rates, Run, Workload


@dataclass(frozen=True)
class Size:
    """Sizes of model and data."""

    image_size: int = 384
    hidden_size: int = 768
    intermediate_size: int = 3072
    layers: int = 12
    heads: int = 12
    vocabulary: int = 30524
    text_length: int = 12
    batch: int = 8
    pictures: int = 64
    width: int = 640
    height: int = 480
    workers: int = 2


def draw_pictures(folder: Path, size: Size) -> list[str]:
    """Write JPEGs of coarse shapes with fine noise, 100 KB each for the size of COCO's."""
    noise = np.random.RandomState(0)
    paths = []
    for index in range(size.pictures):
        coarse = PIL.Image.fromarray(noise.randint(0, 255, (6, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((size.width, size.height), PIL.Image.Resampling.BICUBIC)).astype(np.int16)
        picture = np.clip(smooth + noise.randint(-25, 25, smooth.shape), 0, 255).astype(np.uint8)
        paths.append(str(folder / f"{index}.jpg"))
        PIL.Image.fromarray(picture).save(paths[-1], quality=85)
    return paths


class Collator:
    """Opens and augments the pictures of a batch; the captions are token ids, all of one length."""

    def __init__(self, size: Size) -> None:
        from modeling_lavis.data.transforms import blip_image_train

        self.size = size
        self.transform = blip_image_train(size.image_size)

    def __call__(self, paths: list[str]) -> dict[str, torch.Tensor]:
        ids = torch.randint(1000, self.size.vocabulary - 2, (len(paths), self.size.text_length))
        return {
            "pixel_values": torch.stack([self.transform(path) for path in paths]),
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": ids,
        }


def build_ours(size: Size, dtype: torch.dtype) -> Run:
    from benchmarks.our_parts import blip_config
    from benchmarks.trainer_steps import MANY, TrainerSteps, training_arguments
    from modeling_lavis import LavisBlipForConditionalGeneration
    from modeling_lavis.training import LavisTrainer

    model = LavisBlipForConditionalGeneration(blip_config(size))
    weights.fill(model, weights.FROM_OURS)
    folder = tempfile.TemporaryDirectory()
    paths = draw_pictures(Path(folder.name), size)

    def make_trainer(callbacks: Any) -> Any:
        return LavisTrainer(
            model.to(dtype),
            training_arguments(
                folder.name, per_device_train_batch_size=size.batch, dataloader_num_workers=size.workers
            ),
            Collator(size),
            train_dataset=paths * (MANY // len(paths) + 1),  # no epoch ends
            callbacks=callbacks,
            groups="lavis",
            curves=False,
        )

    steps = TrainerSteps(make_trainer)

    def run() -> dict[str, torch.Tensor]:
        assert folder  # the pictures stay as long as the run
        return steps()

    return run


def count_flops(size: Size) -> float:
    """Three times the forward passes of image encoder and decoder."""
    tokens = (size.image_size // 16) ** 2 + 1
    forward = flops.vit(size.image_size, size.hidden_size, size.layers)
    forward += size.layers * flops.project_keys_and_values(tokens, size.hidden_size, size.hidden_size)
    length = size.text_length
    forward += size.layers * flops.bert_layer(length, length, size.hidden_size, size.intermediate_size, tokens)
    forward += length * 2 * size.hidden_size * size.vocabulary
    return 3 * size.batch * forward


def describe(size: Size, seconds: float, figures: dict[str, float], bytes_per_number: int, rates: Rates) -> str:
    """Shares of a step, by medians."""
    inside = sum(figures.values())
    parts = ", ".join(
        f"{name.removeprefix('seconds_')} {100 * value / seconds:.1f} %" for name, value in figures.items()
    )
    return f"{parts}, all else {100 * (seconds - inside) / seconds:.2f} % of a step"


WORKLOAD = Workload(
    name="train_overhead",
    summary="BLIP captioner, 384 px, a step of LavisTrainer with JPEGs, augmentation and 2 workers, batch 8",
    sizes={
        "full": Size(),
        "tiny": Size(
            image_size=32,
            hidden_size=32,
            intermediate_size=64,
            layers=2,
            heads=2,
            batch=2,
            pictures=4,
            width=40,
            height=30,
            workers=1,
        ),
    },
    builders={OURS: build_ours},
    count_flops=count_flops,
    trains=True,
    describe=describe,
)
