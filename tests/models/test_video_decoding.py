"""Decoding of video frames by index: containers, codecs, timestamps, and both decoders."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch

from modeling_lavis.models import video_decoding
from modeling_lavis.models.video_decoding import (
    PyAVReader,
    TorchcodecReader,
    frame_to_rgb_array,
    read_frames,
    torchcodec_decoder,
)
from tests.models.video_clips import WIDTH, frame_number, rotate_clip, write_clip

VARIABLE_TIMES = [100 * i // 10 + (7 if i % 3 == 1 else 0) + 13 * (i // 10) for i in range(30)]
KINDS: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "uneven.mp4": {"times": VARIABLE_TIMES},
    "uneven_in_order.mp4": {"times": VARIABLE_TIMES, "b_frames": 0},
    "ten_bits.mp4": {"pixel_format": "yuv444p10le"},
    "no_count.mkv": {},
    "uneven.mkv": {"times": VARIABLE_TIMES},
    "grey.mkv": {"codec": "ffv1", "pixel_format": "gray"},
    "palette.mov": {"codec": "png", "pixel_format": "pal8", "b_frames": 0},
    "rgb.avi": {"codec": "png", "pixel_format": "rgb24", "b_frames": 0},
    "full_range.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p", "b_frames": 0},
    "more_colour.mp4": {"codec": "libx265", "pixel_format": "yuv444p"},
    "new.webm": {"codec": "libvpx-vp9", "b_frames": 0},
    "web.webm": {"codec": "libvpx", "b_frames": 0},
    "interlaced.mp4": {"options": {"flags": "+ilme+ildct", "x264opts": "tff=1"}},
    "uneven_width.mkv": {"codec": "ffv1", "width": WIDTH + 1, "b_frames": 0},
    "few_colours.mkv": {"codec": "ffv1", "pixel_format": "yuv411p", "b_frames": 0},
    "open_groups.mp4": {"codec": "libx265", "options": {"x265-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3"}},
    "stream.ts": {},
    "stream.mpg": {"codec": "mpeg2video", "rate": 25},
    "old.avi": {"codec": "mpeg4", "b_frames": 0},
    "old_out_of_order.avi": {"codec": "mpeg4"},
    "short.gif": {"codec": "gif", "pixel_format": "rgb8"},
}


# torchcodec finds other frames or timestamps in these files, so PyAV decodes them
PYAV_ONLY = {*(name for name in KINDS if name.endswith(".avi")), "stream.ts", "stream.mpg"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {name: write_clip(folder / name, **options) for name, options in KINDS.items()}


needs_torchcodec = pytest.mark.skipif(
    torchcodec_decoder() is None,
    reason="torchcodec finds no FFmpeg here; test_torchcodec_with_the_libraries_of_pyav runs this with PyAV's",
)
DECODERS = [PyAVReader, pytest.param(TorchcodecReader, marks=needs_torchcodec)]
DECODERS_AND_NAMES = [
    pytest.param(decoder, name, marks=marks, id=f"{decoder.__name__}-{name}")
    for decoder, marks in ((PyAVReader, ()), (TorchcodecReader, needs_torchcodec))
    for name in KINDS
    if decoder is PyAVReader or name not in PYAV_ONLY
]


@pytest.mark.parametrize(("decoder", "name"), DECODERS_AND_NAMES)
@pytest.mark.parametrize("indices", [[0, 1, 5, 5, 12, 19, 20, 29], [29], list(range(30))], ids=["some", "last", "all"])
def test_frames_by_index(clips: dict[str, Path], decoder: Any, name: str, indices: list[int]) -> None:
    with decoder(clips[name]) as video:
        assert video.length == 30
        for _ in range(2):  # the second time, from the position where the first one ended
            assert [frame_number(frame) for frame in video.frames(indices)] == indices


@needs_torchcodec
@pytest.mark.parametrize("indices", [list(range(30)), [4, 9, 17, 18]], ids=["all", "some"])
@pytest.mark.parametrize("name", KINDS)
def test_torchcodec_frames_equal_pyav_frames(
    clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, indices: list[int]
) -> None:
    def decode() -> Any:
        return list(read_frames(clips[name], lambda length, index_at: indices))

    frames = decode()
    monkeypatch.setattr(video_decoding, "torchcodec_decoder", lambda: None)
    for left, right in zip(frames, decode(), strict=True):
        np.testing.assert_array_equal(left, right)


class FaultyDecoder:
    """torchcodec's decoder, simulated with PyAV, with a fault."""

    fault: str
    requested: list[int]

    def __init__(self, name: str, num_ffmpeg_threads: int) -> None:
        self.video = PyAVReader(name)

    def __len__(self) -> int:
        return self.video.length + (self.fault == "count")

    def get_frame_at(self, number: int) -> Any:
        self.requested.append(number)
        if self.fault == "damage" and number == 15:
            raise RuntimeError("damaged")
        number += self.fault == "time" and number == 15
        (frame,) = self.video.frames([number])
        return SimpleNamespace(data=torch.from_numpy(frame).permute(2, 0, 1), pts_seconds=self.video.seconds_at(number))


