# SPDX-License-Identifier: Apache-2.0
"""Training batches whose random draws (transforms, chosen captions) depend on their place in the run alone.

A data loader reads ahead. If transforms and collators drew from the stream of random numbers that dropout also draws
from, a run that is stopped and resumed would draw others than a run without stop. Here the draws of a batch are seeded
by the seed of the run, the epoch and the rows of the batch, whichever process makes it and whenever.
"""

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info
from transformers.trainer_pt_utils import LengthGroupedSampler


@contextlib.contextmanager
def seeded(*place: int) -> Iterator[None]:
    """
    Draw the random numbers of torch (on the CPU), NumPy and Python in a `with` block from a seed, and restore the
    generators after it.

    Args:
        place (`int`): numbers that make up the seed, for example seed, epoch and row.
    """
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    digest = hashlib.blake2b(repr(place).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "big")
    # torch.manual_seed would also seed accelerators, whose state is not restored here.
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


class _Batch(NamedTuple):
    """Rows of a batch, and the numbers that seed its draws."""

    rows: list[Any]
    place: tuple[int, ...]


class _Row(NamedTuple):
    """A row of a stream, and the numbers that seed the draws of a batch that begins with it."""

    row: Any
    place: tuple[int, ...]


class Epoch:
    """Number of the current epoch, which workers of a data loader see change."""

    def __init__(self) -> None:
        self._number = torch.zeros((), dtype=torch.long).share_memory_()

    def set(self, number: int) -> None:
        """Set the number of the epoch."""
        self._number.fill_(number)

    def get(self) -> int:
        """The number of the epoch."""
        return int(self._number)


class ReproducibleRows(Dataset):
    """
    A map-style data set whose batches have draws of their own; for a loader with a [`ReproducibleCollator`].

    Args:
        rows: the data set.
        seed (`int`): seed of the run.
        epoch ([`Epoch`]): the current epoch.
    """

    def __init__(self, rows: Any, seed: int, epoch: Epoch) -> None:
        self.rows = rows
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> _Batch:
        place = (self.seed, self.epoch.get(), *map(int, indices))
        with seeded(*place):
            whole = getattr(self.rows, "__getitems__", None)
            rows = list(whole(indices)) if whole is not None else [self.rows[index] for index in indices]
        return _Batch(rows, place)


class ReproducibleStream(IterableDataset):
    """
    A stream of rows, each with draws of its own; for a loader with a [`ReproducibleCollator`].

    Args:
        rows: the iterable data set.
        seed (`int`): seed of the run.
        epoch ([`Epoch`]): the current epoch.
        process (`int`): rank of this process.
    """

    def __init__(self, rows: Any, seed: int, epoch: Epoch, process: int) -> None:
        self.rows = rows
        self.seed = seed
        self.epoch = epoch
        self.process = process

    def __len__(self) -> int:
        if not isinstance(self.rows, Sized):
            raise TypeError(f"{type(self.rows).__name__} has no length.")
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch to a stream that shuffles anew in each."""
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[_Row]:
        worker = get_worker_info()
        start = (self.seed, self.epoch.get(), self.process, worker.id if worker else 0)
        with seeded(*start):
            iterator = iter(self.rows)
        position = 0
        while True:
            place = (*start, position)
            with seeded(*place):
                try:
                    row = next(iterator)
                except StopIteration:
                    return
            yield _Row(row, place)
            position += 1


class ReproducibleCollator:
    """
    A collator whose draws are seeded by the place of the batch in the run.

    Args:
        collator (`Callable`): the collator of rows.
    """

    def __init__(self, collator: Callable[[list[Any]], Any]) -> None:
        self.collator = collator

    def __call__(self, batch: Any) -> Any:
        """
        Collate a batch.

        Args:
            batch: what a [`ReproducibleRows`] or a [`ReproducibleStream`] gave the loader.

        Returns:
            What the collator returns for the rows.
        """
        if not isinstance(batch, _Batch):
            batch = _Batch([row for row, _ in batch], batch[0].place)
        with seeded(*batch.place, -1):  # other draws than those of the rows
            return self.collator(batch.rows)


def reproducible_rows(rows: Any, seed: int, epoch: Epoch, process: int = 0) -> Dataset:
    """
    A data set with draws that depend on their place in the run alone.

    Args:
        rows: a map-style or an iterable data set.
        seed (`int`): seed of the run.
        epoch ([`Epoch`]): the current epoch.
        process (`int`, *optional*, defaults to 0): rank of this process.
    """
    if isinstance(rows, IterableDataset) or not hasattr(rows, "__getitem__"):
        return ReproducibleStream(rows, seed, epoch, process)
    return ReproducibleRows(rows, seed, epoch)


class _ReproducibleOrder(Sampler):
    """Another sampler's order, drawn from seed and epoch."""

    def __init__(self, sampler: Any, seed: int, epoch: Epoch) -> None:
        self.sampler = sampler
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        with seeded(self.seed, self.epoch.get()):
            order = list(self.sampler)
        yield from order


def reproducible_order(sampler: Any, rows: Any) -> Any:
    """
    A sampler whose order depends on the seed and the epoch alone.

    Args:
        sampler (`Sampler`, *optional*): the sampler. accelerate itself makes random samplers reproducible.
        rows ([`ReproducibleRows`]): the data set, whose seed and epoch are taken.
    """
    if not isinstance(rows, ReproducibleRows) or not isinstance(sampler, LengthGroupedSampler):
        return sampler
    return _ReproducibleOrder(sampler, rows.seed, rows.epoch)


__all__ = [
    "Epoch",
    "ReproducibleCollator",
    "ReproducibleRows",
    "ReproducibleStream",
    "reproducible_order",
    "reproducible_rows",
    "seeded",
]
