# SPDX-License-Identifier: Apache-2.0
"""The training transform of ALPRO, split as that of pictures: `draw` decides what happens, `apply` does it.

With the draws of the original put in, the result equals that of LAVIS 1.0.2 bit for bit, once frames are decoded and
resized.

Letters: F frames, S side, L frames of the video (or of the part that is asked for).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from modeling_lavis.data.randaugment import OPERATIONS, Draws, Operation, TorchDraws, apply_operations, arguments_of
from modeling_lavis.data.transforms import draw_crop
from modeling_lavis.models.video_processing_lavis import (
    SAMPLINGS,
    list_of_videos,
    load_video_frames,
    sample_frame_indices,
)


@dataclass(frozen=True)
class VideoTrainDraw:
    """Everything that is random about one clip, apart from which frames are taken.

    Args:
        crop: (top, left, height, width) of the part that is kept of every frame, in pixels of the resized frame.
        flip: whether the clip is mirrored left to right.
        operations: for each frame what the augmentation does, in order; empty for none.
    """

    crop: tuple[int, int, int, int]
    flip: bool = False
    operations: Sequence[Sequence[Operation]] = ()


class FrameDraws:
    """Draws of `frame_indices` (`random.Random`'s method) from a `torch.Generator`, None for the global one."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def sample(self, population: Sequence[int], k: int) -> list[int]:
        """`k` different entries of `population`."""
        return [population[place] for place in torch.randperm(len(population), generator=self.generator)[:k].tolist()]


def draw_frame_operations(draws: Any, frames: int, count: int = 2, level: int = 5) -> list[list[Operation]]:
    """Draw what is done to each frame of a clip: the same different operations for all, warps with a sign for each.

    Args:
        draws: source of randomness ([`Draws`]). With `numpy.random.RandomState(seed)` the operations are those that the
            original draws after `numpy.random.seed(seed)`.
        frames: F.
        count: operations, at most as many as there are.
        level: strength, 0 to 10.
    """
    if isinstance(draws, np.random.RandomState):
        # parity: names without replacement, and one number for each of them that decides nothing
        names = [str(name) for name in draws.choice(list(OPERATIONS), count, replace=False)]
        draws.random_sample(count)
    else:
        left = list(OPERATIONS)
        names = [left.pop(int(draws.random() * len(left))) for _ in range(count)]
    return [[Operation(name, arguments_of(name, level, draws)) for name in names] for _ in range(frames)]


class VideoTrainTransform:
    """Frames at random from both halves of the video, random resized crop, flip, augmentation, normalisation.

    Crop, flip and names of the operations are the same for all frames of a clip. Frames are resized to (S, S) before
    the crop, so a crop is enlarged from there, as in the original.

    Args:
        image_size: S.
        num_frames: F.
        sampling: "headtail" (published), "uniform" or "random"; see `video_sampling`.
        min_scale, max_scale: bounds of the share of the area that is kept.
        augment: whether the augmentation of `randaugment` is drawn.
        count, level: how many operations are drawn, and their strength from 0 to 10.
        wrap_overshoot: the bicubic enlargement overshoots at sharp edges; True (published) lets the values wrap round,
            so that white may turn black in single pixels, False holds them at 0 and 255.
        flip_probability: of mirroring; 0 for data whose texts tell left from right.
        image_mean, image_std: per channel, in 0..1; default those of CLIP.
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
    ) -> None:
        if image_size < 1 or num_frames < 1 or not 0 < min_scale <= max_scale:
            raise ValueError(
                f"image_size is {image_size}, num_frames {num_frames}, the scale from {min_scale} to {max_scale}; "
                "expected a positive size, at least one frame, and 0 < min_scale <= max_scale."
            )
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling is {sampling!r}; expected one of {', '.join(SAMPLINGS)}.")
        if not 0 <= count <= len(OPERATIONS):
            raise ValueError(f"count is {count}; the operations of a clip differ, and there are {len(OPERATIONS)}.")
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

    def __call__(
        self,
        video: Any,
        generator: torch.Generator | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> torch.Tensor:
        """Read, draw and apply.

        Args:
            video: what `LavisVideoProcessor` takes as one video.
            generator: source of randomness; None takes torch's global one, which data loaders seed for each worker.
            start, end: seconds between which frames are taken, of files only.

        Returns:
            float32 (F, 3, S, S).
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
        """The frames of a video that are drawn: uint8 (F, S, S, 3)."""
        videos = list_of_videos(video)
        if len(videos) != 1:
            raise ValueError(f"Got {len(videos)} videos; the transform takes one at a time.")

        def choose(length: int, first: int, last: int | None) -> list[int]:
            draws = FrameDraws(generator)
            return sample_frame_indices(length, self.num_frames, self.sampling, draws, first, last)

        return load_video_frames(videos[0], choose, self.image_size, self.image_size, start, end)

    def draw(
        self,
        generator: torch.Generator | None = None,
        operation_draws: Draws | None = None,
        num_frames: int | None = None,
    ) -> VideoTrainDraw:
        """Draw what happens to a clip.

        Args:
            generator: source of randomness; None takes torch's global one.
            operation_draws: source for the operations; None takes `generator`.
            num_frames: frames of the clip, F by default.
        """
        crop = draw_crop(self.image_size, self.image_size, self.scale, generator=generator)
        flip = bool(torch.rand(1, generator=generator) < self.flip_probability)
        operations: Sequence[Sequence[Operation]] = ()
        if self.augment:
            draws = operation_draws or TorchDraws(generator)
            operations = draw_frame_operations(draws, num_frames or self.num_frames, self.count, self.level)
        return VideoTrainDraw(crop, flip, operations)

    def apply(self, frames: np.ndarray, draw: VideoTrainDraw) -> torch.Tensor:
        """Apply a draw to frames.

        Args:
            frames: uint8 (F, S, S, 3).
            draw: what happens.

        Returns:
            float32 (F, 3, S, S).
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(f"Frames are {frames.dtype} {frames.shape}; expected uint8 (F, S, S, 3).")
        if draw.operations and len(draw.operations) != len(frames):
            raise ValueError(f"The draw has operations for {len(draw.operations)} frames, the clip has {len(frames)}.")
        top, left, high, wide = draw.crop
        part = torch.from_numpy(frames[:, top : top + high, left : left + wide]).permute(0, 3, 1, 2).float()
        # parity: enlarged as floats and without antialiasing
        part = functional.interpolate(part, size=(self.image_size, self.image_size), mode="bicubic")
        if draw.flip:
            part = part.flip(-1)
        part = part.permute(0, 2, 3, 1)
        if not self.wrap_overshoot:
            part = part.clamp(0, 255)
        clip = part.numpy().astype(np.int32).astype(np.uint8)
        if draw.operations:
            clip = np.stack([apply_operations(*pair) for pair in zip(clip, draw.operations, strict=True)])
        pixels = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self.image_mean, self.image_std))
        return ((pixels - mean) / std).contiguous()


def alpro_video_train(image_size: int = 224, num_frames: int = 8, **options: Any) -> VideoTrainTransform:
    """The training transform of ALPRO: crop, flip, two different operations of strength 5 on every frame."""
    return VideoTrainTransform(image_size, num_frames, **options)


__all__ = [
    "FrameDraws",
    "VideoTrainDraw",
    "VideoTrainTransform",
    "alpro_video_train",
    "draw_frame_operations",
]
