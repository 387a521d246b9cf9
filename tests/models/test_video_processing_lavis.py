"""Video processor: frame sampling, files, arrays and frames, broken files, invalid options."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from modeling_lavis import LavisVideoProcessor
from modeling_lavis.models.video_processing_lavis import sample_frame_indices
from tests.models.video_clips import HEIGHT, WIDTH, frame_number, numbered_frame, write_clip


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {name: write_clip(folder / name) for name in ("plain.mp4", "no_count.mkv")}


def test_sampled_frames_and_shapes(clips: dict[str, Path]) -> None:
    processor = LavisVideoProcessor(size={"height": HEIGHT, "width": WIDTH}, num_frames=4, do_normalize=False)
    batch = processor([clips["plain.mp4"], str(clips["no_count.mkv"])], return_tensors="pt")["pixel_values_videos"]
    assert batch.shape == (2, 4, 3, HEIGHT, WIDTH) and batch.dtype == torch.float32
    for clip in batch:
        shown = [frame_number(frame.permute(1, 2, 0).mul(255).numpy()) for frame in clip]
        assert shown == [0, 7, 15, 22]
    part = processor(clips["plain.mp4"], start=1.0, end=2.0)["pixel_values_videos"][0]
    assert [frame_number(frame.transpose(1, 2, 0) * 255) for frame in part] == [10, 12, 15, 17]


def test_short_videos_repeat_frames(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "three.mp4", frames=3)
    processor = LavisVideoProcessor(size={"height": HEIGHT, "width": WIDTH}, num_frames=8, do_normalize=False)
    for sampling in ("uniform", "headtail", "random"):
        made = processor(clip, sampling=sampling)["pixel_values_videos"][0]
        shown = [frame_number(frame.transpose(1, 2, 0) * 255) for frame in made]
        assert len(shown) == 8 and shown == sorted(shown)
        if sampling == "uniform":
            assert shown == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("sampling", ["uniform", "headtail", "random"])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 15, 100])
@pytest.mark.parametrize("count", [1, 2, 5, 13, 16])
def test_sampled_indices_are_sorted_and_in_range(sampling: str, length: int, count: int) -> None:
    chosen = sample_frame_indices(length, count, sampling, random.Random(0))
    assert len(chosen) == count and chosen == sorted(chosen)
    assert 0 <= chosen[0] and chosen[-1] < length
    if sampling != "uniform":
        assert chosen == sample_frame_indices(length, count, sampling, random.Random(0))


def test_files_arrays_and_frames_give_equal_outputs(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "exact.mkv", frames=6, codec="ffv1", pixel_format="bgr0")
    frames = [numbered_frame(number) for number in range(6)]
    processor = LavisVideoProcessor(size=32, num_frames=3)
    expected = processor(clip, return_tensors="pt")["pixel_values_videos"]
    images = []
    for number, frame in enumerate(frames):
        PIL.Image.fromarray(frame).save(tmp_path / f"{number}.png")
        images.append(PIL.Image.fromarray(frame))
    stack = np.stack(frames)
    for given in (
        stack,
        stack.transpose(0, 3, 1, 2),
        torch.from_numpy(stack),
        stack.astype(np.float32),
        stack.astype(np.float32) / 255,
        stack[None],
        images,
        frames,
        [images],
    ):
        assert torch.equal(processor(given, return_tensors="pt")["pixel_values_videos"], expected)


def broken_files(folder: Path) -> dict[str, Path]:
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video at all")
    whole = write_clip(folder / "whole.mkv", frames=60, codec="ffv1", pixel_format="bgr0").read_bytes()
    (folder / "cut.mp4").write_bytes(write_clip(folder / "whole.mp4").read_bytes()[:400])
    (folder / "header.mkv").write_bytes(whole[:300])
    return {name: folder / name for name in ("empty.mp4", "text.mp4", "cut.mp4", "header.mkv", "missing.mp4")}


def test_broken_files_raise_or_are_skipped(tmp_path: Path) -> None:
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
def test_invalid_options_raise(given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        LavisVideoProcessor(size=8, num_frames=2)(given, **options)


def test_interval_without_frames_raises(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match="clip.mp4: None of its 30 frames is shown between start=50.0"):
        LavisVideoProcessor(size=8)(clip, start=50.0)
