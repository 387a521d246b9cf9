# SPDX-License-Identifier: Apache-2.0
"""Writing of an index of features: whole or not at all, and by one process at a time.

A change writes files of the next number, then replaces the head, then removes the files that the old head named.

Shapes: I items, Q vectors per item, P projection dimension, S hidden states of all items, D hidden size.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modeling_lavis.evaluation.faiss_indexes import write_faiss
from modeling_lavis.evaluation.index_files import DATA_FILE, FORMAT, HEAD, SUFFIXES, VERSION, IndexFiles
from modeling_lavis.files import lock_file, whole_file
from modeling_lavis.import_utils import require

FAILURES = "failures.jsonl"
_LOCK = ".lock"


class Blocks(NamedTuple):
    """
    An array that is written block by block.

    Args:
        shape (`tuple[int, ...]`): shape of all blocks together.
        values (`Iterable[np.ndarray]`): blocks of rows.
    """

    shape: tuple[int, ...]
    values: Iterable[np.ndarray]


@contextlib.contextmanager
def index_lock(folder: Path) -> Iterator[None]:
    """
    Context manager in which no other process changes an index. Readers do not need it. The folder is created if there
    is none.

    Raises:
        BlockingIOError: another process is changing the index. FileExistsError: the folder has something else.
    """
    check_index_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = lock_file(folder / _LOCK)
    except BlockingIOError as error:
        raise BlockingIOError(
            f"Another process is changing the index {folder}. Wait until it has ended, or give another folder."
        ) from error
    with lock:
        yield


def write_index_files(
    folder: str | os.PathLike,
    head: Mapping[str, Any],
    rows: Any,
    vectors: Blocks,
    *,
    states: Blocks | None = None,
    make_faiss: Callable[[np.ndarray], Any] | None = None,
) -> IndexFiles:
    """
    Write an index, in the place of one that may be there. Callers hold [`index_lock`].

    Args:
        folder (`str` or `os.PathLike`): its folder.
        head (`Mapping[str, Any]`): further entries of the head: `kind`, `model`, ...
        rows (`pyarrow.Table`): one row per item; with a column `num_states` if there are hidden states.
        vectors ([`Blocks`] of shape `(I, P)` or `(I, Q, P)`): the vectors.
        states ([`Blocks`] of shape `(S, D)`, *optional*): hidden states of the items, one after the other.
        make_faiss (`Callable`, *optional*): function from the vectors, mapped into memory, to a FAISS index.

    Raises:
        OSError: the disk is full. In this and every other case of an error, an index that was there stays as it was.
    """
    folder = Path(folder)
    numbers = [int(match[1]) for name in os.listdir(folder) if (match := DATA_FILE.fullmatch(name))]
    number = max(numbers, default=0) + 1
    written: dict[str, str] = {}

    @contextlib.contextmanager
    def file(kind: str) -> Iterator[Path]:
        """The place to write a file to, which gets its name once it is on the disk."""
        written[kind] = f"{'vectors' if kind == 'faiss' else kind}-{number}.{SUFFIXES[kind]}"
        with whole_file(folder / written[kind]) as partial:
            yield partial
            _sync(partial)

    try:
        with file("vectors") as partial:
            write_array(partial, vectors)
        with file("rows") as partial:
            require("pyarrow.parquet", extra="train", purpose="the rows of an index").write_table(rows, partial)
        if states is not None:
            with file("states") as partial:
                write_array(partial, states)
        if make_faiss is not None:
            made = make_faiss(np.load(folder / written["vectors"], mmap_mode="r"))
            with file("faiss") as partial:
                write_faiss(made, partial)
        entries = {"format": FORMAT, "version": VERSION, **head}
        entries |= {"count": int(vectors.shape[0]), "shape": list(map(int, vectors.shape))}
        entries["files"] = {
            kind: {"name": name, "bytes": (folder / name).stat().st_size} for kind, name in written.items()
        }
        with whole_file(folder / HEAD) as partial:
            partial.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
            _sync(partial)
    except BaseException as error:
        for name in written.values():
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(
                error.errno,
                f"The index {folder} cannot be written ({os.strerror(error.errno)}), and stays as it was. When there is"
                " room for it, repeat the command.",
            ) from error
        raise
    made_files = IndexFiles.open(folder)
    remove_other_files(folder, made_files.head)
    return made_files


def remove_other_files(folder: Path, head: Mapping[str, Any] | None) -> None:
    """
    Remove the files of an index that its head does not name: of earlier versions, and of processes that were killed.

    Args:
        folder (`Path`): its folder.
        head (`Mapping[str, Any]`, *optional*): the head; `None` if there is no index yet.
    """
    named = set() if head is None else {entry["name"] for entry in head["files"].values()}
    unfinished = (f".{HEAD}.partial-", f".{FAILURES}.partial-")
    for name in os.listdir(folder):
        if (DATA_FILE.fullmatch(name) and name not in named) or name.startswith(unfinished):
            with contextlib.suppress(OSError):  # Windows keeps files that another process has mapped
                (folder / name).unlink()


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
    others = [name for name in os.listdir(folder) if not name.startswith(".") and not DATA_FILE.fullmatch(name)]
    if foreign := sorted(name for name in others if name != FAILURES):
        raise FileExistsError(
            f"{folder} is not an index and is not empty: it has {foreign[0]}. Give another folder for the index."
        )


def write_array(path: Path, array: Blocks) -> None:
    """
    Write a `.npy` file of float32 block by block.

    Args:
        path (`Path`): the file.
        array ([`Blocks`]): the array.

    Raises:
        ValueError: the blocks have another number of rows, or rows of another shape.
    """
    shape = tuple(map(int, array.shape))
    with path.open("xb") as file:
        descriptor = np.lib.format.dtype_to_descr(np.dtype(np.float32))
        np.lib.format.write_array_header_1_0(file, {"descr": descriptor, "fortran_order": False, "shape": shape})
        rows = 0
        for block in array.values:
            if tuple(block.shape[1:]) != shape[1:]:
                raise ValueError(f"Vectors have the shape {tuple(block.shape[1:])}; expected {shape[1:]}.")
            rows += len(block)
            file.write(np.ascontiguousarray(block, np.float32).data)
        if rows != shape[0]:
            raise ValueError(f"There are {rows} vectors; expected {shape[0]}.")


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


__all__ = [
    "FAILURES",
    "Blocks",
    "check_index_folder",
    "index_lock",
    "remove_other_files",
    "write_array",
    "write_index_files",
]
