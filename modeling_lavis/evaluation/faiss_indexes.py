# SPDX-License-Identifier: Apache-2.0
"""FAISS indexes of vectors (https://arxiv.org/abs/2401.08281): choosing, building, writing and reading them.

Shapes: I items, Q vectors per item, P projection dimension.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from modeling_lavis.import_utils import require

#: Up to this number of items, the search is exact by default.
EXACT_ITEMS = 1_000_000
#: Names of indexes that can be chosen.
INDEX_KINDS = ("auto", "exact", "flat", "hnsw", "ivf-pq")
_LINKS = 32  # of a vector in an HNSW graph, which has twice as many on its lowest level
_EXAMINED = 2048  # candidates that a search in an HNSW graph keeps, so that it leaves a cluster of about as many
_PROBES = 32  # cells of an IVF index that are searched, at least
_TRAINING_ROWS = 64  # per cell of an IVF index; FAISS asks for 39 at least
_LEAST_TRAINING_ROWS = 39
_BLOCK_BYTES = 2**26  # of vectors that are added at a time


def choose_index(count: int, shape: tuple[int, ...], kind: str = "auto", memory: int | None = None) -> str | None:
    """
    Description of an index for FAISS's `index_factory`, by size and memory.

    Up to a million items the search is exact; beyond, HNSW if vectors and graph fit in memory, or else IVF-PQ.

    Args:
        count (`int`): number of items.
        shape (`tuple[int, ...]`): shape of the vectors of an item, `(P,)` or `(Q, P)`.
        kind (`str`, *optional*, defaults to `"auto"`): one of `INDEX_KINDS`, or a description, such as
            `"faiss:IVF1024,Flat"`.
        memory (`int`, *optional*): bytes that the index may take; by default half of the machine's memory.

    Returns:
        `str` or `None`: the description, `None` for exact search without FAISS.

    Raises:
        ValueError: there is no such kind.
    """
    check_kind(kind)
    if kind.startswith("faiss:"):
        return kind.removeprefix("faiss:")
    vectors, dimension = count * (shape[0] if len(shape) == 2 else 1), shape[-1]
    if kind == "auto":
        if count <= EXACT_ITEMS:
            return None
        needed = vectors * (4 * dimension + 4 * 2 * _LINKS)
        kind = "hnsw" if needed <= (_machine_memory() // 2 if memory is None else memory) else "ivf-pq"
    if kind == "exact":
        return None
    if kind == "ivf-pq":
        cells = 2 ** max(int(np.log2(max(4 * vectors**0.5, 1))), 0)
        while cells > 1 and vectors < _LEAST_TRAINING_ROWS * cells:
            cells //= 2
        parts = next(parts for parts in range(max(dimension // 4, 1), 0, -1) if dimension % parts == 0)
        return f"IVF{cells},PQ{parts}"
    return "Flat" if kind == "flat" else f"HNSW{_LINKS}"


def check_kind(kind: str) -> None:
    """
    Check the kind of an index.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in INDEX_KINDS and not (kind.startswith("faiss:") and kind != "faiss:"):
        raise ValueError(f"The index is {kind!r}; expected {', '.join(INDEX_KINDS)}, or faiss:DESCRIPTION.")


def _machine_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows does not say
        return 2**33


def build_faiss(vectors: np.ndarray, factory: str, known: Any = None) -> Any:
    """
    Build a FAISS index of inner products.

    Args:
        vectors (`np.ndarray` of shape `(I, P)` or `(I, Q, P)`): vectors, which may be mapped into memory.
        factory (`str`): description of the index.
        known (*optional*): an index of the first of these vectors, to which the others are added.

    Raises:
        ValueError: FAISS refuses the description, or there are too few vectors to train the index.
    """
    flat = vectors.reshape(-1, vectors.shape[-1])
    index = _trained(flat, factory) if known is None else known
    rows = max(_BLOCK_BYTES // (4 * flat.shape[1]), 1)
    for first in range(index.ntotal, len(flat), rows):
        index.add(np.ascontiguousarray(flat[first : first + rows]))
    return index


def _trained(flat: np.ndarray, factory: str) -> Any:
    """An empty index that is trained on some of the vectors, with what a search in it examines."""
    faiss = _faiss()
    try:
        index = faiss.index_factory(flat.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            rows = min(len(flat), max(_TRAINING_ROWS * getattr(index, "nlist", 0), 2**16))
            index.train(np.ascontiguousarray(flat[np.linspace(0, len(flat) - 1, rows).astype(np.int64)]))
    except RuntimeError as error:
        raise ValueError(
            f"FAISS refuses the index {factory!r} for {len(flat)} vectors: {error} Choose exact, flat or hnsw, or"
            " another description."
        ) from error
    if hasattr(index, "nprobe"):
        index.nprobe = min(max(_PROBES, index.nlist // 16), index.nlist)
    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = _EXAMINED
    return index


def write_faiss(index: Any, path: Path) -> None:
    """
    Write an index as `faiss.write_index` does.

    Args:
        index: the index.
        path (`Path`): the file, which must not exist.

    Raises:
        OSError: the disk is full, which `faiss.write_index` does not notice for the last bytes of a file.
    """
    faiss = _faiss()
    errors: list[OSError] = []
    with path.open("xb") as file:

        def write(data: bytes) -> int:
            try:
                return 0 if errors else file.write(data)
            except OSError as error:  # must not pass through FAISS
                errors.append(error)
                return 0

        faiss.write_index(index, faiss.PyCallbackIOWriter(write))
        if errors:
            raise errors[0]


def read_faiss(path: Path, mapped: bool) -> Any:
    """
    Read an index.

    Args:
        path (`Path`): the file.
        mapped (`bool`): map it into memory, so that nothing can be added to it.

    Raises:
        ValueError: the file is damaged.
    """
    faiss = _faiss()
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be read: {error} Make the index again.") from error


def _faiss() -> Any:
    return require("faiss", extra="retrieval", purpose="approximate search")


__all__ = ["EXACT_ITEMS", "INDEX_KINDS", "build_faiss", "check_kind", "choose_index", "read_faiss", "write_faiss"]
