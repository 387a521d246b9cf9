"""Frames of video files by number: files of many kinds, and both decoders."""

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
from tests.models.video_clips import WIDTH, number_of, turn_clip, write_clip

UNEVEN = [100 * i // 10 + (7 if i % 3 == 1 else 0) + 13 * (i // 10) for i in range(30)]
KINDS: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "uneven.mp4": {"times": UNEVEN},
    "uneven_in_order.mp4": {"times": UNEVEN, "b_frames": 0},
    "ten_bits.mp4": {"pixel_format": "yuv444p10le"},
    "no_count.mkv": {},
    "uneven.mkv": {"times": UNEVEN},
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


# where torchcodec finds other frames or times, so that PyAV takes over
NOT_TORCHCODECS = {*(name for name in KINDS if name.endswith(".avi")), "stream.ts", "stream.mpg"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {name: write_clip(folder / name, **options) for name, options in KINDS.items()}


needs_torchcodec = pytest.mark.skipif(
    torchcodec_decoder() is None,
    reason="torchcodec finds no FFmpeg here; test_torchcodec_with_the_libraries_of_pyav runs this with PyAV's",
)
DECODERS = [PyAVReader, pytest.param(TorchcodecReader, marks=needs_torchcodec)]
AT_WORK = [
    pytest.param(decoder, name, marks=marks, id=f"{decoder.__name__}-{name}")
    for decoder, marks in ((PyAVReader, ()), (TorchcodecReader, needs_torchcodec))
    for name in KINDS
    if decoder is PyAVReader or name not in NOT_TORCHCODECS
]


@pytest.mark.parametrize(("decoder", "name"), AT_WORK)
@pytest.mark.parametrize("wanted", [[0, 1, 5, 5, 12, 19, 20, 29], [29], list(range(30))], ids=["some", "last", "all"])
def test_frames_by_number(clips: dict[str, Path], decoder: Any, name: str, wanted: list[int]) -> None:
    with decoder(clips[name]) as video:
        assert video.length == 30
        for _ in range(2):  # also from where the first time has left the file
            assert [number_of(frame) for frame in video.frames(wanted)] == wanted


@needs_torchcodec
@pytest.mark.parametrize("wanted", [list(range(30)), [4, 9, 17, 18]], ids=["all", "some"])
@pytest.mark.parametrize("name", KINDS)
def test_torchcodec_gives_the_same_frames_as_pyav(
    clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, wanted: list[int]
) -> None:
    def both() -> Any:
        return list(read_frames(clips[name], lambda length, index_at: wanted))

    frames = both()
    monkeypatch.setattr(video_decoding, "torchcodec_decoder", lambda: None)
    for left, right in zip(frames, both(), strict=True):
        np.testing.assert_array_equal(left, right)


class OtherDecoder:
    """torchcodec's decoder, played by PyAV, with a fault."""

    fault: str
    asked: list[int]

    def __init__(self, name: str, num_ffmpeg_threads: int) -> None:
        self.video = PyAVReader(name)

    def __len__(self) -> int:
        return self.video.length + (self.fault == "count")

    def get_frame_at(self, number: int) -> Any:
        self.asked.append(number)
        if self.fault == "damage" and number == 15:
            raise RuntimeError("damaged")
        number += self.fault == "time" and number == 15
        (frame,) = self.video.frames([number])
        return SimpleNamespace(data=torch.from_numpy(frame).permute(2, 0, 1), pts_seconds=self.video.seconds_at(number))


@pytest.mark.parametrize(
    ("fault", "asked"),
    [("", [0, 7, 15, 22]), ("count", []), ("damage", [0, 7, 15]), ("time", [0, 7, 15]), ("absent", [])],
)
def test_pyav_continues_where_torchcodec_fails(
    clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch, fault: str, asked: list[int]
) -> None:
    OtherDecoder.fault, OtherDecoder.asked = fault, []
    decoder = None if fault == "absent" else OtherDecoder
    monkeypatch.setattr(video_decoding, "torchcodec_decoder", lambda: decoder)
    picked = []

    def pick(length: int, index_at: Any) -> list[int]:
        picked.append(length)
        return [0, 7, 15, 22]

    frames = read_frames(clips["uneven.mp4"], pick)
    assert [number_of(frame) for frame in frames] == [0, 7, 15, 22]
    assert picked == [30] and OtherDecoder.asked == asked


@pytest.mark.parametrize("name", ["rgb.avi", "old_out_of_order.avi", "stream.mpg"])
def test_torchcodec_is_not_used_for_files_without_timestamps(
    clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    OtherDecoder.fault, OtherDecoder.asked = "", []
    monkeypatch.setattr(video_decoding, "torchcodec_decoder", lambda: OtherDecoder)
    frames = read_frames(clips[name], lambda length, index_at: [index_at(0.4), length - 1])
    assert [number_of(frame) for frame in frames] == [10 if name == "stream.mpg" else 4, 29]
    assert OtherDecoder.asked == []


@pytest.mark.parametrize("libraries", [8, None])
def test_torchcodec_without_libraries_is_not_used(monkeypatch: pytest.MonkeyPatch, libraries: int | None) -> None:
    package, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
    package.ffmpeg_major_version = libraries  # type: ignore[attr-defined]
    decoders.VideoDecoder = OtherDecoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    assert torchcodec_decoder.__wrapped__() is (OtherDecoder if libraries else None)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["plain.mp4", "no_count.mkv", "web.webm"])
def test_times(clips: dict[str, Path], decoder: Any, name: str) -> None:
    with decoder(clips[name]) as video:
        assert [video.index_at(seconds) for seconds in (0, 0.05, 1, 2.9, 99)] == [0, 1, 10, 29, 30]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["uneven.mp4", "uneven_in_order.mp4", "uneven.mkv"])
def test_times_at_uneven_distances(clips: dict[str, Path], decoder: Any, name: str) -> None:
    with decoder(clips[name]) as video:
        for number, hundredths in enumerate(UNEVEN):
            assert video.index_at(hundredths / 100) == number
            assert video.index_at(hundredths / 100 + 0.005) == number + 1


@pytest.mark.parametrize("numbers", [[-1], [3, 30]])
def test_indices_out_of_range(clips: dict[str, Path], numbers: list[int]) -> None:
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
def test_rotation_flags(clips: dict[str, Path], tmp_path: Path, decoder: Any, quarters: int) -> None:
    turned = turn_clip(clips["plain.mp4"], tmp_path / "turned.mp4", quarters)
    with PyAVReader(clips["plain.mp4"]) as plain, decoder(turned) as video:
        for left, right in zip(plain.frames([3, 20]), video.frames([3, 20]), strict=True):
            np.testing.assert_array_equal(np.rot90(left, -quarters), right)


def link_libraries(folder: Path) -> Counter[str]:
    """FFmpeg's libraries out of PyAV's wheel, under the names that others know; how many of each major version."""
    found: Counter[str] = Counter()
    for path in (Path(av.__file__).parents[1] / "av.libs").glob("*.so*"):
        (folder / path.name).symlink_to(path)
        if part := re.match(r"(lib(?:av|sw)[a-z]+)-[0-9a-f]+[.]so[.](\d+)", path.name):
            (folder / f"{part[1]}.so.{part[2]}").symlink_to(path)
            found[part[1]] += 1
    return found


@pytest.mark.slow
def test_torchcodec_with_the_libraries_of_pyav(tmp_path: Path) -> None:
    """All of the above that needs torchcodec, in a process whose loader finds FFmpeg in PyAV's wheel."""
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
from tests.models.video_clips import number_of
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, *(number_of(f.transpose(1, 2, 0) * 255) for f in clip))
"""


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Films by their minutes."""
    folder = tmp_path_factory.mktemp("films")
    options = {"codec": "mpeg4", "gap": 100, "b_frames": 0}
    return {minutes: write_clip(folder / f"{minutes}.mp4", frames=600 * minutes, **options) for minutes in (1, 60)}


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_an_hour_takes_no_more_memory_than_a_minute(films: dict[int, Path], decoder: Any) -> None:
    peaks = {}
    for minutes, film in films.items():
        command = [sys.executable, "-c", PEAK, str(film), decoder.__name__]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
        peaks[minutes], *numbers = map(int, done.stdout.split())  # kilobytes of the whole process
        assert numbers == [(75 * minutes * place) % 4096 for place in range(8)]
    assert peaks[60] < peaks[1] + 30_000
