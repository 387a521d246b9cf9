# SPDX-License-Identifier: Apache-2.0
"""Histograms of scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modeling_lavis.plots.figure import COLORS, LINES, REFERENCE, in_style, new_figure

_FEWEST_BINS, _MOST_BINS = 10, 40


@in_style
def histogram_figure(
    quantities: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    marks: Mapping[str, tuple[str, float]] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Any:
    """
    Draw how the values of groups are distributed, for example matching scores of right and wrong pairs.

    Args:
        quantities (`Mapping[str, Mapping[str, Sequence[float]]]`): by the name of a quantity, which is the label of its
            axis, the values of each group by its name.
        marks (`Mapping[str, tuple[str, float]]`, *optional*): by the name of a quantity, name and place of a vertical
            line, such as a threshold.
        ranges (`Mapping[str, tuple[float, float]]`, *optional*): by the name of a quantity, the range of its axis; that
            of the values by default.

    Returns:
        `matplotlib.figure.Figure`: a panel for each quantity, side by side.

    Raises:
        ValueError: a quantity has no values.
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(3.2)
    panels = figure.subplots(1, len(quantities), squeeze=False)[0]
    for axes, (label, groups) in zip(panels, quantities.items(), strict=True):
        draw_histograms(axes, label, groups, (marks or {}).get(label), (ranges or {}).get(label))
    if len(next(iter(quantities.values()))) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def draw_histograms(
    axes: Any,
    label: str,
    groups: Mapping[str, Sequence[float]],
    mark: tuple[str, float] | None = None,
    limits: tuple[float, float] | None = None,
) -> None:
    """
    Draw one panel of [`histogram_figure`].

    Args:
        axes (`matplotlib.axes.Axes`): the panel.
        label (`str`): name of the quantity.
        groups (`Mapping[str, Sequence[float]]`): values by the name of the group; those that are not finite are left
            out.
        mark (`tuple[str, float]`, *optional*): name and place of a vertical line.
        limits (`tuple[float, float]`, *optional*): range of the axis.

    Raises:
        ValueError: there are no finite values.
    """
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in groups.items()}
    arrays = {name: values[np.isfinite(values)] for name, values in arrays.items()}
    everything = np.concatenate([*arrays.values(), np.empty(0)])
    if not len(everything):
        raise ValueError(f"There are no values of {label!r} to draw; expected at least one number.")
    bins = min(_FEWEST_BINS + len(everything) // 20, _MOST_BINS)
    edges = np.histogram_bin_edges(everything, bins, limits)
    for number, (name, values) in enumerate(arrays.items()):
        share = 100 * np.histogram(values, edges)[0] / max(len(values), 1)
        color, line = COLORS[number % len(COLORS)], LINES[number % len(LINES)]
        axes.stairs(share, edges, fill=True, color=color, alpha=0.25)
        axes.stairs(share, edges, color=color, linestyle=line, linewidth=1.5, label=f"{name} ({len(values):,})")
    if mark is not None:
        axes.axvline(mark[1], color=REFERENCE, linestyle=":", linewidth=1.5)
        axes.annotate(
            f" {mark[0]} {mark[1]:.4g}", (mark[1], 1), xycoords=("data", "axes fraction"), va="top", color=REFERENCE
        )
    axes.set(xlabel=label, ylabel="share, %", xlim=limits)


__all__ = ["draw_histograms", "histogram_figure"]
