# SPDX-License-Identifier: Apache-2.0
"""What a pipeline was given: one row or many, all there or still to come, pictures or rows with a picture.

A row is a dictionary, for example `{"image": "dog.jpg", "question": "what breed?"}`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch.utils.data import Dataset, IterableDataset

_SPELLINGS = {"images": "image", "videos": "video", "texts": "text", "questions": "question", "prompts": "prompt"}


class Inputs(NamedTuple):
    """
    Args:
        entries: rows or pictures, in order.
        single: there is one, given by itself.
        lazy: a data set or a generator; its results are handed out one by one.
    """

    entries: Any
    single: bool
    lazy: bool


class Failure(NamedTuple):
    """A row that could not be prepared, and why."""

    message: str


def is_picture(value: Any) -> bool:
    """Tell whether `value` stands for one picture: an address, a PIL image, an array of two or three dimensions."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim <= 3
    return isinstance(value, (str, os.PathLike, PIL.Image.Image))


def is_video(value: Any) -> bool:
    """Tell whether `value` is one video: an address, an array of four dimensions (grey: three), a list of frames."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim in (3, 4)
    if isinstance(value, (list, tuple)) and value:
        return all(is_picture(frame) and not isinstance(frame, (str, os.PathLike)) for frame in value)
    return isinstance(value, (str, os.PathLike))


def sort_inputs(value: Any, is_one: Callable[[Any], bool] = is_picture) -> Inputs:
    """Find out what was given; see [`Inputs`].

    Args:
        value: what a pipeline was called with.
        is_one: tells whether something is a single picture (or a single video).

    Raises:
        TypeError: it is nothing that a pipeline can go through.
    """
    if isinstance(value, Mapping) or is_one(value):
        return Inputs([value], single=True, lazy=False)
    if isinstance(value, (list, tuple, np.ndarray, torch.Tensor)):
        return Inputs(list(value), single=False, lazy=False)
    if isinstance(value, Iterable) or (hasattr(value, "__getitem__") and isinstance(value, Sized)):
        if not isinstance(value, (bytes, bytearray)) and not hasattr(value, "read"):  # the lines of a file are no rows
            return Inputs(value, single=False, lazy=True)
    raise TypeError(
        f"A pipeline got {type(value).__name__}; expected a picture (path, URL, PIL image, array), a row such as "
        "{'image': ...}, or a list, a data set or a generator of either. Open a file, or bytes in an io.BytesIO, with "
        "PIL.Image.open."
    )


def as_row(entry: Any, key: str = "image") -> dict[str, Any]:
    """The row of an entry: a picture goes under `key`, a row is copied with the plural of a name made its singular."""
    if not isinstance(entry, Mapping):
        return {key: entry}
    row: dict[str, Any] = {**entry}
    if key in ("image", "video"):
        for plural, singular in _SPELLINGS.items():
            if plural in row:
                row.setdefault(singular, row.pop(plural))
    return row


def spread(inputs: Inputs, name: str, values: Any, key: str = "image") -> Inputs:
    """Give each row its own value under `name`, for example its question.

    Args:
        inputs: rows or pictures.
        name: name in the row.
        values: a list or a tuple with one value per row; with a single row the row is repeated for each value.
        key: name under which a bare picture goes.

    Raises:
        ValueError: numbers differ, or rows are still to come.
    """
    values = list(values)
    if inputs.lazy:
        raise ValueError(
            f"A list of {name}s cannot be dealt out to a data set or a generator; give rows that hold both, such as "
            f"{{'{key}': ..., '{name}': ...}}."
        )
    entries = inputs.entries * len(values) if inputs.single else inputs.entries
    if len(entries) != len(values):
        raise ValueError(f"{len(entries)} inputs and {len(values)} {name}s were given; give one {name}, or one each.")
    rows = [{**as_row(entry, key), name: value} for entry, value in zip(entries, values)]
    return Inputs(rows, single=False, lazy=False)


class PreparedRows(Dataset):
    """Rows of something with a length, prepared when they are asked for."""

    def __init__(self, entries: Any, prepare: Callable[[Any], Any]) -> None:
        self.entries = entries
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Any:
        return self.prepare(self.entries[index])


class PreparedStream(IterableDataset):
    """Rows of something that can only be gone through, prepared on the way."""

    def __init__(self, entries: Iterable[Any], prepare: Callable[[Any], Any]) -> None:
        self.entries = entries
        self.prepare = prepare

    def __iter__(self) -> Iterator[Any]:
        return map(self.prepare, self.entries)
