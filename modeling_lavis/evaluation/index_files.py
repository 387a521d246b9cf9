# SPDX-License-Identifier: Apache-2.0
"""Files of an index of features: written whole or not at all, and readable without this package.

A folder has a head, `index.json`, which names the others: `rows-N.parquet` (one row per item), `vectors-N.npy`
(float32, one row of vectors per item, in the same order), for some `vectors-N.faiss` (read by `faiss.read_index`) and
`states-N.npy` (hidden states of all items, one after the other; the column `num_states` says how many each item has).
A change writes new files of the next number N, then replaces the head, then removes the old files. So whenever a
process is killed, the head names files that are complete and belong together.

Shapes: I items, Q vectors per item, P projection dimension, S hidden states of all items, D hidden size.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modeling_lavis.files import read_json, whole_file
from modeling_lavis.import_utils import require

HEAD = "index.json"
FAILURES = "failures.jsonl"
FORMAT = "modeling-lavis index"
VERSION = 1
_NAMES = {"rows": "parquet", "vectors": "npy", "faiss": "faiss", "states": "npy"}
_FILE = re.compile(r"\.?(?:rows|vectors|states)-(\d+)\.(?:parquet|npy|faiss)(?:\.partial-\w+)?")


@dataclass(frozen=True)
class IndexFiles:
    """
    An index on disk; vectors and hidden states are mapped into memory, not read.

    Args:
        folder (`Path`): its folder.
        head (`Mapping[str, Any]`): content of `index.json`.
    """

    folder: Path
    head: Mapping[str, Any]

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
        if not (folder / HEAD).is_file():
            raise FileNotFoundError(f"{folder} is no index: it has no {HEAD}. Make one with `modeling-lavis index`.")
        try:
            head = read_json(folder / HEAD)
        except ValueError as error:
            raise ValueError(f"{folder / HEAD} cannot be read: {error}. Make the index again.") from error
        if not isinstance(head, dict) or head.get("format") != FORMAT or not isinstance(head.get("files"), dict):
            raise ValueError(f"{folder / HEAD} is not the head of an index. Give the folder of an index.")
        if head.get("version") != VERSION:
            raise ValueError(
                f"{folder} has version {head.get('version')!r} of the format; expected {VERSION}. Install a release of"
                " modeling-lavis that reads it, or make the index again."
            )
        for kind, entry in head["files"].items():
            if kind not in _NAMES or not isinstance(entry, dict) or not _FILE.fullmatch(str(entry.get("name"))):
                raise ValueError(f"{folder / HEAD} names a file {entry!r}, which an index does not have.")
            path = folder / entry["name"]
            size = path.stat().st_size if path.is_file() else -1
            if size != entry.get("bytes"):
                found = "is missing" if size < 0 else f"has {size:,} bytes"
                raise OSError(f"{path} {found}; expected {entry.get('bytes'):,} bytes. Copy or make the index again.")
        index = cls(folder, head)
        if not (len(index.vectors) == index.num_rows == head.get("count")):
            raise ValueError(
                f"{folder} has {index.num_rows} rows and {len(index.vectors)} vectors; expected {head.get('count')} of"
                " each. Make the index again."
            )
        return index

    def path(self, kind: str) -> Path | None:
        """Path of a file by its key in the head; `None` if the index does not have it."""
        entry = self.head["files"].get(kind)
        return None if entry is None else self.folder / entry["name"]

    @property
    def num_rows(self) -> int:
        """Number of items, as the table of rows says."""
        return _parquet().read_metadata(self.path("rows")).num_rows

    @cached_property
    def rows(self) -> Any:
        """The table of rows, a `pyarrow.Table`."""
        return _parquet().read_table(self.path("rows"))

    @cached_property
    def vectors(self) -> np.ndarray:
        """The vectors, `(I, P)` or `(I, Q, P)`, read-only."""
        return np.load(str(self.path("vectors")), mmap_mode="r", allow_pickle=False)

    @cached_property
    def states(self) -> np.ndarray | None:
        """Hidden states of all items, `(S, D)`, read-only; `None` if they are not stored."""
        path = self.path("states")
        return None if path is None else np.load(str(path), mmap_mode="r", allow_pickle=False)

    @cached_property
    def faiss(self) -> Any:
        """The FAISS index, as far as possible mapped into memory; `None` for exact search."""
        return self.read_faiss(mapped=True)

    def read_faiss(self, mapped: bool) -> Any:
        """
        Read the FAISS index.

        Args:
            mapped (`bool`): map it into memory, so that nothing can be added to it.
        """
        path = self.path("faiss")
        if path is None:
            return None
        faiss: Any = require("faiss", extra="retrieval", purpose="this index")
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)


def write_index_files(
    folder: str | os.PathLike,
    head: Mapping[str, Any],
    rows: Any,
    vectors: Iterable[np.ndarray],
    shape: Sequence[int],
    *,
    make_faiss: Any = None,
    states: Sequence[np.ndarray] | None = None,
) -> IndexFiles:
    """
    Write an index, in the place of one that may be there.

    Args:
        folder (`str` or `os.PathLike`): its folder, which is created if there is none.
        head (`Mapping[str, Any]`): further entries of the head: `kind`, `model`, ...
        rows (`pyarrow.Table`): one row per item.
        vectors (`Iterable[np.ndarray]`): blocks of the vectors.
        shape (`Sequence[int]`): shape of all vectors together, `(I, P)` or `(I, Q, P)`.
        make_faiss (`Callable`, *optional*): function from the vectors, mapped into memory, to a FAISS index.
        states (`Sequence[np.ndarray]`, *optional*): hidden states `(n, D)` of each item.

    Raises:
        OSError: the disk is full, or the folder has other files.
    """
    folder = Path(folder)
    check_index_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(match[1]) for name in os.listdir(folder) if (match := _FILE.fullmatch(name))]
    number = max(numbers, default=0) + 1
    names = {kind: f"{'vectors' if kind == 'faiss' else kind}-{number}.{end}" for kind, end in _NAMES.items()}
    written = {}

    def add(kind: str) -> Path:
        written[kind] = names[kind]
        return folder / names[kind]

    try:
        with whole_file(add("vectors")) as partial:
            write_array(partial, vectors, shape)
        with whole_file(add("rows")) as partial:
            _parquet().write_table(rows, partial)
        if states is not None:
            with whole_file(add("states")) as partial:
                write_array(partial, states, (sum(map(len, states)), states[0].shape[-1]), states[0].dtype)
        if make_faiss is not None:
            faiss: Any = require("faiss", extra="retrieval", purpose="approximate search")
            made = make_faiss(np.load(folder / names["vectors"], mmap_mode="r"))
            with whole_file(add("faiss")) as partial:
                faiss.write_index(made, str(partial))
        files = {kind: {"name": name, "bytes": (folder / name).stat().st_size} for kind, name in written.items()}
        entries = {"format": FORMAT, "version": VERSION, **head, "count": int(shape[0]), "shape": list(map(int, shape))}
        for name in written.values():
            _sync(folder / name)
        with whole_file(folder / HEAD) as partial:
            partial.write_text(json.dumps({**entries, "files": files}, indent=2) + "\n", encoding="utf-8")
            _sync(partial)
    except BaseException:
        for name in written.values():
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)
        raise
    for name in os.listdir(folder):
        is_other = _FILE.fullmatch(name) and name not in written.values()
        if is_other or name.startswith(f".{HEAD}.partial-"):
            with contextlib.suppress(OSError):  # Windows keeps files that another process has mapped
                (folder / name).unlink()
    return IndexFiles.open(folder)


def check_index_folder(folder: Path) -> None:
    """
    Check that an index can be written to a folder, without creating anything.

    Raises:
        FileExistsError: it is a file, or a folder with something else.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is not a folder. Give the path of a folder for the index.")
    if not folder.exists() or (folder / HEAD).exists():
        return
    others = [name for name in os.listdir(folder) if not name.startswith(".") and not _FILE.fullmatch(name)]
    if foreign := sorted(name for name in others if name != FAILURES):
        raise FileExistsError(
            f"{folder} is no index and is not empty: it has {foreign[0]}. Give another folder for the index."
        )


def write_array(path: Path, blocks: Iterable[np.ndarray], shape: Sequence[int], dtype: Any = np.float32) -> None:
    """
    Write a `.npy` file block by block.

    Args:
        path (`Path`): the file.
        blocks (`Iterable[np.ndarray]`): blocks of rows.
        shape (`Sequence[int]`): shape of all blocks together.
        dtype (*optional*, defaults to `np.float32`): type of the numbers.

    Raises:
        ValueError: the blocks have another number of rows, or rows of another shape.
    """
    with path.open("xb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, header)
        rows = 0
        for block in blocks:
            if tuple(block.shape[1:]) != tuple(shape[1:]):
                raise ValueError(f"Vectors have the shape {tuple(block.shape[1:])}; expected {tuple(shape[1:])}.")
            rows += len(block)
            file.write(np.ascontiguousarray(block, dtype).data)
        if rows != shape[0]:
            raise ValueError(f"There are {rows} vectors; expected {shape[0]}.")


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _parquet() -> Any:
    return require("pyarrow.parquet", extra="train", purpose="the rows of an index")


__all__ = ["FAILURES", "HEAD", "IndexFiles", "check_index_folder", "write_array", "write_index_files"]
