# SPDX-License-Identifier: Apache-2.0
"""Inputs of pipelines: one or many images, videos or rows, and batches of prepared rows.

A row is a dictionary, for example `{"image": "dog.jpg", "question": "what breed?"}`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

_SINGULARS = {"images": "image", "videos": "video", "texts": "text", "questions": "question", "prompts": "prompt"}


class Inputs(NamedTuple):
    """
    Parsed inputs.

    Args:
        entries: rows, or images or videos without a row, in order.
        single: whether one input was given, not a list of one; the pipeline then returns one result.
        lazy: whether a dataset or a generator was given; the pipeline then returns a generator of results.
    """

    entries: Any
    single: bool
    lazy: bool


class Failure(NamedTuple):
    """
    An entry that could not be prepared.

    Args:
        message: the message of the error.
        item: the entry, if it is needed later.
    """

    message: str
    item: Any = None


def is_image(value: Any) -> bool:
    """Whether `value` is one image: a path or URL, a PIL image, or an array with two or three dimensions."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim <= 3
    return isinstance(value, (str, os.PathLike, PIL.Image.Image))


def is_video(value: Any) -> bool:
    """Whether `value` is one video: a path or URL, an array with four dimensions (grayscale: three), or frames."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim in (3, 4)
    if isinstance(value, (list, tuple)) and value:
        return all(is_image(frame) and not isinstance(frame, (str, os.PathLike)) for frame in value)
    return isinstance(value, (str, os.PathLike))


def parse_inputs(value: Any, is_single_input: Callable[[Any], bool] = is_image) -> Inputs:
    """
    Tell single inputs, lists, datasets and generators apart.

    Args:
        value: the input of the call.
        is_single_input: function that recognizes a single image (or a single video).

    Raises:
        TypeError: If the type is not supported.
    """
    if isinstance(value, Mapping) or is_single_input(value):
        return Inputs([value], single=True, lazy=False)
    if isinstance(value, (list, tuple, np.ndarray, torch.Tensor)):
        return Inputs(list(value), single=False, lazy=False)
    if isinstance(value, Iterable) or (hasattr(value, "__getitem__") and isinstance(value, Sized)):
        # bytes and open files are iterable, but what they yield is not an input
        if not isinstance(value, (bytes, bytearray)) and not hasattr(value, "read"):
            return Inputs(value, single=False, lazy=True)
    raise TypeError(
        f"A pipeline got {type(value).__name__}; expected an image (path, URL, PIL image, array), a row such as "
        "{'image': ...}, or a list, a dataset or a generator of either. Open a file, or bytes in an io.BytesIO, with "
        "PIL.Image.open."
    )


def as_row(entry: Any, name: str = "image") -> dict[str, Any]:
    """Return an entry as a row: other inputs under `name`, rows as a copy in which plural names become singular."""
    if not isinstance(entry, Mapping):
        return {name: entry}
    row: dict[str, Any] = {**entry}
    if name in ("image", "video"):
        for plural, singular in _SINGULARS.items():
            if plural in row:
                row.setdefault(singular, row.pop(plural))
    return row


def add_values(inputs: Inputs, name: str, values: Any, input_name: str = "image") -> Inputs:
    """
    Add a value to each row, for example its question.

    Args:
        inputs: parsed inputs.
        name: name of the value in the row.
        values: a list or tuple with one value per row. A single input is repeated for each value.
        input_name: name in the row of an input without a row.

    Raises:
        ValueError: If there is another number of rows, or it is unknown.
    """
    values = list(values)
    if inputs.lazy:
        raise ValueError(
            f"A list of {name}s cannot be combined with a dataset or a generator; pass rows that contain both, such as "
            f"{{'{input_name}': ..., '{name}': ...}}."
        )
    entries = inputs.entries * len(values) if inputs.single else inputs.entries
    if len(entries) != len(values):
        raise ValueError(f"Got {len(entries)} inputs and {len(values)} {name}s; pass one {name}, or one per input.")
    rows = [{**as_row(entry, input_name), name: value} for entry, value in zip(entries, values)]
    return Inputs(rows, single=False, lazy=False)


def run_batches(
    entries: Any,
    prepare: Callable[[Any], Any],
    run: Callable[[list[Any]], Iterable[Any]],
    batch_size: int = 1,
    num_workers: int = 0,
) -> Iterator[Any]:
    """
    Prepare entries, run them in batches, and yield one result per entry, in order.

    Args:
        entries: a sequence, a dataset or an iterable.
        prepare: function from an entry to a prepared row or a [`Failure`]; runs in the worker processes.
        run: function from a list of prepared rows to one result for each.
        batch_size: maximum number of rows per batch.
        num_workers: number of worker processes.

    Returns:
        The results; for an entry that could not be prepared its [`Failure`].
    """
    rows: Any
    if isinstance(entries, Sized) and hasattr(entries, "__getitem__"):
        rows = _PreparedDataset(entries, prepare)
    else:
        rows = _PreparedStream(entries, prepare)
        num_workers = min(num_workers, 1)  # each worker would iterate over all entries
    for batch in DataLoader(rows, batch_size=batch_size, num_workers=num_workers, collate_fn=list):
        prepared = [row for row in batch if not isinstance(row, Failure)]
        results = iter(run(prepared) if prepared else ())
        for row in batch:
            yield row if isinstance(row, Failure) else next(results)


class _PreparedDataset(Dataset):
    """Entries with a length, prepared on access."""

    def __init__(self, entries: Any, prepare: Callable[[Any], Any]) -> None:
        self.entries = entries
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Any:
        return self.prepare(self.entries[index])


class _PreparedStream(IterableDataset):
    """Entries without a length, prepared during iteration."""

    def __init__(self, entries: Iterable[Any], prepare: Callable[[Any], Any]) -> None:
        self.entries = entries
        self.prepare = prepare

    def __iter__(self) -> Iterator[Any]:
        return map(self.prepare, self.entries)
