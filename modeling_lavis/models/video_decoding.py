# SPDX-License-Identifier: Apache-2.0
"""Single frames of video files, by PyAV: the file is never held or decoded as a whole.

A frame is known by its number in the order in which frames are shown. To find its time, the times of all frames are
read, from the file's index where it has a whole one (mp4, avi) and else from the headers of its packets; that is 8
bytes per frame. Then the decoder jumps to the last key frame before each frame that is wanted. (Only AVI files whose
frames change places between decoding and showing are decoded from the start.)
"""

import bisect
import itertools
import math
import os
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

URLS = ("http://", "https://")
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


class VideoFile:
    """
    The frames of a video file by number. Use it in a `with` statement.

    Args:
        source (`str` or `os.PathLike`): path or URL.

    Attributes: `name`; `length`, the number of frames; `times`, their time stamps in `time_base` seconds.

    Raises:
        FileNotFoundError: no such file. OSError: it is broken or has no frames. Both name it.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.name = os.fspath(source)
        self._av = require_av()
        if not self.name.startswith(URLS) and not os.path.exists(self.name):
            raise FileNotFoundError(f"No such video: {self.name}. Check the path, or the folder it is relative to.")
        self._container = self._open()
        try:
            self._stream = self._first_stream()
            self.time_base = self._stream.time_base
            self.times, self._keys = self._read_times()
            # AVI keeps the times of decoding only, which are not those of showing where frames change places.
            self._count_only = self._container.format.name == "avi" and self._stream.codec_context.has_b_frames
            if not self.times:
                raise OSError(f"The video {self.name} has no frames. It may be empty or cut off.")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *details: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    @property
    def length(self) -> int:
        """Number of frames."""
        return len(self.times)

    def number_at(self, seconds: float) -> int:
        """Number of the first frame that is shown at or after a time, counted from the first frame."""
        target = self.times[0] + math.ceil(seconds / self.time_base - 1e-6)
        return bisect.bisect_left(self.times, target)

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
        decoded: Iterator[Any] | None = None
        shown, last = 0, -1
        picture: np.ndarray | None = None
        for number in numbers:
            if number == last and picture is not None:
                yield picture
                continue
            if self._count_only:
                decoded = self._decoded() if decoded is None else decoded
                frame = next(itertools.islice(decoded, number - last - 1, None), None)
            else:
                target = self._time_at(number)
                if decoded is None or self._should_jump(shown, target):
                    decoded, frame = self._jump(target)
                else:
                    frame = next(decoded, None)
                while frame is not None and _time_of(frame) < target:
                    frame = next(decoded, None)
            if frame is None:
                raise OSError(
                    f"Frame {number} of {self.length} of the video {self.name} cannot be decoded. The file may be cut "
                    "off; give an earlier end=, or make the file anew."
                )
            shown, last, picture = _time_of(frame), number, upright_rgb(frame)
            yield picture

    # ---- parts ----

    def _time_at(self, number: int) -> int:
        if number >= self.length:
            raise OSError(f"Frame {number} of {self.length} of the video {self.name} is not there.")
        return self.times[number]

    def _open(self) -> Any:
        try:
            return self._av.open(self.name)
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            raise OSError(f"Cannot read the video {self.name}: {error}") from error

    def _first_stream(self) -> Any:
        if not self._container.streams.video:
            raise OSError(f"The file {self.name} has no pictures in it, so it is no video.")
        return self._container.streams.video[0]

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
                raise OSError(f"Cannot read the video {self.name}: {error}") from error
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
        self._container.close()
        self._container = self._open()
        self._stream = self._first_stream()
        decoded = self._decoded()
        return decoded, next(decoded, None)

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


__all__ = ["URLS", "VideoFile", "require_av", "upright_rgb"]
