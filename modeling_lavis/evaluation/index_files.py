# SPDX-License-Identifier: Apache-2.0
"""Files of an index of features, and how they are opened. `docs/collections.md` describes the format.

A folder has a head, `index.json`, which names the others: `rows-N.parquet` (one row per item), `vectors-N.npy`
(float32, one row of vectors per item, in the same order), for some `vectors-N.faiss` (read by `faiss.read_index`) and
`states-N.npy` (hidden states of items, one after the other; the column `num_states` says how many each item has).
[`write_index_files`] replaces all of them at once. So whenever a process is killed, the head names files that are
complete and belong together.

Shapes: I items, Q vectors per item, P projection dimension, S hidden states of all items, n those of one, D hidden
size.
"""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from modeling_lavis.evaluation.faiss_indexes import read_faiss
from modeling_lavis.files import read_json
from modeling_lavis.import_utils import require

HEAD = "index.json"
FORMAT = "modeling-lavis index"
VERSION = 1
#: ends of the names of the files that a head can name, by their keys in it
SUFFIXES: Mapping[str, str] = {"rows": "parquet", "vectors": "npy", "faiss": "faiss", "states": "npy"}
#: names of these files, of any number, also while they are written
DATA_FILE = re.compile(r"\.?(?:rows|vectors|states)-(\d+)\.(?:parquet|npy|faiss)(?:\.partial-\w+)?")


class StoredStates(Sequence["Tensor | None"]):
    """
    Hidden states of items, mapped into memory: for each item a tensor `(n, D)`, or `None` if its states are not stored.

    Args:
        values (`np.ndarray` of shape `(S, D)`): the states of all items, one after the other.
        counts (`np.ndarray` of shape `(I,)`): how many states each item has.
    """

    def __init__(self, values: np.ndarray, counts: np.ndarray) -> None:
        self.values, self.counts = values, counts
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, row: int) -> Tensor | None: ...
    @overload
    def __getitem__(self, row: slice) -> "list[Tensor | None]": ...
    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        part = self.array(range(len(self))[row])
        return mapped_tensor(part) if len(part) else None

    def array(self, row: int) -> np.ndarray:
        """The states `(n, D)` of an item, of which there may be none."""
        return self.values[self._ends[row] - self.counts[row] : self._ends[row]]


def mapped_tensor(array: np.ndarray) -> Tensor:
    """A tensor of an array that is mapped into memory, without a copy. It must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable", category=UserWarning)
        return torch.from_numpy(array)


class IndexFiles:
    """
    An index on disk that is open. Vectors and hidden states are mapped into memory, not read; they stay readable when
    another process replaces or removes the files.

    Args:
        folder (`Path`): its folder.
        head (`Mapping[str, Any]`): content of `index.json`.

    Raises:
        OSError: a file is missing or was cut off. ValueError: the files do not belong together.
    """

    def __init__(self, folder: Path, head: Mapping[str, Any]) -> None:
        self.folder, self.head = folder, head
        for entry in head["files"].values():
            path = folder / entry["name"]
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing. Copy or make the index again.")
            if (size := path.stat().st_size) != entry["bytes"]:
                raise OSError(
                    f"{path} has {size:,} bytes; expected {entry['bytes']:,} bytes. Copy or make the index again."
                )
        self._table = require("pyarrow.parquet", extra="train", purpose="the rows of an index").ParquetFile(
            self.path("rows"), memory_map=True
        )
        #: the vectors, `(I, P)` or `(I, Q, P)`, read-only
        self.vectors: np.ndarray = np.load(str(self.path("vectors")), mmap_mode="r", allow_pickle=False)
        states = self.path("states")
        self._states = None if states is None else np.load(str(states), mmap_mode="r", allow_pickle=False)
        if not (len(self.vectors) == self._table.metadata.num_rows == head.get("count")):
            raise ValueError(
                f"{folder} has {self._table.metadata.num_rows} rows and {len(self.vectors)} vectors; expected"
                f" {head.get('count')} of each. Make the index again."
            )

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "IndexFiles":
        """
        Open an index.

        Args:
            folder (`str` or `os.PathLike`): its folder.

        Raises:
            OSError: there is no index, or one of its files is missing or was cut off. ValueError: the head is damaged,
                or written by a later version.
        """
        folder = Path(folder)
        head = read_head(folder)
        while True:
            try:
                return cls(folder, head)
            except FileNotFoundError:  # another process may have replaced all files since the head was read
                newer = read_head(folder)
                if newer == head:
                    raise
                head = newer

    def path(self, kind: str) -> Path | None:
        """Path of a file by its key in the head; `None` if the index does not have it."""
        entry = self.head["files"].get(kind)
        return None if entry is None else self.folder / entry["name"]

    @cached_property
    def rows(self) -> Any:
        """The table of rows, a `pyarrow.Table`."""
        return self._table.read()

    @cached_property
    def states(self) -> StoredStates | None:
        """Hidden states of the items that have them; `None` if none are stored."""
        if self._states is None:
            return None
        return StoredStates(self._states, self.rows.column("num_states").to_numpy())

    @cached_property
    def faiss(self) -> Any:
        """The FAISS index, as far as possible mapped into memory; `None` for exact search."""
        return self.read_faiss(mapped=True)

    def read_faiss(self, mapped: bool) -> Any:
        """
        Read the FAISS index.

        Args:
            mapped (`bool`): map it into memory, so that nothing can be added to it.

        Raises:
            OSError: another process has replaced the index since it was opened. ValueError: the file is damaged.
        """
        path = self.path("faiss")
        if path is None:
            return None
        if not path.exists():
            raise FileNotFoundError(f"The index {self.folder} was changed after it was opened. Open it again.")
        return read_faiss(path, mapped)


def read_head(folder: Path) -> dict[str, Any]:
    """
    Read and check the head of an index.

    Raises:
        OSError: there is no index. ValueError: the head is damaged, or written by a later version.
    """
    path = folder / HEAD
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not an index: it has no {HEAD}. Make one with `modeling-lavis index`.")
    try:
        head = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}. Make the index again.") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT or not isinstance(head.get("files"), dict):
        raise ValueError(f"{path} is not the head of an index. Give the folder of an index.")
    if head.get("version") != VERSION:
        raise ValueError(
            f"{folder} has version {head.get('version')!r} of the format; expected {VERSION}. Install a release of"
            " modeling-lavis that reads it, or make the index again."
        )
    for kind, entry in head["files"].items():
        if kind not in SUFFIXES or not _is_entry(entry):
            raise ValueError(f"{path} names a file {entry!r}, which an index does not have.")
    if missing := {"rows", "vectors"} - set(head["files"]):
        raise ValueError(f"{path} names no file of {' and '.join(sorted(missing))}. Make the index again.")
    return head


def _is_entry(entry: Any) -> bool:
    """Whether this is the name and size of a file in the folder of an index."""
    return (
        isinstance(entry, dict)
        and DATA_FILE.fullmatch(str(entry.get("name"))) is not None
        and isinstance(entry.get("bytes"), int)
    )


__all__ = [
    "DATA_FILE",
    "FORMAT",
    "HEAD",
    "SUFFIXES",
    "VERSION",
    "IndexFiles",
    "StoredStates",
    "mapped_tensor",
    "read_head",
]
