"""Videos in, clips out: files of many kinds, arrays and frames; what is broken is named."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoProcessor, AutoVideoProcessor

from modeling_lavis import AlproConfig, AlproProcessor, LavisVideoProcessor
from modeling_lavis.models import video_reading
from modeling_lavis.models.tokenization_lavis import bert_tokenizer
from modeling_lavis.models.video_decoding import VideoFile
from modeling_lavis.models.video_decoding_torchcodec import TorchcodecFile, torchcodec_decoder
from modeling_lavis.models.video_sampling import frame_indices
from tests.models.video_clips import HEIGHT, WIDTH, number_of, numbered_frame, turn_clip, write_clip

GOLDEN_TOKENIZER = Path(__file__).parents[1] / "goldens" / "tokenizer"
UNEVEN = [100 * i // 10 + (7 if i % 3 == 1 else 0) + 13 * (i // 10) for i in range(30)]
KINDS: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "uneven.mp4": {"times": UNEVEN},
    "uneven_in_order.mp4": {"times": UNEVEN, "b_frames": 0},
    "ten_bits.mp4": {"pixel_format": "yuv444p10le"},
    "no_count.mkv": {},
    "uneven.mkv": {"times": UNEVEN},
    "grey.mkv": {"codec": "ffv1", "pixel_format": "gray"},
    "rgb.avi": {"codec": "png", "pixel_format": "rgb24", "b_frames": 0},
    "full_range.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p", "b_frames": 0},
    "more_colour.mp4": {"codec": "libx265", "pixel_format": "yuv444p"},
    "new.webm": {"codec": "libvpx-vp9", "b_frames": 0},
    "web.webm": {"codec": "libvpx", "b_frames": 0},
    "old.avi": {"codec": "mpeg4", "b_frames": 0},
    "old_out_of_order.avi": {"codec": "mpeg4"},
    "short.gif": {"codec": "gif", "pixel_format": "rgb8"},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {name: write_clip(folder / name, **options) for name, options in KINDS.items()}


needs_torchcodec = pytest.mark.skipif(
    torchcodec_decoder() is None, reason="needs torchcodec and FFmpeg's libraries, which no package index brings"
)
DECODERS = [VideoFile, pytest.param(TorchcodecFile, marks=needs_torchcodec)]


# torchcodec is not asked for AVI
AT_WORK = [
    pytest.param(decoder, name, marks=marks, id=f"{decoder.__name__}-{name}")
    for decoder, marks in ((VideoFile, ()), (TorchcodecFile, needs_torchcodec))
    for name in KINDS
    if decoder is VideoFile or not name.endswith(".avi")
]


@pytest.mark.parametrize(("decoder", "name"), AT_WORK)
@pytest.mark.parametrize("wanted", [[0, 1, 5, 5, 12, 19, 20, 29], [29], list(range(30))], ids=["some", "last", "all"])
def test_frames_by_number(clips: dict[str, Path], decoder: Any, name: str, wanted: list[int]) -> None:
    with decoder(clips[name]) as video:
        assert video.length == 30
        for _ in range(2):  # also from where the first time has left the file
            assert [number_of(frame) for frame in video.frames(wanted)] == wanted


@needs_torchcodec
@pytest.mark.parametrize("name", [name for name in KINDS if not name.endswith(".avi")])
def test_both_decoders_give_the_same_frames(clips: dict[str, Path], name: str) -> None:
    with VideoFile(clips[name]) as one, TorchcodecFile(clips[name]) as other:
        for left, right in zip(one.frames(range(30)), other.frames(range(30)), strict=True):
            np.testing.assert_array_equal(left, right)


class Halting:
    """A decoder that gives two frames and then finds damage."""

    length = 30

    def __init__(self, name: str) -> None:
        self.video = VideoFile(name)

    def __enter__(self) -> "Halting":
        return self

    def __exit__(self, *details: Any) -> None:
        self.video.close()

    def number_at(self, seconds: float) -> int:
        return self.video.number_at(seconds)

    def frames(self, numbers: list[int]) -> Any:
        yield from self.video.frames(numbers[:2])
        raise OSError("damaged")


@pytest.mark.parametrize("present", [True, False])
def test_where_torchcodec_gives_up_the_other_goes_on(
    clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch, present: bool
) -> None:
    monkeypatch.setattr(video_reading, "torchcodec_decoder", lambda: Halting if present else None)
    monkeypatch.setattr(video_reading, "TorchcodecFile", Halting)
    asked = []

    def pick(length: int, number_at: Any) -> list[int]:
        asked.append(length)
        return [0, 7, 15, 22]

    frames = video_reading.read_frames(clips["plain.mp4"], pick)
    assert [number_of(frame) for frame in frames] == [0, 7, 15, 22] and asked == [30]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["plain.mp4", "no_count.mkv", "web.webm"])
def test_times(clips: dict[str, Path], decoder: Any, name: str) -> None:
    with decoder(clips[name]) as video:
        assert [video.number_at(seconds) for seconds in (0, 0.05, 1, 2.9, 99)] == [0, 1, 10, 29, 30]


@pytest.mark.parametrize("name", [name for name in KINDS if name.endswith(".avi")])
def test_avi_is_left_to_pyav(clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def wrong(source: Any) -> Any:
        raise AssertionError(f"{source} was given to torchcodec")

    monkeypatch.setattr(video_reading, "torchcodec_decoder", lambda: wrong)
    monkeypatch.setattr(video_reading, "TorchcodecFile", wrong)
    frames = video_reading.read_frames(clips[name], lambda length, number_at: [number_at(1.0), length - 1])
    assert [number_of(frame) for frame in frames] == [10, 29]


def test_processor_picks_and_shapes(clips: dict[str, Path]) -> None:
    processor = LavisVideoProcessor(size={"height": HEIGHT, "width": WIDTH}, num_frames=4, do_normalize=False)
    batch = processor([clips["plain.mp4"], str(clips["no_count.mkv"])], return_tensors="pt")["pixel_values_videos"]
    assert batch.shape == (2, 4, 3, HEIGHT, WIDTH) and batch.dtype == torch.float32
    for clip in batch:
        shown = [number_of(frame.permute(1, 2, 0).mul(255).numpy()) for frame in clip]
        assert shown == [0, 7, 15, 22]
    part = processor(clips["plain.mp4"], start=1.0, end=2.0)["pixel_values_videos"][0]
    assert [number_of(frame.transpose(1, 2, 0) * 255) for frame in part] == [10, 12, 15, 17]


def test_short_clips_repeat_frames(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "three.mp4", frames=3)
    processor = LavisVideoProcessor(size={"height": HEIGHT, "width": WIDTH}, num_frames=8, do_normalize=False)
    for sampling in ("uniform", "headtail", "random"):
        made = processor(clip, sampling=sampling)["pixel_values_videos"][0]
        shown = [number_of(frame.transpose(1, 2, 0) * 255) for frame in made]
        assert len(shown) == 8 and shown == sorted(shown)
        if sampling == "uniform":
            assert shown == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("sampling", ["uniform", "headtail", "random"])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 15, 100])
@pytest.mark.parametrize("count", [1, 2, 5, 13, 16])
def test_sampling_gives_what_is_asked_for(sampling: str, length: int, count: int) -> None:
    chosen = frame_indices(length, count, sampling, random.Random(0))
    assert len(chosen) == count and chosen == sorted(chosen)
    assert 0 <= chosen[0] and chosen[-1] < length
    if sampling != "uniform":
        assert chosen == frame_indices(length, count, sampling, random.Random(0))


def test_arrays_frames_and_files_agree(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "exact.mkv", frames=6, codec="ffv1", pixel_format="bgr0")
    frames = [numbered_frame(number) for number in range(6)]
    processor = LavisVideoProcessor(size=32, num_frames=3)
    expected = processor(clip, return_tensors="pt")["pixel_values_videos"]
    pictures = []
    for number, frame in enumerate(frames):
        PIL.Image.fromarray(frame).save(tmp_path / f"{number}.png")
        pictures.append(PIL.Image.fromarray(frame))
    stack = np.stack(frames)
    for given in (
        stack,
        stack.transpose(0, 3, 1, 2),
        torch.from_numpy(stack),
        stack.astype(np.float32),
        stack.astype(np.float32) / 255,
        stack[None],
        pictures,
        frames,
        [pictures],
    ):
        assert torch.equal(processor(given, return_tensors="pt")["pixel_values_videos"], expected)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotation_flags(clips: dict[str, Path], tmp_path: Path, decoder: Any, quarters: int) -> None:
    turned = turn_clip(clips["plain.mp4"], tmp_path / "turned.mp4", quarters)
    with VideoFile(clips["plain.mp4"]) as plain, decoder(turned) as video:
        for left, right in zip(plain.frames([3, 20]), video.frames([3, 20]), strict=True):
            np.testing.assert_array_equal(np.rot90(left, -quarters), right)


def broken_files(folder: Path) -> dict[str, Path]:
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video at all")
    whole = write_clip(folder / "whole.mkv", frames=60, codec="ffv1", pixel_format="bgr0").read_bytes()
    (folder / "cut.mp4").write_bytes(write_clip(folder / "whole.mp4").read_bytes()[:400])
    (folder / "header.mkv").write_bytes(whole[:300])
    return {name: folder / name for name in ("empty.mp4", "text.mp4", "cut.mp4", "header.mkv", "missing.mp4")}


def test_broken_files_are_named_or_skipped(tmp_path: Path) -> None:
    processor = LavisVideoProcessor(size=16, num_frames=2)
    broken = broken_files(tmp_path)
    for path in broken.values():
        with pytest.raises(OSError, match=path.name):
            processor(path)
    good = write_clip(tmp_path / "good.mp4")
    videos = [broken["empty.mp4"], good, broken["text.mp4"], good]
    batch = processor(videos, on_error="skip", return_tensors="pt")
    assert len(batch["pixel_values_videos"]) == 2
    assert [place for place, _ in batch.skipped] == [0, 2]
    assert "empty.mp4" in batch.skipped[0][1]
    with pytest.raises(ValueError, match="None of 1 videos"):
        processor([broken["empty.mp4"]], on_error="skip")


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), {"samplng": "uniform"}, "sampling"),
        (np.zeros((2, 8, 8, 3), np.uint8), {"sampling": "middle"}, "uniform, headtail, random"),
        (np.zeros((2, 8, 8, 3), np.uint8), {"start": 1.0}, "seconds of a file"),
        (np.zeros((8, 8, 3), np.uint8), {}, "expected \\(frames"),
        ([], {}, "empty"),
        (3, {}, "int"),
        (np.zeros((2, 8, 8, 3), np.uint8), {"num_frames": 0}, "at least one"),
        (np.zeros((2, 8, 8, 3), np.uint8), {"size": "big"}, "height"),
    ],
)
def test_wrong_calls_say_what_is_right(given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        LavisVideoProcessor(size=8, num_frames=2)(given, **options)


def test_part_without_frames(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match="clip.mp4.*no frame"):
        LavisVideoProcessor(size=8)(clip, start=50.0)


def test_processor_is_saved_and_found(tmp_path: Path) -> None:
    own = AlproProcessor(LavisVideoProcessor(size=16, num_frames=2), bert_tokenizer(str(GOLDEN_TOKENIZER)), 12)
    own.save_pretrained(tmp_path)
    AlproConfig().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "processor_config.json").read_text())
    assert stored["video_processor"]["num_frames"] == 2
    assert isinstance(AutoVideoProcessor.from_pretrained(tmp_path), LavisVideoProcessor)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, AlproProcessor) and again.max_text_length == 12
    clip = write_clip(tmp_path / "clip.mp4")
    inputs = {"videos": [clip], "text": ["a dog (running)"], "return_tensors": "pt"}
    for name, value in own(**inputs).items():
        assert torch.equal(again(**inputs)[name], value)


def test_texts_of_skipped_videos_go_too(tmp_path: Path) -> None:
    processor = AlproProcessor(LavisVideoProcessor(size=16, num_frames=2), bert_tokenizer(str(GOLDEN_TOKENIZER)))
    clip = write_clip(tmp_path / "clip.mp4")
    batch = processor(
        videos=[clip, tmp_path / "none.mp4"],
        text=["a dog", "a red ball on the beach"],
        answers=[3, 4],
        on_error="skip",
        return_tensors="pt",
    )
    assert len(batch["pixel_values_videos"]) == len(batch["input_ids"]) == 1 and batch["labels"].tolist() == [3]
    assert torch.equal(batch["input_ids"], processor(text=["a dog"], return_tensors="pt")["input_ids"])
    assert processor.answer_labels(["yes", "maybe"], {"yes": 1}).tolist() == [1, -100]


PEAK = """
import resource, sys
from modeling_lavis.models import video_reading
from modeling_lavis import LavisVideoProcessor
if sys.argv[2] == "VideoFile":
    video_reading.torchcodec_decoder = lambda: None
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
