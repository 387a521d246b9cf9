# SPDX-License-Identifier: Apache-2.0
"""Training transforms of pictures as in LAVIS (`blip_image_train`, `blip2_image_train`): crop, flip, augmentation.

What is random is drawn first, into a `TrainDraw`, and applied afterwards, so that a recorded draw gives the recorded
pixels, bit for bit:

    transform = blip_image_train(384)
    pixels = transform(picture)                                   # draws and applies
    pixels = transform.apply(picture, transform.draw(picture))    # the same in two steps

Letters: H, W size of the input, S side of the result.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from modeling_lavis.data.randaugment import Draws, Operation, TorchDraws, apply_operations, draw_operations
from modeling_lavis.import_utils import require
from modeling_lavis.models.image_processing_lavis import apply_exif_orientation, open_image, to_rgb, to_rgb_array


@dataclass(frozen=True)
class TrainDraw:
    """Everything that is random about one picture.

    Args:
        crop: (top, left, height, width) of the part that is kept, in pixels.
        flip: whether the result is mirrored left to right.
        operations: what the augmentation does, in order.
    """

    crop: tuple[int, int, int, int]
    flip: bool = False
    operations: Sequence[Operation] = field(default_factory=tuple)


def draw_crop(
    height: int,
    width: int,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    generator: torch.Generator | None = None,
) -> tuple[int, int, int, int]:
    """Draw the part of an H x W picture that is kept; the same draws as torchvision's `RandomResizedCrop`.

    Args:
        height, width: size of the picture in pixels.
        scale: share of the area, uniform between the two.
        ratio: width by height, its logarithm uniform between the two.
        generator: source of randomness; None takes torch's global one.

    Returns:
        (top, left, height, width).
    """
    logs = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * torch.empty(1).uniform_(*scale, generator=generator).item()
        # parity: the exponential is taken in single precision, and Python rounds halves to even
        aspect = torch.exp(torch.empty(1).uniform_(*logs, generator=generator)).item()
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            top = int(torch.randint(0, height - high + 1, (1,), generator=generator))
            left = int(torch.randint(0, width - wide + 1, (1,), generator=generator))
            return top, left, high, wide
    # ten misses: the largest part in the middle whose shape is allowed
    wide, high = width, height
    if width / height < ratio[0]:
        high = min(height, round(width / ratio[0]))
    elif width / height > ratio[1]:
        wide = min(width, round(height * ratio[1]))
    return (height - high) // 2, (width - wide) // 2, high, wide


class ImageTrainTransform:
    """Random resized crop, flip with probability 1/2, augmentation, normalisation.

    Args:
        image_size: side S of the result.
        min_scale, max_scale: bounds of the share of the area that is kept.
        augment: whether the augmentation of `randaugment` is drawn.
        count, level: how many operations are drawn, and their strength from 0 to 10.
        image_mean, image_std: per channel, in 0..1; default those of CLIP.
        do_exif_transpose: whether the EXIF orientation is applied first, as the image processors do.
    """

    def __init__(
        self,
        image_size: int,
        min_scale: float = 0.5,
        max_scale: float = 1.0,
        augment: bool = True,
        count: int = 2,
        level: int = 5,
        image_mean: Sequence[float] = OPENAI_CLIP_MEAN,
        image_std: Sequence[float] = OPENAI_CLIP_STD,
        do_exif_transpose: bool = True,
    ) -> None:
        if image_size < 1 or not 0 < min_scale <= max_scale:
            raise ValueError(
                f"image_size is {image_size}, the scale from {min_scale} to {max_scale}; expected a positive size and"
                " 0 < min_scale <= max_scale."
            )
        self.image_size = image_size
        self.scale = (min_scale, max_scale)
        self.augment = augment
        self.count = count
        self.level = level
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self.do_exif_transpose = do_exif_transpose

    def __call__(self, picture: Any, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw and apply. Takes what the image processors take; returns float32 (3, S, S)."""
        opened = self._opened(picture)
        return self._applied(opened, self._drawn(opened, generator, None))

    def draw(
        self, picture: Any, generator: torch.Generator | None = None, operation_draws: Draws | None = None
    ) -> TrainDraw:
        """Draw what happens to a picture, of which only the size matters.

        Args:
            picture: what the image processors take.
            generator: source of randomness; None takes torch's global one.
            operation_draws: source for the operations; None takes `generator`. After seeding with one number,
                `torch.Generator` and `numpy.random.RandomState` draw what the original draws from the global ones.
        """
        return self._drawn(self._opened(picture), generator, operation_draws)

    def apply(self, picture: Any, draw: TrainDraw) -> torch.Tensor:
        """Apply a draw to a picture; returns float32 (3, S, S)."""
        return self._applied(self._opened(picture), draw)

    def crop_and_flip(self, picture: Any, draw: TrainDraw) -> np.ndarray:
        """The picture before the augmentation: uint8 (S, S, 3)."""
        return self._cropped(self._opened(picture), draw)

    def _opened(self, picture: Any) -> PIL.Image.Image:
        opened = open_image(picture)
        if isinstance(opened, torch.Tensor):
            opened = opened.detach().cpu().float().numpy() if opened.is_floating_point() else opened.cpu().numpy()
        if isinstance(opened, np.ndarray):
            return PIL.Image.fromarray(to_rgb_array(opened))
        return to_rgb(apply_exif_orientation(opened) if self.do_exif_transpose else opened)

    def _drawn(
        self, picture: PIL.Image.Image, generator: torch.Generator | None, operation_draws: Draws | None
    ) -> TrainDraw:
        crop = draw_crop(picture.height, picture.width, self.scale, generator=generator)
        flip = bool(torch.rand(1, generator=generator) < 0.5)
        operations: list[Operation] = []
        if self.augment:
            operations = draw_operations(operation_draws or TorchDraws(generator), self.count, self.level)
        return TrainDraw(crop, flip, tuple(operations))

    def _cropped(self, picture: PIL.Image.Image, draw: TrainDraw) -> np.ndarray:
        top, left, high, wide = draw.crop
        part = picture.crop((left, top, left + wide, top + high))
        part = part.resize((self.image_size, self.image_size), PIL.Image.Resampling.BICUBIC)
        return np.array(PIL.ImageOps.mirror(part) if draw.flip else part)

    def _applied(self, picture: PIL.Image.Image, draw: TrainDraw) -> torch.Tensor:
        values = apply_operations(self._cropped(picture, draw), draw.operations)
        pixels = torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1).float().div(255)
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self.image_mean, self.image_std))
        return ((pixels - mean) / std).contiguous()


