# SPDX-License-Identifier: Apache-2.0
"""Near-duplicates: items whose features are nearly equal.

Shapes: I items, Q vectors per item, P projection dimension.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_lavis.evaluation.vector_search import search_vectors
from modeling_lavis.search.index import SearchIndex

_BLOCK = 2048  # items that are compared with as many others at a time
_NEIGHBORS = 32  # of each item that a FAISS index is asked for


def near_duplicates(index: SearchIndex, threshold: float = 0.95, *, exact: bool = False) -> list[list[int]]:
    """
    Groups of items that are connected by pairs with at least a similarity.

    All pairs are compared, in blocks; with a FAISS index each item with the nearest 32 that it finds. Of items with
    several vectors, each vector is compared with that of the same query token, and the mean counts.

    Args:
        index ([`SearchIndex`]): the index.
        threshold (`float`, *optional*, defaults to 0.95): least cosine similarity, above 0 and at most 1.
        exact (`bool`, *optional*, defaults to `False`): compare all pairs, also if there is a FAISS index.

    Returns:
        `list[list[int]]`: rows of each group of at least two, in order.

    Raises:
        ValueError: the threshold has another value.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"The threshold is {threshold}; expected a number above 0 and at most 1.")
    vectors = index.files.vectors
    threshold -= 1e-5  # of rounding, so that 1 finds equal items
    use_faiss = index.files.faiss is not None and vectors.ndim == 2 and not exact
    pairs = _faiss_pairs(vectors, index.files.faiss, threshold) if use_faiss else _all_pairs(vectors, threshold)
    parents = np.arange(len(vectors))
    for first, second in pairs:
        parents = _joined(parents, first, second)
    groups: dict[int, list[int]] = {}
    connected = np.flatnonzero(np.bincount(parents, minlength=len(parents))[parents] > 1)
    for row in connected.tolist():
        groups.setdefault(int(parents[row]), []).append(row)
    return list(groups.values())


def _joined(parents: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The least row that each row is connected to, after further pairs."""
    while True:
        ends = parents[first], parents[second]
        if np.array_equal(*ends):
            return parents
        np.minimum.at(parents, np.maximum(*ends), np.minimum(*ends))
        while not np.array_equal(parents, parents[parents]):
            parents = parents[parents]


def _all_pairs(vectors: np.ndarray, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(vectors), _BLOCK):
        rows = _flat(vectors[start : start + _BLOCK])
        for other in range(start, len(vectors), _BLOCK):
            similar = rows @ _flat(vectors[other : other + _BLOCK]).T >= threshold
            first, second = np.nonzero(similar.numpy())
            yield first + start, second + other


def _flat(vectors: np.ndarray) -> Tensor:
    """Vectors of items as one each, of length 1 if those of the items have it."""
    scale = 1.0 if vectors.ndim == 2 else vectors.shape[1] ** -0.5
    return torch.from_numpy(np.array(vectors, np.float32)).flatten(1) * scale


def _faiss_pairs(vectors: np.ndarray, faiss: Any, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(vectors), _BLOCK):
        found = search_vectors(vectors, torch.from_numpy(np.array(vectors[start : start + _BLOCK])), _NEIGHBORS, faiss)
        first, place = np.nonzero((found.similarities >= threshold).numpy())
        yield first + start, found.indices.numpy()[first, place]


__all__ = ["near_duplicates"]
