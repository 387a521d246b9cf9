"""Replays of the recorded image, text, video and augmentation processors."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modeling_lavis.data.randaugment import Operation, apply_operation
from modeling_lavis.data.transforms import ImageTrainTransform, TrainDraw, blip2_image_train, blip_image_train
from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
from modeling_lavis.models.tokenization_lavis import clean_caption, clean_question
from modeling_lavis.models.video_processing_lavis import (
    LavisVideoProcessor,
    fit_count,
    headtail_indices,
    sample_frame_indices,
    uniform_indices,
)

from .goldens import PROCESSORS, excess, goldens_root, read_json
from .ledger import TOLERANCE

FOLDER = goldens_root() / PROCESSORS
IMAGES = FOLDER / "images"

REPLAYED = {"image_eval", "image_train", "randaugment", "text", "video_eval"}
OTHER_FILES = {"versions"}


def is_left_out(path: Path) -> bool:
    """Whether recordings are missing, which only those of another folder than the repository's may be."""
    missing = not path.exists()
    assert not (missing and FOLDER.parent == Path(__file__).resolve().parents[1] / "goldens"), f"{path} is missing"
    return missing


def rows(name: str) -> list[dict[str, Any]]:
    """Recorded rows of a file; empty if the file does not exist."""
    path = FOLDER / f"{name}.json"
    return read_json(path)["rows"] if path.exists() else []


def tensors(name: str) -> dict[str, torch.Tensor]:
    """Recorded tensors of a file."""
    return load_file(FOLDER / f"{name}.safetensors")


def by_tensor(row: dict[str, Any]) -> str:
    """Test id of a row."""
    return row["tensor"]


def close(actual: torch.Tensor, recorded: torch.Tensor) -> bool:
    """Whether shapes are equal and values within the tolerance."""
    return actual.shape == recorded.shape and excess(actual, recorded, TOLERANCE) <= TOLERANCE


def image_processor(row: dict[str, Any]) -> LavisImageProcessor:
    """The image processor with the size, mean and standard deviation of a row."""
    options = {ours: row[theirs] for theirs, ours in (("mean", "image_mean"), ("std", "image_std")) if theirs in row}
    return LavisImageProcessor(size={"height": row["image_size"], "width": row["image_size"]}, **options)


def test_every_recording_is_replayed() -> None:
    if is_left_out(FOLDER):
        pytest.skip(f"no folder {FOLDER}")
    names = {path.stem for path in FOLDER.glob("*.json")} - OTHER_FILES
    assert names and names <= REPLAYED


@pytest.mark.parametrize("name", ["image_eval", "randaugment", "video_eval"])
def test_every_tensor_has_a_row(name: str) -> None:
    if is_left_out(FOLDER / f"{name}.json"):
        pytest.skip(f"no recordings {name}")
    used = {row["tensor"] for row in rows(name)} | {row.get("input") for row in rows(name)}
    assert used and set(tensors(name)) - used <= {"input"}


@pytest.mark.parametrize("row", rows("image_eval"), ids=by_tensor)
def test_image_eval(row: dict[str, Any]) -> None:
    pixels = image_processor(row)(IMAGES / row["image"], return_tensors="pt")["pixel_values"][0]
    assert close(pixels, tensors("image_eval")[row["tensor"]])


BEFORE = ".before_augment"


def train_transform(row: dict[str, Any]) -> ImageTrainTransform:
    """The training transform of a row."""
    make = {"blip_image_train": blip_image_train, "blip2_image_train": blip2_image_train}[row["processor"]]
    return make(row["image_size"])


def recorded_draw(row: dict[str, Any]) -> TrainDraw:
    """The recorded draw of a row."""
    operations = tuple(Operation(name, tuple(map(tuplify, arguments))) for name, arguments in row["ops"])
    return TrainDraw(tuple(row["crop_ijhw"]), row["flipped"], operations)


def tuplify(value: Any) -> Any:
    """Convert lists of JSON to tuples."""
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("row", rows("image_train"), ids=by_tensor)
def test_image_train(row: dict[str, Any]) -> None:
    recorded, transform, draw = tensors("image_train"), train_transform(row), recorded_draw(row)
    image = IMAGES / row["image"]
    assert close(transform.apply(image, draw), recorded[row["tensor"]])
    if row["tensor"] + BEFORE in recorded:
        assert np.array_equal(transform.crop_and_flip(image, draw), recorded[row["tensor"] + BEFORE].numpy())


@pytest.mark.parametrize("row", rows("image_train"), ids=by_tensor)
def test_image_train_draws(row: dict[str, Any]) -> None:
    """Equal seeds give the recorded crops, flips and operations."""
    generator = torch.Generator().manual_seed(row["seed"])
    draw = train_transform(row).draw(IMAGES / row["image"], generator, np.random.RandomState(row["seed"]))
    assert draw == recorded_draw(row)


def test_every_image_train_tensor_has_a_row() -> None:
    if is_left_out(FOLDER / "image_train.json"):
        pytest.skip("no recordings image_train")
    used = {row["tensor"] for row in rows("image_train")}
    assert used and set(tensors("image_train")) <= used | {name + BEFORE for name in used}


@pytest.mark.parametrize("row", rows("text"), ids=lambda row: f"{row['processor']}-{row['input'][:12]!r}")
def test_text(row: dict[str, Any]) -> None:
    clean = {"blip_caption": clean_caption, "blip_question": clean_question}[row["processor"]]
    assert clean(row["input"], **row["settings"]) == row["output"]


@pytest.mark.parametrize("row", rows("randaugment"), ids=by_tensor)
def test_randaugment(row: dict[str, Any]) -> None:
    recorded = tensors("randaugment")
    image = apply_operation(recorded["input"].numpy(), Operation(row["op"], tuple(row["args"])))
    assert np.array_equal(image, recorded[row["tensor"]].numpy())


@pytest.mark.parametrize("row", rows("video_eval"), ids=by_tensor)
def test_video_eval(row: dict[str, Any]) -> None:
    recorded = tensors("video_eval")
    processor = LavisVideoProcessor(size=row["image_size"], num_frames=row["n_frms"])
    clip = recorded[row["input"]].transpose(0, 1)  # the original has channels first
    pixels = processor(clip, return_tensors="pt")["pixel_values_videos"][0]
    assert close(pixels.transpose(0, 1), recorded[row["tensor"]])


def frame_picks() -> list[dict[str, Any]]:
    """Recorded frame indices."""
    path = FOLDER / "video_eval.json"
    return read_json(path)["frame_picks"] if path.exists() else []


@pytest.mark.parametrize("pick", frame_picks(), ids=lambda p: f"{p['sampling']}-{p['n_frms']}-of-{p['video_length']}")
def test_frame_picks(pick: dict[str, Any]) -> None:
    length, count = pick["video_length"], pick["n_frms"]
    if pick["sampling"] == "uniform":
        indices = uniform_indices(length, count)
    else:
        indices = headtail_indices(length, count, random.Random(pick["python_random_seed"]))
    assert indices == pick["indices"]
    assert pick["clip_shape"][1] == len(indices)
    # A model always gets its number of frames, also where the original selects none.
    rng = random.Random(pick.get("python_random_seed"))
    sampled = sample_frame_indices(length, count, pick["sampling"], rng)
    assert sampled == fit_count(indices, count) if indices else len(sampled) == count
