# SPDX-License-Identifier: Apache-2.0
"""Training transform of videos as in ALPRO, with the same two steps as that of images: `draw` and `apply`.

Given decoded and resized frames and the draws of the original, the result is bit-exact with LAVIS 1.0.2.

Shapes: F frames of a clip, S side length.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from modeling_lavis.data.randaugment import OPERATIONS, Draws, Operation, TorchDraws, apply_operations, draw_arguments
from modeling_lavis.data.transforms import draw_crop
from modeling_lavis.models.video_processing_lavis import (
    SAMPLINGS,
    list_of_videos,
    load_video_frames,
    sample_frame_indices,
)


@dataclass(frozen=True)
class VideoTrainDraw:
    """
    All random choices of the transform of one clip, apart from the sampled frames.

    Args:
        crop (`tuple[int, int, int, int]`):
            top, left, height and width of the crop of every frame, in pixels of the resized frame.
        flip (`bool`, *optional*, defaults to `False`): whether to flip horizontally.
        operations (`Sequence[Sequence[Operation]]`, *optional*, defaults to `()`):
            operations of the augmentation for each frame, in order; empty for no augmentation.
    """

    crop: tuple[int, int, int, int]
    flip: bool = False
    operations: Sequence[Sequence[Operation]] = ()


class FrameDraws:
    """
    Source of randomness for `sample_frame_indices` (like `random.Random`) that uses a generator of torch.

    Args:
        generator (`torch.Generator`, *optional*): defaults to the global one.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def sample(self, population: Sequence[int], k: int) -> list[int]:
        """Sample `k` entries of `population` without replacement."""
        return [population[index] for index in torch.randperm(len(population), generator=self.generator)[:k].tolist()]


def draw_frame_operations(draws: Any, frames: int, count: int = 2, level: int = 5) -> list[list[Operation]]:
    """
    Sample the operations for each frame of a clip.

    The names of the operations differ from each other and are the same for all frames; the signs of shears,
    translations and rotations are sampled for each frame.

    Args:
        draws ([`Draws`]):
            source of randomness. With `numpy.random.RandomState(seed)`, the operations are those that the original
            samples after `numpy.random.seed(seed)`.
        frames (`int`): number of frames F.
        count (`int`, *optional*, defaults to 2): number of operations to sample, at most the number of known ones.
        level (`int`, *optional*, defaults to 5): strength from 0 to 10.

    Returns:
        `list[list[Operation]]`: the operations of each frame, in order.
    """
    if isinstance(draws, np.random.RandomState):
        # parity: the original samples names without replacement, and an unused number for each
        names = [str(name) for name in draws.choice(list(OPERATIONS), count, replace=False)]
        draws.random_sample(count)
    else:
        remaining = list(OPERATIONS)
        names = [remaining.pop(int(draws.random() * len(remaining))) for _ in range(count)]
    return [[Operation(name, draw_arguments(name, level, draws)) for name in names] for _ in range(frames)]


