# SPDX-License-Identifier: Apache-2.0
"""Search among vectors that are mapped into memory: exact in blocks, or among what a FAISS index finds.

Shapes: B queries, R vectors per query, I items, Q vectors per item (R or Q is 1), P projection dimension, k results.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_lavis.evaluation.candidates import Ranking, merge
from modeling_lavis.evaluation.index_files import mapped_tensor
from modeling_lavis.evaluation.retrieval import select_candidates

_BLOCK_BYTES = 2**26  # of vectors or of similarities that are in memory at a time
_REFINED = 4  # an approximate index is asked for this many times the results, which are then compared exactly


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
        similarity = compare(queries, mapped_tensor(vectors[first : first + rows]))
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


__all__ = ["compare", "search_vectors"]
