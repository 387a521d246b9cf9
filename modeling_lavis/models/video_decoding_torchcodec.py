# SPDX-License-Identifier: Apache-2.0
"""Single frames of video files by torchcodec, which is faster than PyAV, with the same numbers and pixels.

torchcodec is used where it is installed and finds the FFmpeg libraries of the machine; it brings none itself.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np

from .video_decoding_base import VideoReader

_ERRORS = (RuntimeError, ValueError, IndexError, TypeError)


@cache
def torchcodec_decoder() -> Any:
    """torchcodec's `VideoDecoder`, or `None` where it is not installed or cannot work."""
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError):  # the last two: no FFmpeg, or made for another torch
        return None
    # Its newer versions can be imported without FFmpeg, since they also read single pictures, and say so here.
    return VideoDecoder if getattr(torchcodec, "ffmpeg_major_version", "unknown") is not None else None


class TorchcodecFile(VideoReader):
    """A video file read by torchcodec; see [`VideoReader`]."""

    _decoder: Any = None

    def close(self) -> None:
        """Close the file, however far it was opened."""
        self._decoder = None

    def shown_at(self, number: int) -> float:
        """When a frame is shown, in seconds of the file's own clock."""
        return self._frame(number).pts_seconds

    def _open(self) -> int:
        try:
            # one thread, as PyAV: the callers run in parallel where that is wanted
            self._decoder = torchcodec_decoder()(self.name, num_ffmpeg_threads=1)
            return len(self._decoder)
        except _ERRORS as error:
            raise self._unreadable(error) from error

    def _pictures(self, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        for number in numbers:
            yield self._frame(number).data.permute(1, 2, 0).contiguous().numpy()

    def _frame(self, number: int) -> Any:
        try:
            return self._decoder.get_frame_at(number)
        except _ERRORS as error:
            raise self._undecodable(number, error) from error


__all__ = ["TorchcodecFile", "torchcodec_decoder"]
