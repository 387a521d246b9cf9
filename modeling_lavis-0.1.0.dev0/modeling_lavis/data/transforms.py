# SPDX-License-Identifier: Apache-2.0
"""Training transforms of images as in LAVIS (`blip_image_train`, `blip2_image_train`): crop, flip, augmentation.

All randomness is sampled first, into a [`TrainDraw`], and applied afterwards. Recorded draws reproduce the pixel values
of the original, bit for bit:

    transform = blip_image_train(384)
    pixel_values = transform(image)                                # sample and apply
    pixel_values = transform.apply(image, transform.draw(image))   # the same in two steps

Shapes: H height and W width of the input, S side length of the result.
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

from modeling_lavis.data.randaugment import (
    OPERATIONS,
    Draws,
    Operation,
    TorchDraws,
    apply_operations,
    check_operations,
    draw_operations,
)
from modeling_lavis.import_utils import require
from modeling_lavis.models.image_conversion import (
    apply_exif_orientation,
    open_image,
    parse_background,
    to_rgb,
    to_rgb_array,
)


@dataclass(frozen=True)
class TrainDraw:
    """
    All random choices of the transform of one image.

    Args:
        crop (`tuple[int, int, int, int]`): top, left, height and width of the crop in pixels.
        flip (`bool`, *optional*, defaults to `False`): whether to flip horizontally.
        operations (`Sequence[Operation]`, *optional*, defaults to `()`): operations of the augmentation, in order.
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
    """
    Sample a crop; the same as torchvision's `RandomResizedCrop` samples.

    Args:
        height (`int`): height of the image in pixels.
        width (`int`): width of the image in pixels.
        scale (`tuple[float, float]`, *optional*, defaults to `(0.5, 1.0)`):
            bounds of the area of the crop, as a fraction of that of the image; uniformly distributed.
        ratio (`tuple[float, float]`, *optional*, defaults to `(3 / 4, 4 / 3)`):
            bounds of the aspect ratio (width by height) of the crop; its logarithm is uniformly distributed.
        generator (`torch.Generator`, *optional*): source of randomness; defaults to the global one of torch.

    Returns:
        `tuple[int, int, int, int]`: top, left, height and width of the crop in pixels.
    """
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * torch.empty(1).uniform_(*scale, generator=generator).item()
        # parity: the exponential is computed in float32, and Python rounds halves to even
        aspect = torch.exp(torch.empty(1).uniform_(*log_ratio, generator=generator)).item()
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(torch.randint(0, height - crop_height + 1, (1,), generator=generator))
            left = int(torch.randint(0, width - crop_width + 1, (1,), generator=generator))
            return top, left, crop_height, crop_width
    # after ten attempts: the largest center crop with an allowed aspect ratio
    crop_width, crop_height = width, height
    if width / height < ratio[0]:
        crop_height = min(height, round(width / ratio[0]))
    elif width / height > ratio[1]:
        crop_width = min(width, round(height * ratio[1]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


class ImageTrainTransform:
    """
    Random resized crop, horizontal flip, augmentation, normalization.

    Args:
        image_size (`int`): side length S of the result in pixels.
        min_scale (`float`, *optional*, defaults to 0.5): minimum area of the crop, as a fraction of that of the image.
        max_scale (`float`, *optional*, defaults to 1.0): maximum area of the crop, as a fraction of that of the image.
        augment (`bool`, *optional*, defaults to `True`): whether to apply the augmentation of `randaugment`.
        count (`int`, *optional*, defaults to 2): number of operations to sample.
        level (`int`, *optional*, defaults to 5): strength of the operations from 0 to 10.
        operations (`Sequence[str]`, *optional*, defaults to `OPERATIONS`): names of the operations to sample from;
            without those that change colors for texts that name them.
        image_mean (`Sequence[float]`, *optional*, defaults to CLIP's): mean of each channel.
        image_std (`Sequence[float]`, *optional*, defaults to CLIP's): standard deviation of each channel.
        do_exif_transpose (`bool`, *optional*, defaults to `True`):
            whether to apply the EXIF orientation first, as the image processors do.
        flip_probability (`float`, *optional*, defaults to 0.5):
            probability of the flip; 0 for texts that tell left from right.
        background (`str` or `Sequence[int]`, *optional*, defaults to `"drop"`):
            color on which transparent images are composed, or `"drop"`, as published; see `LavisImageProcessor`.

    Raises:
        ValueError: `image_size`, `min_scale` or `max_scale` is out of range, or an operation is unknown.
    """

    def __init__(
        self,
        image_size: int,
        min_scale: float = 0.5,
        max_scale: float = 1.0,
        augment: bool = True,
        count: int = 2,
        level: int = 5,
        operations: Sequence[str] = OPERATIONS,
        image_mean: Sequence[float] = OPENAI_CLIP_MEAN,
        image_std: Sequence[float] = OPENAI_CLIP_STD,
        do_exif_transpose: bool = True,
        flip_probability: float = 0.5,
        background: str | Sequence[int] = "drop",
    ) -> None:
        if not 0 <= flip_probability <= 1:
            raise ValueError(f"flip_probability is {flip_probability}; expected a number from 0 to 1.")
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
        self.operations = check_operations(operations)
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self.do_exif_transpose = do_exif_transpose
        self.flip_probability = flip_probability
        self.background = parse_background(background)

    def __call__(self, image: Any, generator: torch.Generator | None = None) -> torch.Tensor:
        """
        Sample and apply a transform.

        Args:
            image: a path, a URL, a PIL image of any mode, a NumPy array or a tensor.
            generator (`torch.Generator`, *optional*): source of randomness; defaults to the global one of torch.

        Returns:
            `torch.Tensor` of shape `(3, S, S)`: float32.

        Raises:
            FileNotFoundError, OSError: the image cannot be read; the message contains its name.
        """
        rgb_image = self._open(image)
        return self._apply(rgb_image, self._draw(rgb_image, generator, None))

    def draw(
        self, image: Any, generator: torch.Generator | None = None, operation_draws: Draws | None = None
    ) -> TrainDraw:
        """
        Sample a transform.

        Args:
            image: as for a call; only its size matters.
            generator (`torch.Generator`, *optional*): source of randomness; defaults to the global one of torch.
            operation_draws ([`Draws`], *optional*):
                source of randomness of the operations; defaults to `generator`. A `torch.Generator` and a
                `numpy.random.RandomState` of the same seed sample what the original samples from the global ones.

        Returns:
            `TrainDraw`: the transform.
        """
        return self._draw(self._open(image), generator, operation_draws)

    def apply(self, image: Any, draw: TrainDraw) -> torch.Tensor:
        """
        Apply a sampled transform.

        Args:
            image: as for a call.
            draw ([`TrainDraw`]): the transform.

        Returns:
            `torch.Tensor` of shape `(3, S, S)`: float32.
        """
        return self._apply(self._open(image), draw)

    def crop_and_flip(self, image: Any, draw: TrainDraw) -> np.ndarray:
        """The image before the augmentation: uint8, of shape (S, S, 3)."""
        return self._crop_and_flip(self._open(image), draw)

    def _open(self, image: Any) -> PIL.Image.Image:
        image = open_image(image)
        if isinstance(image, torch.Tensor):
            image = image.detach().cpu().float().numpy() if image.is_floating_point() else image.cpu().numpy()
        if isinstance(image, np.ndarray):
            return PIL.Image.fromarray(to_rgb_array(image, background=self.background))
        return to_rgb(apply_exif_orientation(image) if self.do_exif_transpose else image, self.background)

    def _draw(
        self, image: PIL.Image.Image, generator: torch.Generator | None, operation_draws: Draws | None
    ) -> TrainDraw:
        crop = draw_crop(image.height, image.width, self.scale, generator=generator)
        flip = bool(torch.rand(1, generator=generator) < self.flip_probability)
        operations: list[Operation] = []
        if self.augment:
            operations = draw_operations(
                operation_draws or TorchDraws(generator), self.count, self.level, self.operations
            )
        return TrainDraw(crop, flip, tuple(operations))

    def _crop_and_flip(self, image: PIL.Image.Image, draw: TrainDraw) -> np.ndarray:
        top, left, height, width = draw.crop
        cropped = image.crop((left, top, left + width, top + height))
        cropped = cropped.resize((self.image_size, self.image_size), PIL.Image.Resampling.BICUBIC)
        return np.array(PIL.ImageOps.mirror(cropped) if draw.flip else cropped)

    def _apply(self, image: PIL.Image.Image, draw: TrainDraw) -> torch.Tensor:
        values = apply_operations(self._crop_and_flip(image, draw), draw.operations)
        pixel_values = torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1).float().div(255)
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self.image_mean, self.image_std))
        return ((pixel_values - mean) / std).contiguous()


