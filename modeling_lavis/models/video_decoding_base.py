# SPDX-License-Identifier: Apache-2.0
"""What all readers of video files have in common: frames by number, numbers by time, errors that name the file."""

import bisect
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np

URLS = ("http://", "https://")
_SLACK = 1e-6  # seconds; no more than the unit of times in files


class VideoReader(ABC):
    """
    The frames of a video file by number, counted in the order in which they are shown. Use it in a `with` statement.

    A reader says how it opens and closes a file, when a frame is shown, and how it decodes frames.

    Args:
        source (`str` or `os.PathLike`): path or URL.

    Attributes: `name`; `length`, the number of frames.

    Raises:
        FileNotFoundError: no such file. OSError: it is broken or has no frames. Both name it.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.name = os.fspath(source)
        if not self.name.startswith(URLS) and not os.path.exists(self.name):
            raise FileNotFoundError(f"No such video: {self.name}. Check the path, or the folder it is relative to.")
        try:
            self.length = self._open()
            if not self.length:
                raise OSError(f"The video {self.name} has no frames. It may be empty or cut off.")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: Any) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the file, however far it was opened."""

    def number_at(self, seconds: float) -> int:
        """Number of the first frame that is shown at or after a time, counted from the first frame."""
        return bisect.bisect_left(range(self.length), self.shown_at(0) + seconds - _SLACK, key=self.shown_at)

    @abstractmethod
    def shown_at(self, number: int) -> float:
        """When a frame is shown, in seconds of the file's own clock."""

    def frames(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """
        Decode frames.

        Args:
            numbers (sequence of `int`): in ascending order; repetitions are decoded once.

        Yields:
            Arrays (H, W, 3) of 8-bit RGB, turned upright.

        Raises:
            OSError: a frame cannot be decoded; names file and frame.
        """
        runs = [(number, len(list(same))) for number, same in itertools.groupby(numbers)]
        for number, _ in runs:
            if not 0 <= number < self.length:
                raise OSError(f"Frame {number} of {self.length} of the video {self.name} is not there.")
        pictures = self._pictures(number for number, _ in runs)
        for (_, times), picture in zip(runs, pictures, strict=True):
            yield from itertools.repeat(picture, times)

    @abstractmethod
    def _open(self) -> int:
        """Open the file; its number of frames."""

    @abstractmethod
    def _pictures(self, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        """Frames that are there, each wanted once, ascending."""

    def _unreadable(self, error: Exception) -> OSError:
        return OSError(f"Cannot read the video {self.name}: {error}")

    def _undecodable(self, number: int, error: Exception | None = None) -> OSError:
        reason = "" if error is None else f" ({error})"
        return OSError(
            f"Frame {number} of {self.length} of the video {self.name} cannot be decoded{reason}. The file may be cut "
            "off; give an earlier end=, or make the file anew."
        )


__all__ = ["URLS", "VideoReader"]
