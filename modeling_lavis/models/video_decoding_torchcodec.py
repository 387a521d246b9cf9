# SPDX-License-Identifier: Apache-2.0
"""Single frames of video files by torchcodec, which is faster than PyAV, with the same numbers and pixels.

torchcodec is used where it is installed and finds the FFmpeg libraries of the machine; it brings none itself. Frames
that it finds by their number are not always the right ones (leading frames of open groups in HEVC, MPEG streams), so
their times are compared with those that PyAV reads.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np

from .video_decoding_base import VideoReader

_ERRORS = (RuntimeError, ValueError, IndexError, TypeError)
# FFmpeg's names of files that keep the times of decoding at best, so that frames cannot be told by them
_WITHOUT_TIMES = ("avi", "mpeg")


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
    """
    A video file whose frames torchcodec decodes; see [`VideoReader`].

    Raises:
        OSError: also where torchcodec finds other frames than PyAV.
    """

    def _prepare(self) -> None:
        if self._container_name in _WITHOUT_TIMES:
            raise OSError(f"The video {self.name} does not tell when its frames are shown.")
        try:
            # one thread, as PyAV: the callers run in parallel where that is wanted
            self._decoder = torchcodec_decoder()(self.name, num_ffmpeg_threads=1)
            found = len(self._decoder)
        except _ERRORS as error:
            raise self._unreadable(error) from error
        if found != self.length:
            raise OSError(f"torchcodec finds {found} frames in the video {self.name}; expected {self.length}.")

    def _pictures(self, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        unit = float(self.time_base)
        for number in numbers:
            try:
                frame = self._decoder.get_frame_at(number)
            except _ERRORS as error:
                raise self._undecodable(number, f" by torchcodec ({error})") from error
            if abs(frame.pts_seconds - self.shown_at(number)) > unit / 2:
                raise self._undecodable(number, f" by torchcodec (it gives one of second {frame.pts_seconds})")
            yield frame.data.permute(1, 2, 0).contiguous().numpy()


__all__ = ["TorchcodecFile", "torchcodec_decoder"]
