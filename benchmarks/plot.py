# SPDX-License-Identifier: Apache-2.0
"""The measurements of a workload as a figure."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modeling_lavis.plots.figure import BAD, COLORS, REFERENCE, check_plot_file, in_style, new_figure


def plot_file(text: str) -> Path:
    """
    Argument type of `--plot`, which is checked before anything is measured.

    Raises:
        argparse.ArgumentTypeError: the file cannot be written, or matplotlib is not installed.
    """
    try:
        return check_plot_file(text)
    except (ValueError, OSError, ImportError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@in_style
def comparison_figure(summary: Mapping[str, Any]) -> Any:
    """
    Draw time and peak memory of each peer.

    Args:
        summary (`Mapping[str, Any]`): what `benchmarks.report.summarize` returns.

    Returns:
        `matplotlib.figure.Figure`: bars of the medians with a point for each run, and a line for the floor.
    """
    peers = summary["peers"]
    names = [f"{row['peer']}, {row['dtype']}" for row in peers]
    figure = new_figure(1.1 + 0.5 * len(peers))
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh(names, [row["median_seconds"] for row in peers], color=COLORS[5])
    for place, row in enumerate(peers):
        left.plot(row["seconds"], [place] * len(row["seconds"]), "o", color=COLORS[0], markersize=4)
        left.annotate(f"  {row['median_seconds']:.3g}", (max(row["seconds"]), place), va="center", fontsize=9)
    if summary["floor_seconds"] is not None:
        left.axvline(summary["floor_seconds"], color=BAD, linestyle="--", linewidth=1.5)
        left.annotate(
            "floor", (summary["floor_seconds"], 1), xycoords=("data", "axes fraction"), va="bottom", color=REFERENCE
        )
    left.set_xlabel("seconds")
    memory = right.barh(names, [row["peak_bytes"] / 1e6 for row in peers], color=COLORS[5])
    right.bar_label(memory, fmt="{:.0f}", padding=3, fontsize=9)
    right.set_xlabel("peak memory, MB")
    for axes in (left, right):
        axes.margins(x=0.15)
        axes.grid(axis="y", visible=False)
    left.invert_yaxis()
    return figure
