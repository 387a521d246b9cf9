# SPDX-License-Identifier: Apache-2.0
"""Checks of the arguments that all metrics share."""

from collections.abc import Sequence
from typing import Any


def check_lengths(**columns: Sequence[Any] | None) -> None:
    """
    Check that columns are sequences with one entry per example; columns that are `None` are left out.

    Raises:
        ValueError: If a column is a single `str`, is empty, or has another length than the first one.
    """
    present = {name: column for name, column in columns.items() if column is not None}
    first = next(iter(present))
    for name, column in present.items():
        if isinstance(column, str):
            raise ValueError(
                f"{name} is a single str ({column[:40]!r}); expected a sequence with one entry per example."
            )
        if len(column) != len(present[first]):
            raise ValueError(
                f"Got {len(present[first])} {first}, but {len(column)} {name}; expected one entry of each per example."
            )
    if not len(present[first]):
        raise ValueError(f"{first} is empty; expected at least one example.")


def check_strings(name: str, column: Sequence[Any]) -> None:
    """
    Check that all entries of a column are `str`.

    Raises:
        ValueError: If one is not.
    """
    for row, value in enumerate(column):
        if not isinstance(value, str):
            raise ValueError(f"{name}[{row}] is {value!r} of type {type(value).__name__}; expected str.")


__all__ = ["check_lengths", "check_strings"]
