# SPDX-License-Identifier: Apache-2.0
"""Frame-accurate decoding of video files by PyAV or torchcodec.

A frame is identified by its index in presentation order. PyAV reads the timestamps of all frames from the index of the
file if it has a complete one (mp4, avi), otherwise from the packet headers; that takes 8 bytes per frame. A file is
never loaded or decoded as a whole:

* [`PyAVReader`] seeks to the last key frame before each requested frame. (MPEG program streams, and AVI files with
  B-frames, are decoded from the start.)
* [`TorchcodecReader`] is faster and gives the same frames and pixels. torchcodec needs the FFmpeg libraries of the
  machine; it brings none itself. The frames that it returns for an index are not always the right ones (leading frames
  of open GOPs in HEVC, MPEG streams), so their timestamps are compared with those that PyAV reads.

[`read_frames`] uses torchcodec where it works and PyAV otherwise.
"""

import bisect
import itertools
import os
import struct
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, BinaryIO, TypeVar

import numpy as np

_URL_PREFIXES = ("http://", "https://")
_TIME_TOLERANCE = 1e-6  # seconds; at most the time unit of a file
_SEEK_MARGINS = (0, 1, 4, 16)  # seconds to seek further back if a key frame is presented after the requested time
_TORCHCODEC_ERRORS = (RuntimeError, ValueError, IndexError, TypeError)
_Reader = TypeVar("_Reader", bound="VideoReader")
# FFmpeg's names of containers that store decoding timestamps at best, so frames cannot be identified by them.
_CONTAINERS_WITHOUT_TIMESTAMPS = ("avi", "mpeg")
# The containers that are read. Others of FFmpeg are playlists and scripts, which open further files and addresses.
_CONTAINERS = (
    "3gp,amv,apng,asf,av1,avi,avs2,avs3,cavsvideo,dirac,dv,dxa,evc,f4v,flic,flv,gif,gxf,h261,h263,h264,hevc,ivf,ivi,"
    "live_flv,m4v,matroska,mjpeg,mjpeg_2000,mkv,mov,mp4,mpeg,mpegts,mpegtsraw,mpegvideo,mxf,nut,obu,ogg,rm,roq,smjpeg,"
    "smk,vc1,vc1test,vivo,vvc,webm,wtv,yuv4mpegpipe"
)
_PROTOCOLS = "file"
_URL_PROTOCOLS = "http,https,tcp,tls,httpproxy"
_URL_TIMEOUT = 60.0  # seconds without an answer
#: Largest number of pixels of a frame: four times those of 8K. FFmpeg keeps up to 17 frames of a stream in memory.
MAX_FRAME_PIXELS = 2**27
# Boxes of an mp4 file that contain boxes, among them those with the numbers of samples.
_BOXES_WITH_BOXES = frozenset({b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl", b"moof", b"traf"})
_MAX_BOXES = 1_000_000
_MAX_EDITED_SAMPLES = 2**26
# what PyAV raises in addition to its own errors for streams whose header contradicts itself
_WRONG_STREAM = (ArithmeticError, AttributeError, IndexError, MemoryError, RuntimeError, TypeError, ValueError)

FrameSelector = Callable[[int, Callable[[float], int]], Sequence[int]]


def read_frames(source: str | os.PathLike[str], select: FrameSelector) -> Iterator[np.ndarray]:
    """
    Decode the selected frames of a video file.

    Args:
        source (`str` or `os.PathLike`): path or URL.
        select (`Callable`):
            called with the number of frames and a function from a time in seconds to the index of a frame; returns the
            indices of the frames to decode, in ascending order.

    Yields:
        `np.ndarray` of shape `(H, W, 3)`: 8-bit RGB.

    Raises:
        FileNotFoundError: the file does not exist; the message contains its name.
        OSError: the file cannot be read or a frame cannot be decoded; the message contains its name.
        ImportError: PyAV is not installed.
    """
    name = os.fspath(source)
    indices: Sequence[int] | None = None
    num_yielded = 0
    if torchcodec_decoder() is not None:
        try:
            with TorchcodecReader(name) as video:
                indices = select(video.length, video.index_at)
                for frame in video.frames(indices):
                    yield frame
                    num_yielded += 1
            return
        except FileNotFoundError:
            raise
        except OSError:
            pass  # PyAV skips corrupted packets that stop torchcodec, and reports what it cannot read either
    with PyAVReader(name) as video:
        remaining = select(video.length, video.index_at) if indices is None else indices[num_yielded:]
        yield from video.frames(remaining)


def require_av() -> Any:
    """
    Import PyAV.

    Raises:
        ImportError: PyAV is not installed; the message contains the extra to install.
    """
    try:
        import av
        import av.filter
    except ImportError as error:
        raise ImportError(
            "Reading video files needs PyAV, which is not installed. Install it with: pip install "
            '"modeling-lavis[video]". Videos given as arrays or lists of images do not need it.'
        ) from error
    return av


@cache
def torchcodec_decoder() -> Any:
    """torchcodec's `VideoDecoder`, or `None` if torchcodec is not installed or does not work."""
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError):  # the last two: no FFmpeg, or built for another version of torch
        return None
    # Newer versions decode images, too, so they can be imported without FFmpeg and report its absence here.
    return VideoDecoder if getattr(torchcodec, "ffmpeg_major_version", "unknown") is not None else None


class VideoReader(ABC):
    """
    Random access to the frames of a video file. Use it as a context manager.

    Args:
        source (`str` or `os.PathLike`): path or URL.

    Attributes:
        name (`str`): path or URL.
        length (`int`): number of frames.
        timestamps (`array` of `int`): presentation timestamps of all frames, ascending, in units of `time_base`.
        time_base (`Fraction`): unit of the timestamps in seconds.

    Raises:
        FileNotFoundError: the file does not exist; the message contains its name.
        OSError: the file is corrupted or has no frames; the message contains its name.
        ImportError: PyAV is not installed.
    """

    _container: Any = None

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.name = os.fspath(source)
        if not self.name.startswith(_URL_PREFIXES) and not os.path.exists(self.name):
            raise FileNotFoundError(f"No such video: {self.name}. Check the path, or the folder it is relative to.")
        self._av = require_av()
        if not self.name.startswith(_URL_PREFIXES):
            check_sample_counts(self.name)
        try:
            self._container, self._stream = self._open()
            self.time_base = self._stream.time_base
            self.timestamps, self._key_timestamps = self._read_timestamps()
            if not self.timestamps:
                raise OSError(f"The video {self.name} has no frames. It may be empty or truncated.")
            self._prepare_decoder()
        except _WRONG_STREAM as error:
            self.close()
            raise self._read_error(error) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self: _Reader) -> _Reader:
        return self

    def __exit__(self, *details: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, even if it was opened only partly."""
        if self._container is not None:
            self._container.close()

    @property
    def length(self) -> int:
        """Number of frames."""
        return len(self.timestamps)

    def seconds_at(self, index: int) -> float:
        """Presentation time of a frame in seconds, on the clock of the file."""
        return float(self.timestamps[index] * self.time_base)

    def index_at(self, seconds: float) -> int:
        """Index of the first frame presented at or after a time in seconds, measured from the first frame."""
        return bisect.bisect_left(
            range(self.length), self.seconds_at(0) + seconds - _TIME_TOLERANCE, key=self.seconds_at
        )

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """
        Decode frames.

        Args:
            indices (`Sequence[int]`): indices in ascending order; repeated ones are decoded once.

        Yields:
            `np.ndarray` of shape `(H, W, 3)`: 8-bit RGB, rotated for display.

        Raises:
            OSError: an index is out of range, or a frame cannot be decoded; the message contains file and frame.
        """
        runs = [(index, len(list(repeats))) for index, repeats in itertools.groupby(indices)]
        for index, _ in runs:
            if not 0 <= index < self.length:
                raise OSError(
                    f"Frame {index} of {self.length} of the video {self.name} does not exist; expected an index from 0 "
                    f"to {self.length - 1}."
                )
        frames = self._decode_frames(index for index, _ in runs)
        for index, count in runs:
            try:
                frame = next(frames)
            except OSError:
                raise
            except (self._av.error.FFmpegError, StopIteration, *_WRONG_STREAM) as error:
                raise self._decode_error(index, f" ({type(error).__name__}: {error})") from error
            yield from itertools.repeat(frame, count)

    @abstractmethod
    def _prepare_decoder(self) -> None:
        """Called once after the timestamps are read; raises `OSError` if the reader cannot decode the file."""

    @abstractmethod
    def _decode_frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Decode the frames at valid, strictly ascending indices."""

    @property
    def _container_name(self) -> str:
        """FFmpeg's name of the container format, detected from the content."""
        return self._container.format.name

    def _open(self) -> tuple[Any, Any]:
        """Open the file; returns the container and its first video stream."""
        try:
            is_url = self.name.startswith(_URL_PREFIXES)
            options = {
                "format_whitelist": _CONTAINERS,
                "protocol_whitelist": _URL_PROTOCOLS if is_url else _PROTOCOLS,
                "max_pixels": str(MAX_FRAME_PIXELS),
            }
            container = self._av.open(self.name, options=options, timeout=_URL_TIMEOUT if is_url else None)
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            raise self._read_error(error) from error
        if not container.streams.video:
            container.close()
            raise OSError(f"The file {self.name} has no video stream; expected a video.")
        stream = container.streams.video[0]
        width, height = stream.codec_context.width or 0, stream.codec_context.height or 0
        if width * height > MAX_FRAME_PIXELS:
            container.close()
            raise OSError(
                f"The video {self.name} has frames of {width} x {height} pixels; expected at most {MAX_FRAME_PIXELS:,} "
                "pixels. Make a smaller copy of it."
            )
        stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        return container, stream

    def _read_timestamps(self) -> tuple[array, array]:
        """Timestamps of all frames and of the key frames, ascending."""
        entries = getattr(self._stream, "index_entries", ())  # older versions of PyAV lack it
        if self._stream.frames and len(entries) == self._stream.frames and self._stream.start_time is not None:
            timestamps = array("q", (entry.timestamp for entry in entries))
            # The index holds decoding timestamps. They equal the presentation timestamps up to a constant offset if
            # frames are evenly spaced or never reordered.
            steps = {after - before for before, after in zip(timestamps, timestamps[1:])}
            if len(steps) <= 1 or not self._stream.codec_context.has_b_frames:
                offset = self._stream.start_time - timestamps[0]
                keys = array("q", (entry.timestamp + offset for entry in entries if entry.is_keyframe))
                if not any(entry.is_discard for entry in entries):
                    return array("q", (timestamp + offset for timestamp in timestamps)), keys
        timestamps, keys = array("q"), array("q")
        try:
            for packet in self._container.demux(self._stream):
                timestamp = packet.dts if packet.pts is None else packet.pts
                if timestamp is None or packet.is_discard or not packet.size:
                    continue
                timestamps.append(timestamp)
                if packet.is_keyframe:
                    keys.append(timestamp)
        except self._av.error.FFmpegError as error:
            if not timestamps:
                raise self._read_error(error) from error
        return array("q", sorted(set(timestamps))), array("q", sorted(keys))

    def _read_error(self, error: Exception) -> OSError:
        return OSError(f"Cannot read the video {self.name}: {error}")

    def _decode_error(self, index: int, reason: str = "") -> OSError:
        return OSError(
            f"Frame {index} of {self.length} of the video {self.name} cannot be decoded{reason}. The file may be "
            "truncated; pass an earlier end=, or re-encode the file."
        )


class PyAVReader(VideoReader):
    """A [`VideoReader`] that decodes with PyAV."""

    def _prepare_decoder(self) -> None:
        # AVI stores decoding timestamps only, which differ from presentation timestamps if frames are reordered. The
        # timestamps of MPEG program streams depend on where reading started.
        is_reordered = self._stream.codec_context.has_b_frames
        self._sequential = self._container_name == "mpeg" or (self._container_name == "avi" and is_reordered)

    def _decode_frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        decoded: Iterator[Any] | None = None
        last_timestamp, last_index = 0, -1
        for index in indices:
            if self._sequential:
                decoded = self._decode_from_start() if decoded is None else decoded
                frame = next(itertools.islice(decoded, index - last_index - 1, None), None)
            else:
                target = self.timestamps[index]
                if decoded is None or self._has_key_frame_between(last_timestamp, target):
                    decoded, frame = self._seek(target)
                else:
                    frame = next(decoded, None)
                while frame is not None and _timestamp_of(frame) < target:
                    frame = next(decoded, None)
            if frame is None:
                raise self._decode_error(index)
            last_timestamp, last_index = _timestamp_of(frame), index
            yield frame_to_rgb_array(frame)

    def _has_key_frame_between(self, last_timestamp: int, target: int) -> bool:
        """Whether a key frame lies between two timestamps, so that seeking is faster than decoding on."""
        return bisect.bisect_right(self._key_timestamps, target) > bisect.bisect_right(
            self._key_timestamps, last_timestamp
        )

    def _seek(self, target: int) -> tuple[Iterator[Any], Any]:
        """Decode from a key frame at or before a timestamp; returns the remaining frames and the first one."""
        for seconds in _SEEK_MARGINS:
            timestamp = target - round(seconds / self.time_base)
            if timestamp < self.timestamps[0]:
                break
            try:
                self._container.seek(timestamp, stream=self._stream, backward=True)
            except self._av.error.FFmpegError:
                break
            decoded = self._decode()
            frame = next(decoded, None)
            if frame is not None and _timestamp_of(frame) <= target:
                return decoded, frame
        decoded = self._decode_from_start()
        return decoded, next(decoded, None)

    def _decode_from_start(self) -> Iterator[Any]:
        """Decode all frames. The file is opened again, since not every file can seek to its start."""
        self._container.close()
        self._container, self._stream = self._open()
        return self._decode()

    def _decode(self) -> Iterator[Any]:
        """Decode frames from the current position; corrupted packets are skipped."""
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
            yield from (frame for frame in frames if _timestamp_of(frame) is not None)


class TorchcodecReader(VideoReader):
    """
    A [`VideoReader`] that decodes with torchcodec.

    Raises:
        OSError: also if the frames of torchcodec are not those that PyAV finds.
    """

    def _prepare_decoder(self) -> None:
        if self._container_name in _CONTAINERS_WITHOUT_TIMESTAMPS:
            raise OSError(f"The video {self.name} does not store the presentation timestamps of its frames.")
        try:
            # One thread, as with PyAV: callers that want parallelism run several readers.
            self._decoder = torchcodec_decoder()(self.name, num_ffmpeg_threads=1)
            num_frames = len(self._decoder)
        except _TORCHCODEC_ERRORS as error:
            raise self._read_error(error) from error
        if num_frames != self.length:
            raise OSError(f"torchcodec finds {num_frames} frames in the video {self.name}; expected {self.length}.")

    def _decode_frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        time_unit = float(self.time_base)
        for index in indices:
            try:
                frame = self._decoder.get_frame_at(index)
            except _TORCHCODEC_ERRORS as error:
                raise self._decode_error(index, f" by torchcodec ({error})") from error
            if abs(frame.pts_seconds - self.seconds_at(index)) > time_unit / 2:
                raise self._decode_error(index, f" by torchcodec (it returns the one at {frame.pts_seconds} seconds)")
            yield frame.data.permute(1, 2, 0).contiguous().numpy()


def check_sample_counts(path: str | os.PathLike[str]) -> None:
    """
    Check the numbers of samples in an mp4 file against its size.

    A few bytes of such a file can promise billions of samples of one size, for each of which FFmpeg would take memory
    when the file is opened. Other files pass.

    Args:
        path (`str` or `os.PathLike`): the file.

    Raises:
        OSError: it promises more samples than it has bytes; the message contains its name.
    """
    size, samples, edits = os.path.getsize(path), 0, 0
    with open(path, "rb") as file:
        for number, (kind, body, end) in enumerate(_boxes(file, size)):
            if number > _MAX_BOXES:
                raise OSError(f"Cannot read the video {path}: it has more than {_MAX_BOXES:,} boxes.")
            if kind in (b"stsz", b"stz2", b"trun", b"elst") and body + 12 <= end:
                file.seek(
                    body + (8 if kind in (b"stsz", b"stz2") else 4)
                )  # after the version, and the size of a sample
                (count,) = struct.unpack(">I", file.read(4))
                if kind == b"elst":
                    edits = max(edits, count)
                else:
                    samples += count
    if samples > size:
        raise OSError(f"Cannot read the video {path}: it promises {samples:,} frames and sounds in {size:,} bytes.")
    if edits * samples > max(_MAX_EDITED_SAMPLES, 4 * samples):  # each edit may use all samples
        raise OSError(f"Cannot read the video {path}: it has an edit list of {edits:,} entries.")


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of each box of an mp4 file; nothing for other files."""
    position, ends = 0, [size]
    while ends:
        if position + 8 > ends[-1]:
            position = ends.pop()
            continue
        file.seek(position)
        head = file.read(16)
        length, kind = struct.unpack(">I4s", head[:8])
        start = position + 8
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
            start += 8
        elif length == 0:  # up to the end
            length = ends[-1] - position
        end = min(position + length, ends[-1])
        if end < start or not kind.isalnum() and kind[:1] != b"\xa9" and b" " not in kind:
            if len(ends) == 1:
                return
            position = ends.pop()
            continue
        yield kind, start, end
        if kind in _BOXES_WITH_BOXES:
            ends.append(end)
            position = start
        else:
            position = end


def frame_to_rgb_array(frame: Any) -> np.ndarray:
    """Convert a decoded PyAV frame of any pixel format to 8-bit RGB of shape (H, W, 3), rotated for display."""
    # Bicubic chroma upsampling as in torchcodec and FFmpeg itself; PyAV's default differs.
    values: np.ndarray = _as_progressive(frame).to_ndarray(format="rgb24", interpolation="BICUBIC")
    quarter_turns = round((frame.rotation or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(values, quarter_turns)) if quarter_turns else values


def _as_progressive(frame: Any) -> Any:
    """The frame without its interlaced flag, which would make FFmpeg upsample the chroma of each field separately."""
    if not frame.interlaced_frame:
        return frame
    graph = require_av().filter.Graph()
    nodes = (
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base),
        graph.add("setfield", "prog"),
        graph.add("buffersink"),
    )
    graph.link_nodes(*nodes).configure()
    graph.push(frame)
    return graph.pull()


def _timestamp_of(frame: Any) -> Any:
    return frame.dts if frame.pts is None else frame.pts


__all__ = [
    "MAX_FRAME_PIXELS",
    "FrameSelector",
    "PyAVReader",
    "TorchcodecReader",
    "VideoReader",
    "check_sample_counts",
    "frame_to_rgb_array",
    "read_frames",
    "require_av",
    "torchcodec_decoder",
]
