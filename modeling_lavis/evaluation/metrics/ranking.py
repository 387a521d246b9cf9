# SPDX-License-Identifier: Apache-2.0
"""Recall at K of ranked candidates."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch


def recall_at_k(
    scores: Any,
    relevant: Sequence[Iterable[int]],
    ranks: Sequence[int] = (1, 5, 10),
    *,
    ties: str = "first",
) -> dict[str, float]:
    """
    Recall at K: percentage of rows with a relevant column among the K best.

    Columns that are not candidates in [`SimilarityMatrices`] have equal scores and rank in the order of the columns, so
    K should not exceed the number of candidates.

    Args:
        scores (`Tensor`, array or nested sequence of shape `(rows, columns)`): scores, higher is better.
        relevant (sequence of iterables of `int`): relevant columns of each row, one or many.
        ranks (sequence of `int`, *optional*, defaults to `(1, 5, 10)`): values of K.
        ties (`str`, *optional*, defaults to `"first"`): which of equal scores ranks first. `"last"` is LAVIS's order, a
            reversed sort.

    Returns:
        `dict[str, float]`: `{"R@1": ..., "R@5": ..., "R@10": ..., "R@mean": ...}`.

    Raises:
        ValueError: If `scores` has not two dimensions or no rows, `relevant` has another number of rows, a row has no
            relevant column or one that does not exist, a K is less than 1, `ties` is unknown, or a score is NaN.
    """
    scores = torch.as_tensor(scores)
    if scores.ndim != 2 or not len(scores):
        raise ValueError(f"scores has shape {tuple(scores.shape)}; expected (rows, columns) with at least one row.")
    has_nan = scores.isnan().any(dim=1)
    if bool(has_nan.any()):
        row = int(has_nan.nonzero()[0])
        raise ValueError(f"Row {row} has scores that are NaN, which have no rank. Look for NaN in the model's weights.")
    if len(relevant) != scores.shape[0]:
        raise ValueError(f"Got {scores.shape[0]} rows of scores, but relevant columns for {len(relevant)} rows.")
    if not ranks or min(ranks) < 1:
        raise ValueError(f"ranks is {tuple(ranks)}; expected numbers from 1 on.")
    if ties not in ("first", "last"):
        raise ValueError(f"ties is {ties!r}; expected 'first' or 'last'.")
    columns = [list(row) for row in relevant]
    for row, indices in enumerate(columns):
        if not indices:
            raise ValueError(f"Row {row} has no relevant column; expected at least one for each row.")
        if min(indices) < 0 or max(indices) >= scores.shape[1]:
            raise ValueError(f"Row {row} has the relevant columns {indices}, but scores has {scores.shape[1]} columns.")
    positions = _positions(scores) if ties == "first" else _positions(scores.flip(1)).flip(1)
    best = torch.stack([positions[row, indices].min() for row, indices in enumerate(columns)])
    result = {f"R@{rank}": 100.0 * float((best < rank).double().mean()) for rank in ranks}
    result["R@mean"] = sum(result.values()) / len(ranks)
    return result


def _positions(scores: torch.Tensor) -> torch.Tensor:
    """Rank of each column in its row from 0 on, the first of equal ones first."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    numbers = torch.arange(scores.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, numbers)


__all__ = ["recall_at_k"]
