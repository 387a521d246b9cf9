# SPDX-License-Identifier: Apache-2.0
"""Losses, learning rate and metrics of a run as a picture."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modeling_lavis.plots.figure import COLORS, LINES, in_style, new_figure, save_figure

#: values of a log that say how fast something was, not how well
_SPEEDS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
_OTHERS = ("step", "epoch", "total_flos", "grad_norm", "learning_rate", "num_input_tokens_seen")

Series = dict[str, tuple[list[int], list[float]]]


def metrics_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """The results of an evaluation in an entry of a log: numbers with the prefix `eval_`, without speeds."""
    return {
        name: float(value)
        for name, value in entry.items()
        if name.startswith("eval_") and isinstance(value, (int, float)) and not name.endswith(_SPEEDS)
    }


def series_of(log_history: Iterable[Mapping[str, Any]]) -> dict[str, Series]:
    """
    Sort the values of a log into panels.

    Args:
        log_history (`Iterable[Mapping[str, Any]]`): entries of `TrainerState.log_history`.

    Returns:
        `dict[str, Series]`: for "loss", "metric" and "learning rate" the steps and values of each name.
    """
    panels: dict[str, Series] = {"loss": {}, "metric": {}, "learning rate": {}}
    for entry in log_history:
        for name, value in entry.items():
            if not isinstance(value, (int, float)) or name.startswith("train_") or name.endswith(_SPEEDS):
                continue
            if name == "learning_rate":
                panel = "learning rate"
            elif name in _OTHERS:
                continue
            else:
                words = name.split("_")
                panel = "loss" if "loss" in words else "metric" if words[0] == "eval" else ""
            if panel:
                steps, values = panels[panel].setdefault(name, ([], []))
                steps.append(int(entry.get("step", 0)))
                values.append(float(value))
    return {panel: series for panel, series in panels.items() if series}


@in_style
def curves_figure(log_history: Sequence[Mapping[str, Any]]) -> Any:
    """
    Draw losses, metrics and learning rate over the steps.

    Args:
        log_history (`Sequence[Mapping[str, Any]]`): entries of `TrainerState.log_history`.

    Returns:
        `matplotlib.figure.Figure`: a panel each; `None` if there is nothing to draw.

    Raises:
        ImportError: matplotlib is not installed.
    """
    panels = series_of(log_history)
    if not panels:
        return None
    figure = new_figure(0.4 + 2.2 * len(panels))
    every_axes = figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0]
    for axes, (panel, series) in zip(every_axes, panels.items(), strict=True):
        for number, (name, (steps, values)) in enumerate(series.items()):
            # a line style for each turn of the colors
            line = LINES[number // len(COLORS) % len(LINES)]
            marker = "." if len(steps) < 30 else None
            axes.plot(steps, values, line, color=COLORS[number % len(COLORS)], marker=marker, label=name)
        axes.set_ylabel(panel)
        if len(series) > 1 or panel != "learning rate":
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1.05))
    every_axes[-1].set_xlabel("step")
    return figure


def draw_curves(log_history: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> bool:
    """
    Write [`curves_figure`] to a file.

    Args:
        log_history (`Sequence[Mapping[str, Any]]`): entries of `TrainerState.log_history`.
        path (`str` or `os.PathLike`): file to write, `.png` or `.svg`; whole, or not at all.

    Returns:
        `bool`: whether there was something to draw.

    Raises:
        ValueError, OSError, ImportError: see `modeling_lavis.plots.check_plot_file`.
    """
    figure = curves_figure(log_history)
    if figure is None:
        return False
    save_figure(figure, path)
    return True


__all__ = ["curves_figure", "draw_curves", "metrics_of", "series_of"]
