# SPDX-License-Identifier: Apache-2.0
"""Search among vectors that are mapped into memory: exact in blocks, or with FAISS.

Shapes: B queries, R vectors per query, I items, Q vectors per item (R or Q is 1), P projection dimension, k results.
"""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_lavis.evaluation.candidates import Ranking, merge
from modeling_lavis.evaluation.retrieval import select_candidates
from modeling_lavis.import_utils import require

#: Up to this number of items, the search is exact by default.
EXACT_ITEMS = 1_000_000
#: Names of indexes that can be chosen.
INDEX_KINDS = ("auto", "exact", "flat", "hnsw", "ivf-pq")
_BLOCK_BYTES = 2**26  # of vectors that are compared or copied at a time
_REFINED = 4  # an approximate index is asked for this many times the results, which are then compared exactly
_LINKS = 32  # of a vector in an HNSW graph, which has twice as many on its lowest level
_PROBES = 32  # cells of an IVF index that are searched, at least
_TRAINING_ROWS = 64  # per cell of an IVF index; FAISS asks for 39 at least


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
    if kind.startswith("faiss:") and len(kind) > len("faiss:"):
        return kind.removeprefix("faiss:")
    if kind not in INDEX_KINDS:
        raise ValueError(f"The index is {kind!r}; expected {', '.join(INDEX_KINDS)}, or faiss:DESCRIPTION.")
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
        while cells > 1 and vectors < 39 * cells:
            cells //= 2
        parts = next(parts for parts in range(max(dimension // 4, 1), 0, -1) if dimension % parts == 0)
        return f"IVF{cells},PQ{parts}"
    return "Flat" if kind == "flat" else f"HNSW{_LINKS}"


def _machine_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows does not say
        return 2**33


def build_faiss(vectors: np.ndarray, factory: str, known: Any = None) -> Any:
    """
    Build a FAISS index (https://arxiv.org/abs/2401.08281) of inner products.

    Args:
        vectors (`np.ndarray` of shape `(I, P)` or `(I, Q, P)`): vectors, which may be mapped into memory.
        factory (`str`): description of the index.
        known (*optional*): an index of the first of these vectors, to which the others are added.

    Raises:
        ValueError: FAISS refuses the description, or there are too few vectors to train the index.
    """
    faiss: Any = require("faiss", extra="retrieval", purpose="approximate search")
    flat = vectors.reshape(-1, vectors.shape[-1])
    index = known
    if index is None:
        try:
            index = faiss.index_factory(flat.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            if not index.is_trained:
                cells = getattr(index, "nlist", 0)
                rows = min(len(flat), max(_TRAINING_ROWS * cells, 2**16))
                index.train(np.ascontiguousarray(flat[np.linspace(0, len(flat) - 1, rows).astype(np.int64)]))
        except RuntimeError as error:
            raise ValueError(
                f"FAISS refuses the index {factory!r} for {len(flat)} vectors: {error} Choose exact, flat or hnsw, or"
                " another description."
            ) from error
        if hasattr(index, "nprobe"):
            index.nprobe = min(max(_PROBES, index.nlist // 16), index.nlist)
        if hasattr(index, "hnsw"):
            index.hnsw.efSearch = 128
    for first in range(index.ntotal, len(flat), _rows(flat)):
        index.add(np.ascontiguousarray(flat[first : first + _rows(flat)]))
    return index


def search_vectors(vectors: np.ndarray, queries: Tensor, k: int, index: Any = None) -> Ranking:
    """
    The k items with the largest inner product with each query; of several vectors the best one counts.

    Args:
        vectors (`np.ndarray` of shape `(I, P)` or `(I, Q, P)`): vectors of the items.
        queries (`Tensor` of shape `(B, P)` or `(B, R, P)`): vectors of the queries.
        k (`int`): number of results, of all items if there are fewer.
        index (*optional*): a FAISS index of the vectors, for approximate search; the similarities of what it finds are
            computed from the vectors. Where it finds fewer than k items, similarities are minus infinity.

    Raises:
        ValueError: both have several vectors, or vectors of different sizes.
    """
    queries = queries.float().cpu()
    queries = queries if queries.ndim == 3 else queries[:, None]  # (B, R, P)
    several = vectors if vectors.ndim == 3 else vectors[:, None]  # (I, Q, P)
    if queries.shape[-1] != several.shape[-1] or min(queries.shape[1], several.shape[1]) > 1:
        raise ValueError(
            f"Queries with vectors of shape {tuple(queries.shape[1:])} cannot be compared with items of shape"
            f" {tuple(several.shape[1:])}. Models with several features per image compare images with texts only."
        )
    k = min(k, len(several))
    if index is None:
        return _exact(several, queries, k)
    found = _ask(index, queries, min(_REFINED * k * several.shape[1], index.ntotal))
    columns = found.div(several.shape[1], rounding_mode="floor").sort(dim=1).values  # -1 stays -1
    similarities = _pairs(several, queries, columns.clamp(min=0))
    repeated = torch.zeros_like(columns, dtype=torch.bool)
    repeated[:, 1:] = columns[:, 1:] == columns[:, :-1]
    similarities = similarities.masked_fill(repeated | (columns < 0), -torch.inf)
    best = select_candidates(similarities, k)
    return Ranking(columns.gather(1, best).clamp(min=0), similarities.gather(1, best))


def _exact(vectors: np.ndarray, queries: Tensor, k: int) -> Ranking:
    best = Ranking(torch.empty(len(queries), 0, dtype=torch.long), torch.empty(len(queries), 0))
    rows = min(_rows(vectors), max(_BLOCK_BYTES // (4 * max(len(queries) * queries.shape[1], 1)), 1))
    for first in range(0, len(vectors), rows):
        similarity = compare(queries, torch.from_numpy(np.array(vectors[first : first + rows], np.float32)))
        columns = select_candidates(similarity, k)
        best = merge([best, Ranking(columns + first, similarity.gather(1, columns))], k)
    return best


def compare(queries: Tensor, items: Tensor) -> Tensor:
    """Similarities `(B, I)` of queries `(B, R, P)` and items `(I, Q, P)`: of all their vectors the largest."""
    similarity = queries.flatten(0, 1) @ items.flatten(0, 1).T  # (B * R, I * Q)
    return similarity.view(len(queries), queries.shape[1], len(items), items.shape[1]).amax(dim=(1, 3))


def _ask(index: Any, queries: Tensor, k: int) -> Tensor:
    """Vectors that a FAISS index finds for each query, `(B, R * k)`; -1 for none."""
    _, found = index.search(queries.flatten(0, 1).contiguous().numpy(), k)
    return torch.from_numpy(found).view(len(queries), -1)


def _pairs(vectors: np.ndarray, queries: Tensor, columns: Tensor) -> Tensor:
    """Similarities `(B, n)` of each query with the items of its row of columns, with few of them in memory."""
    rows = max(_BLOCK_BYTES // (4 * vectors[0].size * columns.shape[1]), 1)
    parts = [
        torch.einsum("brp,bnqp->bnrq", queries[first : first + rows], torch.from_numpy(vectors[part.numpy()])).amax(
            (2, 3)
        )
        for first, part in zip(range(0, len(columns), rows), columns.split(rows))
    ]
    return torch.cat(parts)


def _rows(vectors: np.ndarray) -> int:
    return max(_BLOCK_BYTES // (4 * max(vectors[:1].size, 1)), 1)


__all__ = ["EXACT_ITEMS", "INDEX_KINDS", "build_faiss", "choose_index", "compare", "search_vectors"]
