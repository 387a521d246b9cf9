# SPDX-License-Identifier: Apache-2.0
"""Predictions for the rows of a data set: batches, workers, several processes, and the state of the model.

The evaluations of `tasks` run through [`predict`]. The processes take rows in turn, each row is one process's, and
every process gets the predictions of all rows.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader

from modeling_lavis.models.distributed import rank, world_size
from modeling_lavis.progress import Progress, Shown

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

#: batches of a stream that are read before their images are loaded
_STREAM_BATCHES = 32
_ON_BAD_ROW = ("raise", "skip")


@dataclass
class Predictions:
    """
    What [`predict`] returns.

    Args:
        rows (`dict[int, dict[str, Any]]`): what is known and was predicted of each row, by its position, in order.
        skipped (`dict[int, str]`): position of each row that was left out, and the reason.
    """

    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Running:
    """
    How an evaluation runs.

    Args:
        batch_size (`int`): rows per batch and process.
        num_workers (`int`): processes that load images or videos; 0 loads them in the process of the model.
        progress (`bool` or `TextIO`, *optional*): whether or where the first process shows progress, see
            `modeling_lavis.progress.Progress`.
        on_bad_row (`str`): `"raise"`, or `"skip"` for rows that cannot be read.

    Raises:
        ValueError: an option has an unsupported value.
    """

    batch_size: int = 32
    num_workers: int = 0
    progress: Shown = None
    on_bad_row: str = "raise"

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; expected an integer from {least}.")
        if self.on_bad_row not in _ON_BAD_ROW:
            raise ValueError(f"on_bad_row is {self.on_bad_row!r}; expected one of {_ON_BAD_ROW}.")


def predict(
    model: Any,
    rows: Any,
    collate: Callable[[Sequence[Row]], dict[str, Any]],
    record: Callable[[Row, int], dict[str, Any]],
    step: Callable[[dict[str, Any]], Sequence[dict[str, Any]]],
    running: Running,
    selection: Sequence[int] | None = None,
    needs_rows: bool = True,
) -> Predictions:
    """
    Predict something for each row.

    Args:
        model (`PreTrainedModel`): the model. It is in evaluation mode meanwhile; afterwards each of its modules has its
            former mode again. Device, dtype and autocast are the caller's.
        rows: a `datasets.Dataset`, a list of dicts, or an iterable of them (streaming), which is read once.
        collate (`Callable`): makes a batch of a list of rows, in a worker; its tensors are moved to the model's device.
        record (`Callable`): what is kept of a row and its position, such as its reference answers.
        step (`Callable`): predictions of a batch, a dict for each row.
        running ([`Running`]): how it runs.
        selection (sequence of `int`, *optional*): positions of the rows to use; all by default. Not for streams.
        needs_rows (`bool`, *optional*, defaults to `True`): whether it is an error that no row can be read.

    Returns:
        [`Predictions`]: of all rows, the same in every process.

    Raises:
        ValueError: there are no rows. Errors of a process are raised by all.
    """
    model = unwrapped(model)
    found = Predictions()
    failure: Exception | None = None
    try:
        with evaluation_mode(model), _progress_bar(rows, selection, running) as bar:
            for batch in _batches(rows, _Collate(collate, record, running.on_bad_row), running, selection):
                found.skipped.update(batch["skipped"])
                if batch["positions"]:
                    predicted = step(move(batch["inputs"], model.device))
                    for position, kept, result in zip(batch["positions"], batch["records"], predicted, strict=True):
                        found.rows[position] = {**kept, **result}
                bar.update(len(batch["positions"]) + len(batch["skipped"]))
    except Exception as error:
        if world_size() == 1:
            raise
        failure = error  # the other processes wait for this one
    merged = _gather(found, failure)
    if not merged.rows and needs_rows:
        reasons = "".join(f" Row {position}: {reason}" for position, reason in list(merged.skipped.items())[:3])
        raise ValueError(f"There is nothing to evaluate: rows has no usable row; expected at least one.{reasons}")
    if merged.skipped and rank() == 0:
        position, reason = next(iter(merged.skipped.items()))
        count = len(merged.skipped)
        logger.warning(
            f"Rows that cannot be read and are left out: {count}, the first of them row {position}: {reason}"
        )
    return merged


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards, each module has its former mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def move(values: Any, device: torch.device) -> Any:
    """The tensors in dicts moved to a device; other values unchanged."""
    if isinstance(values, Tensor):
        return values.to(device, non_blocking=True)
    if isinstance(values, Mapping):
        return {name: move(value, device) for name, value in values.items()}
    return values


def is_stream(rows: Any) -> bool:
    """Whether rows can only be read one after the other."""
    return not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__"))


def column_of(rows: Any, name: str) -> list[Any]:
    """A column of a data set or a list of dicts, `None` where a row has none; images of a data set are not decoded."""
    names = getattr(rows, "column_names", None)
    if isinstance(names, list):
        return list(rows[name]) if name in names else [None] * len(rows)
    return [rows[position].get(name) for position in range(len(rows))]


class _Collate:
    """Makes batches from positions and rows, in workers, too."""

    def __init__(self, collate: Callable[..., Any], record: Callable[..., Any], on_bad_row: str) -> None:
        self.collate, self.record, self.on_bad_row = collate, record, on_bad_row

    def __call__(self, entries: Sequence[tuple[int, Row]]) -> dict[str, Any]:
        skipped: dict[int, str] = {}
        good = list(entries)
        try:
            made = self._make(good)
        except (OSError, ValueError, KeyError, TypeError):
            if self.on_bad_row == "raise":
                raise
            good = []
            for position, row in entries:
                try:
                    self._make([(position, row)])
                    good.append((position, row))
                except (OSError, ValueError, KeyError, TypeError) as error:
                    skipped[position] = str(error)
            made = self._make(good) if good else ({}, [])
        return {"inputs": made[0], "records": made[1], "positions": [entry[0] for entry in good], "skipped": skipped}

    def _make(self, entries: Sequence[tuple[int, Row]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        inputs = self.collate([row for _, row in entries])
        return inputs, [self.record(row, position) for position, row in entries]


class _Entries:
    """Positions with their rows, for a `DataLoader`."""

    def __init__(self, rows: Any, positions: Sequence[int], first: int = 0) -> None:
        self.rows, self.positions, self.first = rows, positions, first

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[int, Row]:
        return self.positions[index], self.rows[self.positions[index] - self.first]


def _batches(
    rows: Any, collate: _Collate, running: Running, selection: Sequence[int] | None
) -> Iterator[dict[str, Any]]:
    """Batches of the rows of this process."""
    for entries in _parts(rows, running.batch_size, selection):
        loader: Iterable[dict[str, Any]] = DataLoader(
            entries,  # type: ignore[arg-type]
            batch_size=running.batch_size,
            collate_fn=collate,
            num_workers=running.num_workers,
        )
        yield from loader


def _parts(rows: Any, batch_size: int, selection: Sequence[int] | None) -> Iterator[Any]:
    """
    The rows of this process, of a stream in parts.

    A stream is read here, not in the workers, each of which would read its own copy of it.
    """
    if not is_stream(rows):
        positions = list(range(len(rows)) if selection is None else selection)[rank() :: world_size()]
        if positions:
            yield _Entries(rows, positions)
        return
    own = itertools.islice(enumerate(rows), rank(), None, world_size())
    while part := list(itertools.islice(own, _STREAM_BATCHES * batch_size)):
        yield part


def _gather(found: Predictions, failure: Exception | None) -> Predictions:
    """The predictions of all processes, in the order of the rows; the first failure of one is raised by all."""
    parts: list[Any] = [(found, None)]
    if world_size() > 1:
        message = None if failure is None else f"{type(failure).__name__}: {failure}"
        parts = [None] * world_size()
        dist.all_gather_object(parts, (found, message))
    if failure is not None:
        raise failure
    for process, (_, message) in enumerate(parts):
        if message is not None:
            raise RuntimeError(f"The evaluation failed in process {process}: {message}")
    merged = Predictions()
    for part, _ in parts:
        merged.rows.update(part.rows)
        merged.skipped.update(part.skipped)
    return Predictions(dict(sorted(merged.rows.items())), dict(sorted(merged.skipped.items())))


def _progress_bar(rows: Any, selection: Sequence[int] | None, running: Running) -> Progress:
    total = None if is_stream(rows) else len(rows if selection is None else selection)
    own = None if total is None else len(range(rank(), total, world_size()))
    return Progress(own, unit="rows", shown=running.progress if rank() == 0 else False)


def unwrapped(model: Any) -> Any:
    """The model inside torch's wrapper for several processes, which has no `generate`."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


__all__ = ["Predictions", "Running", "column_of", "evaluation_mode", "is_stream", "move", "predict", "unwrapped"]
