# SPDX-License-Identifier: Apache-2.0
"""Which frames a video file has: their times, by PyAV, and what is common to those that decode them.

A frame is known by its number in the order in which frames are shown. The times of all frames are read from the file's
index where it has a whole one (mp4, avi) and else from the headers of its packets; that is 8 bytes per frame.
"""

import bisect
import itertools
import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np

_URLS = ("http://", "https://")
_SLACK = 1e-6  # seconds; no more than the unit of times in files


def require_av() -> Any:
    """PyAV; `ImportError` names the extra that brings it."""
    try:
        import av
        import av.filter
    except ImportError as error:
        raise ImportError(
            "Reading video files needs PyAV, which is not installed. Install it with: pip install "
            '"modeling-lavis[video]". Clips that are arrays or lists of pictures can be used without.'
        ) from error
    return av


class VideoReader(ABC):
    """
    The frames of a video file by number. Use it in a `with` statement.

    Args:
        source (`str` or `os.PathLike`): path or URL.

    Attributes: `name`; `length`, the number of frames; `times`, their time stamps in `time_base` seconds.

    Raises:
        FileNotFoundError: no such file. OSError: it is broken or has no frames. Both name it.
    """

    _container: Any = None

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.name = os.fspath(source)
        if not self.name.startswith(_URLS) and not os.path.exists(self.name):
            raise FileNotFoundError(f"No such video: {self.name}. Check the path, or the folder it is relative to.")
        self._av = require_av()
        try:
            self._container, self._stream = self._opened()
            self.time_base = self._stream.time_base
            self.times, self._keys = self._read_times()
            if not self.times:
                raise OSError(f"The video {self.name} has no frames. It may be empty or cut off.")
            self._prepare()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, however far it was opened."""
        if self._container is not None:
            self._container.close()

    @property
    def length(self) -> int:
        """Number of frames."""
        return len(self.times)

    def shown_at(self, number: int) -> float:
        """When a frame is shown, in seconds of the file's own clock."""
        return float(self.times[number] * self.time_base)

    def number_at(self, seconds: float) -> int:
        """Number of the first frame that is shown at or after a time, counted from the first frame."""
        return bisect.bisect_left(range(self.length), self.shown_at(0) + seconds - _SLACK, key=self.shown_at)

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

    # ---- what a reader does in its own way ----

    @abstractmethod
    def _prepare(self) -> None:
        """Get ready to decode; `OSError` where the reader cannot."""

    @abstractmethod
    def _pictures(self, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        """Frames that are there, each wanted once, ascending."""

    # ---- parts ----

    @property
    def _container_name(self) -> str:
        """FFmpeg's name of the kind of file, by its content."""
        return self._container.format.name

    def _opened(self) -> tuple[Any, Any]:
        """The file, opened anew, and its pictures."""
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
        entries = getattr(self._stream, "index_entries", ())  # older versions of PyAV do not tell
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

    def _unreadable(self, error: Exception) -> OSError:
        return OSError(f"Cannot read the video {self.name}: {error}")

    def _undecodable(self, number: int, reason: str = "") -> OSError:
        return OSError(
            f"Frame {number} of {self.length} of the video {self.name} cannot be decoded{reason}. The file may be cut "
            "off; give an earlier end=, or make the file anew."
        )


__all__ = ["VideoReader", "require_av"]
