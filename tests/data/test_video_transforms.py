"""ALPRO's training transform: recorded draws and seeds give the recorded pixels; options."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.numpy import load_file

from modeling_lavis.data import video_transforms
from modeling_lavis.data.randaugment import Operation, TorchDraws, apply_operation
from modeling_lavis.data.video_transforms import (
    VideoTrainDraw,
    VideoTrainTransform,
    alpro_video_train,
    draw_frame_operations,
)
from tests.models.video_clips import frame_number, write_clip

RECORDINGS = Path(__file__).parent / "recordings"


@pytest.fixture(scope="module")
def recordings() -> list[tuple[dict[str, Any], np.ndarray, torch.Tensor]]:
    tensors = load_file(RECORDINGS / "alpro_video_train.safetensors")
    rows = json.loads((RECORDINGS / "alpro_video_train.json").read_text())["rows"]
    return [
        (row, tensors[f"{row['tensor']}.frames"], torch.from_numpy(tensors[f"{row['tensor']}.pixels"])) for row in rows
    ]


def test_recorded_draws_give_the_recorded_pixels(recordings) -> None:
    for row, frames, pixels in recordings:
        operations = [[Operation(name, tuple(values)) for name, values in frame] for frame in row["operations"]]
        transform = alpro_video_train(frames.shape[1], len(frames))
        made = transform.apply(frames, VideoTrainDraw(tuple(row["crop"]), row["flip"], operations))
        torch.testing.assert_close(made, pixels, rtol=0, atol=0)


def test_seeds_give_the_recorded_draws(recordings) -> None:
    for row, frames, pixels in recordings:
        transform = alpro_video_train(frames.shape[1], len(frames))
        draw = transform.draw(torch.Generator().manual_seed(row["seed"]), np.random.RandomState(row["seed"]))
        # parity: the original draws the flip from Python's `random`
        draw = dataclasses.replace(draw, flip=random.Random(row["seed"]).random() < 0.5)
        torch.testing.assert_close(transform.apply(frames, draw), pixels, rtol=0, atol=0)


def test_auto_contrast_of_a_channel_without_zero() -> None:
    image = np.stack([np.arange(64), np.arange(64) + 5, np.full(64, 9)], axis=-1).astype(np.uint8).reshape(8, 8, 3)
    made = apply_operation(image, ("AutoContrast", ()))
    assert made[..., 0].min() == 0 and made[..., 0].max() == 255
    assert (made[..., 1] == 255).all() and (made[..., 2] == 9).all()


def test_operations_are_the_same_for_all_frames() -> None:
    signs = set()
    for seed in range(60):
        drawn = draw_frame_operations(TorchDraws(torch.Generator().manual_seed(seed)), 4)
        names = [[operation.name for operation in frame] for frame in drawn]
        assert names == [names[0]] * 4 and len(set(names[0])) == 2
        signs |= {np.sign(frame[0].arguments[0]) for frame in drawn if frame[0].name == "ShearX"}
    assert signs == {-1, 1}


def test_video_files(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=20)
    transform = alpro_video_train(32, 4)
    clip = transform(path, torch.Generator().manual_seed(0))
    assert clip.shape == (4, 3, 32, 32) and clip.dtype == torch.float32
    assert torch.equal(clip, transform(str(path), torch.Generator().manual_seed(0)))
    assert not torch.equal(clip, transform(path, torch.Generator().manual_seed(1)))
    frames = VideoTrainTransform(96, 6).read(path, torch.Generator().manual_seed(0))
    assert frames.shape == (6, 96, 96, 3)
    whole = [np.asarray(PIL.Image.fromarray(frame).resize((96, 64))) for frame in frames]
    shown = [frame_number(frame) for frame in whole]
    assert shown == sorted(set(shown)) and sum(number < 10 for number in shown) == 3
    late = VideoTrainTransform(96, 3).read(path, start=1.0)
    assert min(frame_number(np.asarray(PIL.Image.fromarray(frame).resize((96, 64)))) for frame in late) >= 10


def test_global_seed_without_generator() -> None:
    frames = np.random.RandomState(0).randint(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    made = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            made.append(alpro_video_train(16, 3)(frames))
    assert torch.equal(*made)


def test_options() -> None:
    # upscaling a sharp edge overshoots: values wrap around or are clamped
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    frames[:, :, 8:] = 255
    draw = VideoTrainDraw((0, 4, 16, 8))
    plain = {"image_mean": (0, 0, 0), "image_std": (1, 1, 1)}
    wrapped = VideoTrainTransform(16, 1, **plain).apply(frames, draw)[0, 0, 0]
    clamped = VideoTrainTransform(16, 1, wrap_overshoot=False, **plain).apply(frames, draw)[0, 0, 0]
    assert (clamped.diff() >= 0).all() and not (wrapped.diff() >= 0).all()
    assert not any(VideoTrainTransform(16, 1, flip_probability=0).draw().flip for _ in range(20))
    assert VideoTrainTransform(16, 1, augment=False).draw().operations == ()
    for wrong in ({"image_size": 0}, {"sampling": "middle"}, {"count": 11}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            VideoTrainTransform(**wrong)
    with pytest.raises(ValueError, match="2 frames, the clip has 1"):
        VideoTrainTransform(16).apply(frames, VideoTrainDraw((0, 0, 16, 16), False, [[], []]))
    with pytest.raises(ValueError, match="one at a time"):
        VideoTrainTransform(16)(["a.mp4", "b.mp4"])


def test_kept_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are decoded once, with the frames of no memory; crops are drawn every time."""
    path = write_clip(tmp_path / "a.mp4", frames=12)
    kept, plain = (VideoTrainTransform(32, 3, sampling="uniform", keep_frames=keep) for keep in (True, False))
    calls: list[Any] = []
    read = video_transforms.load_video_frames
    monkeypatch.setattr(video_transforms, "load_video_frames", lambda *a: (calls.append(a), read(*a))[1])
    for seed in range(3):
        generators = [torch.Generator().manual_seed(seed) for _ in range(2)]
        assert torch.equal(kept(path, generators[0]), plain(path, generators[1]))
    assert len(calls) == 4
    kept(path, end=0.2)  # other frames of the same file
    assert len(calls) == 5
    with pytest.raises(ValueError, match="keep_frames is True and sampling is 'headtail'"):
        VideoTrainTransform(32, 3, keep_frames=True)
