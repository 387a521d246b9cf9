# SPDX-License-Identifier: Apache-2.0
"""Differences from what was expected."""

from collections.abc import Sequence
from typing import Any

from modeling_lavis.plots.figure import BAD, GOOD, REFERENCE, in_style, new_figure

_LIMIT = 3.0  # differences of more tolerances are drawn at the edge, with their number


@in_style
def differences_figure(rows: Sequence[tuple[str, float | None, bool]]) -> Any:
    """
    Draw how far measured values are from expected ones.

    Args:
        rows (`Sequence[tuple[str, float | None, bool]]`): of each value its name, the difference from the expected
            value in units of what is allowed (`None` for a text), and whether it agrees.

    Returns:
        `matplotlib.figure.Figure`: a row for each value, and a band of what is allowed.

    Raises:
        ValueError: there are no rows.
        ImportError: matplotlib is not installed.
    """
    if not rows:
        raise ValueError("There are no values to draw; expected at least one.")
    figure = new_figure(1.0 + 0.28 * len(rows))
    axes = figure.subplots()
    axes.axvspan(-1, 1, color=GOOD, alpha=0.12, linewidth=0)
    axes.axvline(0, color=REFERENCE, linewidth=1)
    for agreeing, color, marker in ((True, GOOD, "o"), (False, BAD, "X")):
        points = [(place, row[1] or 0.0) for place, row in enumerate(rows) if row[2] is agreeing]
        axes.scatter(
            [min(max(difference, -_LIMIT), _LIMIT) for _, difference in points],
            [place for place, _ in points],
            color=color,
            marker=marker,
            s=45,
            zorder=3,
        )
    for place, (_, difference, agrees) in enumerate(rows):
        if difference is None:
            axes.annotate(f"   text {'equal' if agrees else 'differs'}", (0, place), va="center", fontsize=8)
        elif abs(difference) > _LIMIT:
            axes.annotate(
                f"   {difference:+.3g}", (_LIMIT if difference > 0 else -_LIMIT, place), va="center", fontsize=8
            )
    axes.set_xticks(range(-int(_LIMIT), int(_LIMIT) + 1))
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(-_LIMIT - 0.4, _LIMIT + 1)
    # below the names, too, which may leave little room to the panel
    figure.supxlabel("difference from the expected value, in units of what is allowed", fontsize="medium")
    return figure


__all__ = ["differences_figure"]
