# SPDX-License-Identifier: Apache-2.0
"""Which frames of a video are looked at.

Letters: L frames of the video (or of the part that is asked for), n frames wanted.
"""

import random
from typing import Any

import numpy as np

SAMPLINGS = ("uniform", "headtail", "random")


def uniform_indices(length: int, count: int) -> list[int]:
    """
    Frames at even distances, the first included; fewer than `count` where there are not so many.

    The steps are those of a range of floats. For a few pairs of numbers (15 and 13, say) it has one entry more than was
    asked for, in the original too, which looks at one frame more then.
    """
    count = min(count, length)
    return np.arange(0, length, length / count).astype(int).tolist()


def headtail_indices(length: int, count: int, rng: Any = random) -> list[int]:
    """Half of the frames from each half of the video, at random and in order; one less for an odd `count`."""
    half, count = length // 2, min(count, length)
    head = rng.sample(range(half), count // 2)
    tail = rng.sample(range(half, length), count // 2)
    return sorted(head) + sorted(tail)


def random_indices(length: int, count: int, rng: Any = random) -> list[int]:
    """Frames from anywhere, each once, in order."""
    return sorted(rng.sample(range(length), min(count, length)))


def fit_count(indices: list[int], count: int) -> list[int]:
    """As many entries as wanted: repeated evenly where there are too few, cut off where there are too many."""
    if len(indices) >= count:
        return indices[:count]
    return [indices[place * len(indices) // count] for place in range(count)]


def frame_indices(
    length: int, count: int, sampling: str = "uniform", rng: Any = random, first: int = 0, last: int | None = None
) -> list[int]:
    """
    Exactly `count` frames of a video.

    Args:
        length (`int`): L, frames of the video.
        count (`int`): n, frames wanted.
        sampling (`str`, *optional*, defaults to `"uniform"`): `"uniform"`, `"headtail"` or `"random"`.
        rng (`random.Random`, *optional*): source of randomness; Python's own by default.
        first, last (`int`, *optional*): frames are taken from `first` on and before `last`.

    Returns:
        n numbers in order. A video (or a part) with fewer frames repeats them evenly.

    Raises:
        ValueError: there is no frame in the part, or the sampling is unknown.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling is {sampling!r}; expected one of {', '.join(SAMPLINGS)}.")
    if count < 1:
        raise ValueError(f"num_frames is {count}; expected at least one.")
    last = length if last is None else min(last, length)
    if last <= first:
        raise ValueError(f"There is no frame between number {first} and number {last}; the video has {length}.")
    part = last - first
    if sampling == "uniform" or part == 1:
        indices = uniform_indices(part, count)
    elif sampling == "headtail" and min(part, count) > 1:
        indices = headtail_indices(part, count, rng)
    else:
        indices = random_indices(part, count, rng)
    return [first + index for index in fit_count(indices, count)]


__all__ = [
    "SAMPLINGS",
    "fit_count",
    "frame_indices",
    "headtail_indices",
    "random_indices",
    "uniform_indices",
]
