"""Replays of the recorded image, text and augmentation processors.

Letters: H height, W width, S side of what goes into the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from modeling_lavis.data.randaugment import Operation, apply_operation
from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
from modeling_lavis.models.text_cleaning import clean_caption, clean_question

from .goldens import PROCESSORS, excess, goldens_root, read_json
from .ledger import TOLERANCE

FOLDER = goldens_root() / PROCESSORS
IMAGES = FOLDER / "images"

# Recordings of families that this package does not build yet.
PLANNED = {"video_eval": "video input comes with the ALPRO family"}
REPLAYED = {"image_eval", "image_train", "randaugment", "text"}
NOT_RECORDINGS = {"versions"}


def rows(name: str) -> list[dict[str, Any]]:
    """The recorded rows of one file, none if the folder has no such file."""
    path = FOLDER / f"{name}.json"
    return read_json(path)["rows"] if path.exists() else []


def tensors(name: str) -> dict[str, torch.Tensor]:
    """The recorded tensors of one file."""
    return load_file(FOLDER / f"{name}.safetensors")


def by_tensor(row: dict[str, Any]) -> str:
    """Name of a row in the list of tests."""
    return row["tensor"]


def close(actual: torch.Tensor, recorded: torch.Tensor) -> bool:
    """Whether shapes agree and values do within the tolerance."""
    return actual.shape == recorded.shape and excess(actual, recorded, TOLERANCE) <= TOLERANCE


def image_processor(row: dict[str, Any]) -> LavisImageProcessor:
    """The evaluation transform with a row's size, mean and deviation."""
    options = {ours: row[theirs] for theirs, ours in (("mean", "image_mean"), ("std", "image_std")) if theirs in row}
    return LavisImageProcessor(size={"height": row["image_size"], "width": row["image_size"]}, **options)


def test_every_recording_is_replayed_or_planned() -> None:
    if FOLDER.is_dir():
        found = {path.stem for path in FOLDER.glob("*.json")} - NOT_RECORDINGS
        assert found <= REPLAYED | set(PLANNED)


@pytest.mark.parametrize("name", ["image_eval", "randaugment"])
def test_every_tensor_has_a_row(name: str) -> None:
    if rows(name):
        used = {row["tensor"] for row in rows(name)}
        assert set(tensors(name)) - used <= {"input"}


@pytest.mark.parametrize("row", rows("image_eval"), ids=by_tensor)
def test_image_eval(row: dict[str, Any]) -> None:
    pixels = image_processor(row)(IMAGES / row["image"], return_tensors="pt")["pixel_values"][0]
    assert close(pixels, tensors("image_eval")[row["tensor"]])


@pytest.mark.parametrize("row", rows("text"), ids=lambda row: f"{row['processor']}-{row['input'][:12]!r}")
def test_text(row: dict[str, Any]) -> None:
    clean = {"blip_caption": clean_caption, "blip_question": clean_question}[row["processor"]]
    assert clean(row["input"], **row["settings"]) == row["output"]


@pytest.mark.parametrize("row", rows("randaugment"), ids=by_tensor)
def test_randaugment(row: dict[str, Any]) -> None:
    recorded = tensors("randaugment")
    picture = apply_operation(recorded["input"].numpy(), Operation(row["op"], tuple(row["args"])))
    assert np.array_equal(picture, recorded[row["tensor"]].numpy())
