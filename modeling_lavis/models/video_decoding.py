# SPDX-License-Identifier: Apache-2.0
"""Single frames of video files, by PyAV: the file is never held or decoded as a whole.

A frame is known by its number in the order in which frames are shown. To find its time, the times of all frames are
read, from the file's index where it has a whole one (mp4, avi) and else from the headers of its packets; that is 8
bytes per frame. Then the decoder jumps to the last key frame before each frame that is wanted. (Only AVI files whose
frames change places between decoding and showing are decoded from the start.)
"""

import bisect
import itertools
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .video_decoding_base import VideoReader

_RETREATS = (0, 1, 4, 16)  # seconds to jump further back when a key frame turns out to be shown too late


def require_av() -> Any:
    """PyAV; `ImportError` names the extra that brings it."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "Reading video files needs PyAV, which is not installed. Install it with: pip install "
            '"modeling-lavis[video]". Clips that are arrays or lists of pictures can be used without.'
        ) from error
    return av


class VideoFile(VideoReader):
    """
    A video file read by PyAV; see [`VideoReader`].

    Attributes: `times`, the time stamps of the frames in `time_base` seconds.
    """

    _container: Any = None

    def close(self) -> None:
        """Close the file, however far it was opened."""
        if self._container is not None:
            self._container.close()

    def shown_at(self, number: int) -> float:
        """When a frame is shown, in seconds of the file's own clock."""
        return float(self.times[number] * self.time_base)

    # ---- parts ----

    def _open(self) -> int:
        self._av = require_av()
        self._container, self._stream = self._first_stream()
        self.time_base = self._stream.time_base
        self.times, self._keys = self._read_times()
        # AVI keeps the times of decoding only, which are not those of showing where frames change places.
        self._count_only = self._container.format.name == "avi" and self._stream.codec_context.has_b_frames
        return len(self.times)

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

    def _first_stream(self) -> tuple[Any, Any]:
        """The file opened anew, and its pictures."""
        try:
            container = self._av.open(self.name)
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            raise self._unreadable(error) from error
        if not container.streams.video:
            container.close()
            raise OSError(f"The file {self.name} has no pictures in it, so it is no video.")
        return container, container.streams.video[0]

    def _read_times(self) -> tuple[array, array]:
        """Times of all frames and of the key frames, ascending."""
        entries = self._stream.index_entries
        if self._stream.frames and len(entries) == self._stream.frames and self._stream.start_time is not None:
            times = array("q", (entry.timestamp for entry in entries))
            # The index tells when frames are decoded; that is when they are shown, moved by a constant, if they stand
            # at even distances or never change places.
            steps = {after - before for before, after in zip(times, times[1:])}
            if len(steps) <= 1 or not self._stream.codec_context.has_b_frames:
                move = self._stream.start_time - times[0]
                keys = array("q", (entry.timestamp + move for entry in entries if entry.is_keyframe))
                if not any(entry.is_discard for entry in entries):
                    return array("q", (time + move for time in times)), keys
        times, keys = array("q"), array("q")
        try:
            for packet in self._container.demux(self._stream):
                time = packet.dts if packet.pts is None else packet.pts
                if time is None or packet.is_discard or not packet.size:
                    continue
                times.append(time)
                if packet.is_keyframe:
                    keys.append(time)
        except self._av.error.FFmpegError as error:
            if not times:
                raise self._unreadable(error) from error
        return array("q", sorted(set(times))), array("q", sorted(keys))

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
        self._container, self._stream = self._first_stream()
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
    picture: np.ndarray = frame.to_ndarray(format="rgb24")
    turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


__all__ = ["VideoFile", "require_av", "upright_rgb"]