@pytest.mark.parametrize(
    ("fault", "requested"),
    [("", [0, 7, 15, 22]), ("count", []), ("damage", [0, 7, 15]), ("time", [0, 7, 15]), ("absent", [])],
)
def test_fallback_to_pyav(
    clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch, fault: str, requested: list[int]
) -> None:
    FaultyDecoder.fault, FaultyDecoder.requested = fault, []
    decoder = None if fault == "absent" else FaultyDecoder
    monkeypatch.setattr(video_decoding, "torchcodec_decoder", lambda: decoder)
    picked = []

    def pick(length: int, index_at: Any) -> list[int]:
        picked.append(length)
        return [0, 7, 15, 22]

    frames = read_frames(clips["uneven.mp4"], pick)
    assert [frame_number(frame) for frame in frames] == [0, 7, 15, 22]
    assert picked == [30] and FaultyDecoder.requested == requested


@pytest.mark.parametrize("name", ["rgb.avi", "old_out_of_order.avi", "stream.mpg"])
def test_torchcodec_is_not_used_for_files_without_timestamps(
    clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    FaultyDecoder.fault, FaultyDecoder.requested = "", []
    monkeypatch.setattr(video_decoding, "torchcodec_decoder", lambda: FaultyDecoder)
    frames = read_frames(clips[name], lambda length, index_at: [index_at(0.4), length - 1])
    assert [frame_number(frame) for frame in frames] == [10 if name == "stream.mpg" else 4, 29]
    assert FaultyDecoder.requested == []


@pytest.mark.parametrize("libraries", [8, None])
def test_torchcodec_without_ffmpeg_is_not_used(monkeypatch: pytest.MonkeyPatch, libraries: int | None) -> None:
    package, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
    package.ffmpeg_major_version = libraries  # type: ignore[attr-defined]
    decoders.VideoDecoder = FaultyDecoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    assert torchcodec_decoder.__wrapped__() is (FaultyDecoder if libraries else None)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["plain.mp4", "no_count.mkv", "web.webm"])
def test_index_at_time(clips: dict[str, Path], decoder: Any, name: str) -> None:
    with decoder(clips[name]) as video:
        assert [video.index_at(seconds) for seconds in (0, 0.05, 1, 2.9, 99)] == [0, 1, 10, 29, 30]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["uneven.mp4", "uneven_in_order.mp4", "uneven.mkv"])
def test_index_at_time_with_variable_frame_rate(clips: dict[str, Path], decoder: Any, name: str) -> None:
    with decoder(clips[name]) as video:
        for number, hundredths in enumerate(VARIABLE_TIMES):
            assert video.index_at(hundredths / 100) == number
            assert video.index_at(hundredths / 100 + 0.005) == number + 1


@pytest.mark.parametrize("numbers", [[-1], [3, 30]])
def test_indices_out_of_range_raise(clips: dict[str, Path], numbers: list[int]) -> None:
    with PyAVReader(clips["plain.mp4"]) as video, pytest.raises(OSError, match=f"Frame {numbers[-1]} of 30.*plain.mp4"):
        next(video.frames(numbers))