class VideoTrainTransform:
    """
    Random frames of both halves of the video, random resized crop, horizontal flip, augmentation, normalization.

    Crop, flip and the names of the operations are the same for all frames of a clip. As in the original, frames are
    resized to (S, S) before the crop, which is then enlarged to (S, S) again.

    Args:
        image_size (`int`, *optional*, defaults to 224): side length S of the result in pixels.
        num_frames (`int`, *optional*, defaults to 8): number of frames F to sample.
        sampling (`str`, *optional*, defaults to `"headtail"`):
            `"headtail"` (as published), `"uniform"` or `"random"`; see `sample_frame_indices`.
        min_scale (`float`, *optional*, defaults to 0.5): minimum area of the crop, as a fraction of that of the frame.
        max_scale (`float`, *optional*, defaults to 1.0): maximum area of the crop, as a fraction of that of the frame.
        augment (`bool`, *optional*, defaults to `True`): whether to apply the augmentation of `randaugment`.
        count (`int`, *optional*, defaults to 2): number of operations to sample.
        level (`int`, *optional*, defaults to 5): strength of the operations from 0 to 10.
        wrap_overshoot (`bool`, *optional*, defaults to `True`):
            what happens to values that bicubic interpolation moves out of 0..255 at sharp edges. `True` (as published)
            wraps them around, so that single white pixels may turn black; `False` clips them.
        flip_probability (`float`, *optional*, defaults to 0.5):
            probability of the flip; 0 for datasets whose texts distinguish left from right.
        image_mean (`Sequence[float]`, *optional*, defaults to CLIP's): mean of each channel.
        image_std (`Sequence[float]`, *optional*, defaults to CLIP's): standard deviation of each channel.
        keep_frames (`bool`, *optional*, defaults to `False`):
            whether to decode every file once and keep its resized frames in memory, `F * S * S * 3` bytes each in each
            worker; only for `sampling="uniform"`, which takes the same frames every time.

    Raises:
        ValueError: an option is out of range, `sampling` is unknown, or `keep_frames` does not fit it.
    """

    def __init__(
        self,
        image_size: int = 224,
        num_frames: int = 8,
        sampling: str = "headtail",
        min_scale: float = 0.5,
        max_scale: float = 1.0,
        augment: bool = True,
        count: int = 2,
        level: int = 5,
        wrap_overshoot: bool = True,
        flip_probability: float = 0.5,
        image_mean: Sequence[float] = OPENAI_CLIP_MEAN,
        image_std: Sequence[float] = OPENAI_CLIP_STD,
        keep_frames: bool = False,
    ) -> None:
        if image_size < 1 or num_frames < 1 or not 0 < min_scale <= max_scale:
            raise ValueError(
                f"image_size is {image_size}, num_frames is {num_frames}, the scale is from {min_scale} to {max_scale};"
                " expected a positive size, at least one frame, and 0 < min_scale <= max_scale."
            )
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling is {sampling!r}; expected one of {', '.join(SAMPLINGS)}.")
        if keep_frames and sampling != "uniform":
            raise ValueError(f"keep_frames is True and sampling is {sampling!r}; expected sampling='uniform' with it.")
        if not 0 <= count <= len(OPERATIONS):
            raise ValueError(f"count is {count}; expected 0 to {len(OPERATIONS)} (the number of operations).")
        self.image_size = image_size
        self.num_frames = num_frames
        self.sampling = sampling
        self.scale = (min_scale, max_scale)
        self.augment = augment
        self.count = count
        self.level = level
        self.wrap_overshoot = wrap_overshoot
        self.flip_probability = flip_probability
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self._kept: dict[Any, np.ndarray] | None = {} if keep_frames else None

    def __call__(
        self,
        video: Any,
        generator: torch.Generator | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> torch.Tensor:
        """
        Load the frames of a video, and sample and apply a transform.

        Args:
            video: one video; see `LavisVideoProcessor`.
            generator (`torch.Generator`, *optional*):
                source of randomness; defaults to the global one of torch, which data loaders seed for each worker.
            start (`float`, *optional*): time in seconds from which frames are sampled; for files only.
            end (`float`, *optional*): time in seconds before which frames are sampled; for files only.

        Returns:
            `torch.Tensor` of shape `(F, 3, S, S)`: float32.

        Raises:
            FileNotFoundError, OSError: the video cannot be read; the message contains its name.
            ValueError: several videos are given, or there are no frames between `start` and `end`.
        """
        frames = self.read(video, generator, start, end)
        return self.apply(frames, self.draw(generator))

    def read(
        self,
        video: Any,
        generator: torch.Generator | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> np.ndarray:
        """
        Load randomly sampled frames of a video, resized.

        Args:
            video, generator, start, end: as for a call.

        Returns:
            `np.ndarray` of shape `(F, S, S, 3)`: uint8.
        """
        videos = list_of_videos(video)
        if len(videos) != 1:
            raise ValueError(f"Got {len(videos)} videos; expected one at a time.")

        def sample(length: int, first: int, last: int | None) -> list[int]:
            draws = FrameDraws(generator)
            return sample_frame_indices(length, self.num_frames, self.sampling, draws, first, last)

        source = videos[0]
        key = (os.fspath(source), start, end) if isinstance(source, (str, os.PathLike)) else None
        if self._kept is not None and key in self._kept:
            return self._kept[key]
        frames = load_video_frames(source, sample, self.image_size, self.image_size, start, end)
        if self._kept is not None and key is not None:
            self._kept[key] = frames
        return frames

    def draw(
        self,
        generator: torch.Generator | None = None,
        operation_draws: Draws | None = None,
        num_frames: int | None = None,
    ) -> VideoTrainDraw:
        """
        Sample a transform.

        Args:
            generator (`torch.Generator`, *optional*): source of randomness; defaults to the global one of torch.
            operation_draws ([`Draws`], *optional*):
                source of randomness of the operations; defaults to `generator`.
            num_frames (`int`, *optional*): number of frames of the clip; defaults to F.

        Returns:
            `VideoTrainDraw`: the transform.
        """
        crop = draw_crop(self.image_size, self.image_size, self.scale, generator=generator)
        flip = bool(torch.rand(1, generator=generator) < self.flip_probability)
        operations: Sequence[Sequence[Operation]] = ()
        if self.augment:
            draws = operation_draws or TorchDraws(generator)
            operations = draw_frame_operations(draws, num_frames or self.num_frames, self.count, self.level)
        return VideoTrainDraw(crop, flip, operations)

    def apply(self, frames: np.ndarray, draw: VideoTrainDraw) -> torch.Tensor:
        """
        Apply a sampled transform.

        Args:
            frames (`np.ndarray` of shape `(F, S, S, 3)`): uint8.
            draw ([`VideoTrainDraw`]): the transform.

        Returns:
            `torch.Tensor` of shape `(F, 3, S, S)`: float32.

        Raises:
            ValueError: the frames have another dtype or shape, or the transform is for another number of frames.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(
                f"Got frames of {frames.dtype} and shape {frames.shape}; expected uint8 and shape (F, S, S, 3)."
            )
        if draw.operations and len(draw.operations) != len(frames):
            raise ValueError(f"The draw has operations for {len(draw.operations)} frames, the clip has {len(frames)}.")
        top, left, height, width = draw.crop
        cropped = torch.from_numpy(frames[:, top : top + height, left : left + width]).permute(0, 3, 1, 2).float()
        # parity: interpolated as floats and without antialiasing
        cropped = functional.interpolate(cropped, size=(self.image_size, self.image_size), mode="bicubic")
        if draw.flip:
            cropped = cropped.flip(-1)
        cropped = cropped.permute(0, 2, 3, 1)
        if not self.wrap_overshoot:
            cropped = cropped.clamp(0, 255)
        clip = cropped.numpy().astype(np.int32).astype(np.uint8)
        if draw.operations:
            clip = np.stack([apply_operations(*pair) for pair in zip(clip, draw.operations, strict=True)])
        pixel_values = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self.image_mean, self.image_std))
        return ((pixel_values - mean) / std).contiguous()


def alpro_video_train(image_size: int = 224, num_frames: int = 8, **options: Any) -> VideoTrainTransform:
    """
    Training transform of ALPRO: crop, flip, two different operations of strength 5.

    Args:
        image_size (`int`, *optional*, defaults to 224): side length S of the result in pixels.
        num_frames (`int`, *optional*, defaults to 8): number of frames F to sample.
        options: other options of [`VideoTrainTransform`].

    Returns:
        `VideoTrainTransform`: transform from a video to float32 of shape `(F, 3, S, S)`.
    """
    return VideoTrainTransform(image_size, num_frames, **options)


__all__ = [
    "FrameDraws",
    "VideoTrainDraw",
    "VideoTrainTransform",
    "alpro_video_train",
    "draw_frame_operations",
]