def blip_image_train(image_size: int = 384, **options: Any) -> ImageTrainTransform:
    """The training transform of ALBEF and BLIP: crop, flip, two operations of strength 5."""
    return ImageTrainTransform(image_size, augment=True, **options)


def blip2_image_train(image_size: int = 364, **options: Any) -> ImageTrainTransform:
    """The training transform of BLIP-2: crop and flip only."""
    return ImageTrainTransform(image_size, augment=False, **options)


def timm_image_train(
    image_size: int = 384,
    augmentation: str = "rand-m5-n2-mstd0.5-inc1",
    min_scale: float = 0.5,
    max_scale: float = 1.0,
    image_mean: Sequence[float] = OPENAI_CLIP_MEAN,
    image_std: Sequence[float] = OPENAI_CLIP_STD,
) -> Any:
    """A stronger transform than the published one: torchvision's crop and flip around timm's RandAugment.

    Args:
        image_size: side S of the result.
        augmentation: timm's description of the augmentation.
        min_scale, max_scale: bounds of the share of the area that is kept.
        image_mean, image_std: per channel, in 0..1; default those of CLIP.

    Returns:
        A torchvision transform from an RGB PIL image to float32 (3, S, S).
    """
    purpose = "timm_image_train"
    steps: Any = require("torchvision.transforms", extra="train", purpose=purpose)
    auto: Any = require("timm.data.auto_augment", extra="train", purpose=purpose)
    grey = tuple(round(255 * value) for value in image_mean)
    return steps.Compose(
        [
            steps.RandomResizedCrop(
                image_size, scale=(min_scale, max_scale), interpolation=steps.InterpolationMode.BICUBIC
            ),
            steps.RandomHorizontalFlip(),
            auto.rand_augment_transform(augmentation, {"img_mean": grey, "translate_const": image_size // 8}),
            steps.ToTensor(),
            steps.Normalize(image_mean, image_std),
        ]
    )
