# SPDX-License-Identifier: Apache-2.0
"""Values with names as bars."""

from collections.abc import Mapping
from typing import Any

from modeling_lavis.plots.figure import COLORS, in_style, new_figure


@in_style
def bars_figure(groups: Mapping[str, Mapping[str, float]], label: str, limit: float | None = None) -> Any:
    """
    Draw values as horizontal bars, the largest first, for example accuracies by type of question.

    Args:
        groups (`Mapping[str, Mapping[str, float]]`): values by name, by the name of a group.
        label (`str`): what the values are.
        limit (`float`, *optional*): end of the axis.

    Returns:
        `matplotlib.figure.Figure`: a panel for each group, one below the other.

    Raises:
        ValueError: there are no values.
        ImportError: matplotlib is not installed.
    """
    if not groups or not all(groups.values()):
        raise ValueError(f"There are no values of {label!r} to draw.")
    counts = [len(values) for values in groups.values()]
    figure = new_figure(0.8 + 0.28 * sum(counts) + 0.5 * len(counts))
    panels = figure.subplots(len(groups), squeeze=False, sharex=True, height_ratios=[count + 0.5 for count in counts])
    for number, (axes, (name, values)) in enumerate(zip(panels[:, 0], groups.items(), strict=True)):
        ordered = sorted(values.items(), key=lambda entry: -entry[1])
        bars = axes.barh([key for key, _ in ordered], [value for _, value in ordered], color=COLORS[number % 2])
        axes.bar_label(bars, fmt="{:.1f}", padding=3, fontsize=9)
        axes.invert_yaxis()
        axes.margins(y=0.02)
        axes.grid(axis="y", visible=False)
        axes.set_ylabel(name)
    panels[-1, 0].set(xlabel=label, xlim=None if limit is None else (0, limit))
    return figure


__all__ = ["bars_figure"]
