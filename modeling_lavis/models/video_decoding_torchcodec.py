# SPDX-License-Identifier: Apache-2.0
"""Single frames of video files by torchcodec, which is faster than PyAV, with the same numbers and pixels.

torchcodec is used where it is installed and finds the FFmpeg libraries of the machine; it brings none itself.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

_SLACK = 1e-6  # seconds; less than the unit of any file's times


@cache
def torchcodec_decoder() -> Any:
    """torchcodec's `VideoDecoder`, or `None` where it is not installed or cannot work."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError):  # the last two: no FFmpeg, or made for another torch
        return None
    return VideoDecoder


class TorchcodecFile:
    """
    The frames of a video file by number, as [`VideoFile`] gives them. Use it in a `with` statement.

    Args:
        source (`str` or `os.PathLike`): path or URL.

    Attributes: `name`; `length`, the number of frames.

    Raises:
        OSError: torchcodec cannot read it; names it.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.name = os.fspath(source)
        self._errors = (RuntimeError, ValueError, IndexError, TypeError)
        try:
            # one thread, as PyAV: the callers run in parallel where that is wanted
            self._decoder = torchcodec_decoder()(self.name, num_ffmpeg_threads=1)
            self.length = len(self._decoder)
        except self._errors as error:
            raise OSError(f"Cannot read the video {self.name}: {error}") from error
        if not self.length:
            raise OSError(f"The video {self.name} has no frames. It may be empty or cut off.")

    def __enter__(self) -> "TorchcodecFile":
        return self

    def __exit__(self, *details: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        del self._decoder

    def number_at(self, seconds: float) -> int:
        """Number of the first frame that is shown at or after a time, counted from the first frame."""
        target = self._shown_at(0) + seconds - _SLACK
        low, high = 0, self.length
        while low < high:
            middle = (low + high) // 2
            if self._shown_at(middle) < target:
                low = middle + 1
            else:
                high = middle
        return low

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
        last, picture = -1, None
        for number in numbers:
            if number != last or picture is None:
                picture = self._frame(number).data.permute(1, 2, 0).contiguous().numpy()
                last = number
            yield picture

    def _shown_at(self, number: int) -> float:
        return self._frame(number).pts_seconds

    def _frame(self, number: int) -> Any:
        try:
            return self._decoder.get_frame_at(number)
        except self._errors as error:
            raise OSError(
                f"Frame {number} of {self.length} of the video {self.name} cannot be decoded: {error}"
            ) from error


__all__ = ["TorchcodecFile", "torchcodec_decoder"]
