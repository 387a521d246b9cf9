"""Comparison of results with numbers up to rounding."""

from typing import Any


class ApproximateFloat(float):
    """A float that equals others up to rounding."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and abs(float(self) - float(other)) < 1e-4 * max(1.0, abs(float(self)))


def approximate(value: Any) -> Any:
    """Replace floats in a result by [`ApproximateFloat`], to compare results of different batch sizes."""
    if isinstance(value, float):
        return ApproximateFloat(value)
    if isinstance(value, dict):
        return {key: approximate(entry) for key, entry in value.items()}
    return [approximate(entry) for entry in value] if isinstance(value, list) else value


def texts_of(rows: list[dict[str, Any]]) -> list[str]:
    """Generated texts of a result, without their scores."""
    return [row.get("generated_text", row.get("answer")) for row in rows]
