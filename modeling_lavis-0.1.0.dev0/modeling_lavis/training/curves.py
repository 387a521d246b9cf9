# SPDX-License-Identifier: Apache-2.0
"""Losses, learning rate and metrics of a run as a picture."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modeling_lavis.files import whole_file
from modeling_lavis.import_utils import require

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


def draw_curves(log_history: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> bool:
    """
    Write a PNG with a panel each for losses, metrics and learning rate, over the steps.

    Args:
        log_history (`Sequence[Mapping[str, Any]]`): entries of `TrainerState.log_history`.
        path (`str` or `os.PathLike`): file to write; whole, or not at all.

    Returns:
        `bool`: whether there was something to draw.

    Raises:
        ImportError: matplotlib is not installed.
    """
    panels = series_of(log_history)
    if not panels:
        return False
    figure_module: Any = require("matplotlib.figure", extra="train", purpose="the curves of a run")
    figure = figure_module.Figure(figsize=(8, 3.2 * len(panels)), layout="constrained")
    for axes, (panel, series) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True):
        for name, (steps, values) in series.items():
            axes.plot(steps, values, label=name, marker="." if len(steps) < 30 else None)
        axes.set_ylabel(panel)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    axes.set_xlabel("step")
    with whole_file(path, prefix="_") as partial:  # an upload to the Hub leaves out names with an underscore
        figure.savefig(partial, format="png", dpi=110)
    return True


__all__ = ["draw_curves", "metrics_of", "series_of"]