def blip_image_train(image_size: int = 384, **options: Any) -> ImageTrainTransform:
    """
    Training transform of ALBEF and BLIP: crop, flip, two operations of strength 5.

    Args:
        image_size (`int`, *optional*, defaults to 384): side length S of the result in pixels.
        options: other options of [`ImageTrainTransform`].

    Returns:
        `ImageTrainTransform`: transform from an image to float32 of shape `(3, S, S)`.
    """
    return ImageTrainTransform(image_size, augment=True, **options)


def blip2_image_train(image_size: int = 364, **options: Any) -> ImageTrainTransform:
    """
    Training transform of BLIP-2: crop and flip, without augmentation.

    Args:
        image_size (`int`, *optional*, defaults to 364): side length S of the result in pixels.
        options: other options of [`ImageTrainTransform`].

    Returns:
        `ImageTrainTransform`: transform from an image to float32 of shape `(3, S, S)`.
    """
    return ImageTrainTransform(image_size, augment=False, **options)


def timm_image_train(
    image_size: int = 384,
    augmentation: str = "rand-m5-n2-mstd0.5-inc1",
    min_scale: float = 0.5,
    max_scale: float = 1.0,
    image_mean: Sequence[float] = OPENAI_CLIP_MEAN,
    image_std: Sequence[float] = OPENAI_CLIP_STD,
) -> Any:
    """
    Stronger transform than the published one: torchvision's crop and flip with timm's RandAugment.

    Args:
        image_size (`int`, *optional*, defaults to 384): side length S of the result in pixels.
        augmentation (`str`, *optional*, defaults to `"rand-m5-n2-mstd0.5-inc1"`): timm's name of the augmentation.
        min_scale (`float`, *optional*, defaults to 0.5): minimum area of the crop, as a fraction of that of the image.
        max_scale (`float`, *optional*, defaults to 1.0): maximum area of the crop, as a fraction of that of the image.
        image_mean (`Sequence[float]`, *optional*, defaults to CLIP's): mean of each channel.
        image_std (`Sequence[float]`, *optional*, defaults to CLIP's): standard deviation of each channel.

    Returns:
        A torchvision transform from an RGB PIL image to float32 of shape `(3, S, S)`.

    Raises:
        ImportError: torchvision or timm is not installed.
    """
    purpose = "timm_image_train"
    transforms: Any = require("torchvision.transforms", extra="train", purpose=purpose)
    auto_augment: Any = require("timm.data.auto_augment", extra="train", purpose=purpose)
    mean_color = tuple(round(255 * value) for value in image_mean)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                image_size, scale=(min_scale, max_scale), interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(),
            auto_augment.rand_augment_transform(
                augmentation, {"img_mean": mean_color, "translate_const": image_size // 8}
            ),
            transforms.ToTensor(),
            transforms.Normalize(image_mean, image_std),
        ]
    )


__all__ = [
    "ImageTrainTransform",
    "TrainDraw",
    "blip2_image_train",
    "blip_image_train",
    "draw_crop",
    "timm_image_train",
]