def test_interlaced_frames_are_converted_as_progressive(clips: dict[str, Path]) -> None:
    with av.open(str(clips["interlaced.mp4"])) as file:
        frame = next(file.decode(video=0))
    assert frame.interlaced_frame
    unmarked = av.VideoFrame.from_ndarray(frame.to_ndarray(), format="yuv420p")
    np.testing.assert_array_equal(frame_to_rgb_array(frame), frame_to_rgb_array(unmarked))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_display_matrix_rotation(clips: dict[str, Path], tmp_path: Path, decoder: Any, quarters: int) -> None:
    turned = rotate_clip(clips["plain.mp4"], tmp_path / "turned.mp4", quarters)
    with PyAVReader(clips["plain.mp4"]) as plain, decoder(turned) as video:
        for left, right in zip(plain.frames([3, 20]), video.frames([3, 20]), strict=True):
            np.testing.assert_array_equal(np.rot90(left, -quarters), right)


def link_libraries(folder: Path) -> Counter[str]:
    """Link FFmpeg's libraries of PyAV's wheel under their standard names; returns the number of files of each."""
    found: Counter[str] = Counter()
    for path in (Path(av.__file__).parents[1] / "av.libs").glob("*.so*"):
        (folder / path.name).symlink_to(path)
        if part := re.match(r"(lib(?:av|sw)[a-z]+)-[0-9a-f]+[.]so[.](\d+)", path.name):
            (folder / f"{part[1]}.so.{part[2]}").symlink_to(path)
            found[part[1]] += 1
    return found


@pytest.mark.slow
def test_torchcodec_with_the_libraries_of_pyav(tmp_path: Path) -> None:
    """The tests above that need torchcodec, in a process that finds FFmpeg in PyAV's wheel."""
    pytest.importorskip("torchcodec", reason="needs torchcodec, which the extra 'test' brings on Linux")
    if not link_libraries(tmp_path):
        pytest.skip("PyAV was not installed from a wheel for Linux, so it carries no libraries")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("LD_LIBRARY_PATH")]))
    command = [sys.executable, "-m", "pytest", __file__, "-k", "torchcodec and not libraries_of_pyav", "-m", "", "-rs"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "skipped" not in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]


PEAK = """
import resource, sys
from modeling_lavis.models import video_decoding
from modeling_lavis import LavisVideoProcessor
if sys.argv[2] == "PyAVReader":
    video_decoding.torchcodec_decoder = lambda: None
processor = LavisVideoProcessor(size={"height": 64, "width": 96}, num_frames=8, do_normalize=False)
clip = processor(sys.argv[1])["pixel_values_videos"][0]
from tests.models.video_clips import frame_number
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, *(frame_number(f.transpose(1, 2, 0) * 255) for f in clip))
"""


@pytest.fixture(scope="module")
def long_videos(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Long videos by their length in minutes."""
    folder = tmp_path_factory.mktemp("films")
    options = {"codec": "mpeg4", "gap": 100, "b_frames": 0}
    return {minutes: write_clip(folder / f"{minutes}.mp4", frames=600 * minutes, **options) for minutes in (1, 60)}


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_peak_memory_does_not_depend_on_the_length(long_videos: dict[int, Path], decoder: Any) -> None:
    peaks = {}
    for minutes, path in long_videos.items():
        command = [sys.executable, "-c", PEAK, str(path), decoder.__name__]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
        peaks[minutes], *numbers = map(int, done.stdout.split())  # kilobytes
        assert numbers == [(75 * minutes * place) % 4096 for place in range(8)]
    assert peaks[60] < peaks[1] + 30_000


def test_versions_that_write_beyond_their_memory_are_refused(clips: dict[str, Path], monkeypatch: Any) -> None:
    monkeypatch.setattr("av.__version__", "17.0.1")
    with pytest.raises(ImportError, match=r"needs PyAV 17\.1, and 17\.0\.1 is installed.*av>=17\.1"):
        PyAVReader(clips["stream.mpg"])
