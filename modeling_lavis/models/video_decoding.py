# SPDX-License-Identifier: Apache-2.0
"""Single frames of video files, by PyAV: the file is never held or decoded as a whole.

The decoder jumps to the last key frame before each frame that is wanted. (Only MPEG program streams, and AVI files
whose frames change places between decoding and showing, are decoded from the start.)
"""

import bisect
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .video_decoding_base import VideoReader, require_av

_RETREATS = (0, 1, 4, 16)  # seconds to jump further back when a key frame turns out to be shown too late


class VideoFile(VideoReader):
    """A video file whose frames PyAV decodes; see [`VideoReader`]."""

    def _prepare(self) -> None:
        # AVI keeps the times of decoding only, which are not those of showing where frames change places. In program
        # streams, the times that are found depend on where reading began.
        may_move = self._stream.codec_context.has_b_frames
        self._count_only = self._container_name == "mpeg" or (self._container_name == "avi" and may_move)

    def _pictures(self, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        decoded: Iterator[Any] | None = None
        shown, last = 0, -1
        for number in numbers:
            if self._count_only:
                decoded = self._from_the_start() if decoded is None else decoded
                frame = next(itertools.islice(decoded, number - last - 1, None), None)
            else:
                target = self.times[number]
                if decoded is None or self._should_jump(shown, target):
                    decoded, frame = self._jump(target)
                else:
                    frame = next(decoded, None)
                while frame is not None and _time_of(frame) < target:
                    frame = next(decoded, None)
            if frame is None:
                raise self._undecodable(number)
            shown, last = _time_of(frame), number
            yield upright_rgb(frame)

    def _should_jump(self, shown: int, target: int) -> bool:
        """Whether a key frame lies between the frame that was shown last and the one that is wanted."""
        return bisect.bisect_right(self._keys, target) > bisect.bisect_right(self._keys, shown)

    def _jump(self, target: int) -> tuple[Iterator[Any], Any]:
        """Frames from a key frame before a time on, and the first of them."""
        for seconds in _RETREATS:
            earlier = target - round(seconds / self.time_base)
            if earlier < self.times[0]:
                break
            try:
                self._container.seek(earlier, stream=self._stream, backward=True)
            except self._av.error.FFmpegError:
                break
            decoded = self._decoded()
            frame = next(decoded, None)
            if frame is not None and _time_of(frame) <= target:
                return decoded, frame
        decoded = self._from_the_start()
        return decoded, next(decoded, None)

    def _from_the_start(self) -> Iterator[Any]:
        """All frames; not every file can be wound back, so it is opened again."""
        self._container.close()
        self._container, self._stream = self._opened()
        return self._decoded()

    def _decoded(self) -> Iterator[Any]:
        """Frames from where the file stands on; damaged ones are passed over."""
        packets: Iterator[Any] = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                frames: list[Any] = packet.decode()
            except self._av.error.EOFError:
                return
            except self._av.error.FFmpegError:
                continue
            yield from (frame for frame in frames if _time_of(frame) is not None)


def _time_of(frame: Any) -> Any:
    return frame.dts if frame.pts is None else frame.pts


def upright_rgb(frame: Any) -> np.ndarray:
    """A decoded frame of any pixel format as 8-bit RGB (H, W, 3), turned as its rotation flag says."""
    # torchcodec's way with colours of fewer places than the frame, as FFmpeg's own; PyAV's default is another
    picture: np.ndarray = _whole(frame).to_ndarray(format="rgb24", interpolation="BICUBIC")
    turns = round((frame.rotation or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _whole(frame: Any) -> Any:
    """The frame without the mark of being two half-pictures, whose colours would be made apart."""
    if not frame.interlaced_frame:
        return frame
    graph = require_av().filter.Graph()
    ends = (
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base),
        graph.add("setfield", "prog"),
        graph.add("buffersink"),
    )
    graph.link_nodes(*ends).configure()
    graph.push(frame)
    return graph.pull()


__all__ = ["VideoFile", "upright_rgb"]
