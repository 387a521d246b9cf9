"""Recall at K against sorting."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch

from modeling_lavis.evaluation.metrics import recall_at_k


def recall_by_sorting(scores: list[list[float]], relevant: list[list[int]], rank: int) -> float:
    """Percentage of rows whose `rank` best columns, the first of equal ones first, include a relevant one."""
    hits = 0
    for row, columns in zip(scores, relevant, strict=True):
        best = sorted(range(len(row)), key=lambda column: (-row[column], column))[:rank]
        hits += bool(set(best) & set(columns))
    return 100 * hits / len(scores)


def random_relevant(rows: int, columns: int, generator: torch.Generator) -> list[list[int]]:
    """One to three relevant columns per row."""
    counts = torch.randint(1, 4, (rows,), generator=generator).tolist()
    return [torch.randperm(columns, generator=generator)[:count].tolist() for count in counts]


@pytest.mark.parametrize("levels", [None, 4], ids=["distinct", "ties"])
def test_recall_equals_sorting(levels: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(40, 25, generator=generator)
    if levels is not None:
        scores = (scores * levels).floor()
    relevant = random_relevant(*scores.shape, generator)
    ranks = (1, 2, 5, 10, 25)
    result = recall_at_k(scores, relevant, ranks)
    expected = {f"R@{rank}": recall_by_sorting(scores.tolist(), relevant, rank) for rank in ranks}
    assert result == pytest.approx({**expected, "R@mean": sum(expected.values()) / len(ranks)}, abs=1e-4)
    assert expected["R@1"] < expected["R@5"] < expected["R@25"] == 100


def test_recall_of_equal_scores() -> None:
    """The first of equal columns ranks first, so that constant scores do not count as hits."""
    result = recall_at_k(torch.zeros(4, 4), [[0], [1], [2], [3]], ranks=(1, 2))
    assert result == {"R@1": 25.0, "R@2": 50.0, "R@mean": 37.5}


def test_recall_counts_the_best_of_several_relevant_columns() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5]])
    assert recall_at_k(scores, [[0, 2]], ranks=(1, 2)) == {"R@1": 0.0, "R@2": 100.0, "R@mean": 50.0}
    assert recall_at_k(scores, [(0, 1)], ranks=(1,))["R@1"] == 100.0


def test_ranks_larger_than_the_collection() -> None:
    assert recall_at_k(torch.tensor([[0.1, 0.9]]), [[0]]) == {
        "R@1": 0.0,
        "R@5": 100.0,
        "R@10": 100.0,
        "R@mean": pytest.approx(200 / 3),
    }


@pytest.mark.parametrize("columns", [{1}, range(1, 2), iter([1])], ids=["set", "range", "iterator"])
def test_relevant_columns_are_any_iterable(columns: Iterable[int]) -> None:
    assert recall_at_k(torch.tensor([[0.1, 0.9]]), [columns], ranks=(1,))["R@1"] == 100.0


@pytest.mark.parametrize(
    ("relevant", "message"),
    [
        ([[0]], "2 rows of scores, but relevant columns for 1 rows"),
        ([[0], []], "Row 1 has no relevant column"),
    ],
)
def test_invalid_relevant_columns(relevant: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recall_at_k(torch.zeros(2, 3), relevant)


def test_scores_that_are_nan_are_no_hits() -> None:
    """A sort has NaN first, which would count for a model that has diverged."""
    with pytest.raises(ValueError, match="Row 1 has scores that are NaN"):
        recall_at_k([[0.0, 1.0], [float("nan"), 1.0]], [[0], [0]])


def test_the_last_of_equal_scores_ranks_first_on_demand() -> None:
    """LAVIS reverses numpy's sort, which is stable for short rows."""
    scores = torch.randint(3, (12, 9), generator=torch.Generator().manual_seed(0)).double()
    columns = [[int(column)] for column in torch.arange(12) % 9]
    order = [np.argsort(row, kind="stable")[::-1].tolist() for row in scores.numpy()]
    expected = 100 * sum(row.index(own[0]) < 3 for row, own in zip(order, columns, strict=True)) / 12
    found = recall_at_k(scores, columns, (3,), ties="last")["R@3"]
    assert found == pytest.approx(expected)
    assert found != recall_at_k(scores, columns, (3,))["R@3"]


@pytest.mark.parametrize("convert", [torch.tensor, np.array, list], ids=["tensor", "array", "list"])
def test_scores_are_tensors_arrays_or_lists(convert: Any) -> None:
    assert recall_at_k(convert([[0.1, 0.9], [0.8, 0.2]]), [[0], [0]], (1,)) == {"R@1": 50.0, "R@mean": 50.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": torch.zeros(3)}, r"shape \(3,\)"),
        ({"scores": torch.zeros(0, 3), "relevant": []}, r"shape \(0, 3\)"),
        ({"relevant": [[3], [0]]}, "but scores has 3 columns"),
        ({"relevant": [[0], [-1]]}, "but scores has 3 columns"),
        ({"ranks": (0, 1)}, "numbers from 1 on"),
        ({"ranks": ()}, "numbers from 1 on"),
        ({"ties": "middle"}, "expected 'first' or 'last'"),
    ],
)
def test_invalid_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recall_at_k(**{"scores": torch.zeros(2, 3), "relevant": [[0], [1]], **arguments})
