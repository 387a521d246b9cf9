# SPDX-License-Identifier: Apache-2.0
"""Recall over k, and the scores that rank."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modeling_lavis.plots.figure import COLORS, LINES, in_style, new_figure
from modeling_lavis.plots.histograms import draw_histograms

_MARKED = (1, 5, 10)
_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@in_style
def retrieval_figure(
    places: Mapping[str, tuple[Sequence[int], int]],
    scores: Mapping[str, Sequence[float]],
    score: str = "score",
) -> Any:
    """
    Draw recall over k, and how the scores of right and wrong candidates are distributed.

    Args:
        places (`Mapping[str, tuple[Sequence[int], int]]`): by the name of a direction, for each query the place of its
            first right candidate, from 1 (0 if none is among the candidates), and the number of candidates.
        scores (`Mapping[str, Sequence[float]]`): by the name of a group, scores of its candidates.
        score (`str`, *optional*, defaults to `"score"`): what the score is.

    Returns:
        `matplotlib.figure.Figure`: two panels.

    Raises:
        ValueError: there are no scores.
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(3.6)
    left, right = figure.subplots(1, 2)
    most = 1
    for number, (name, (found, candidates)) in enumerate(places.items()):
        ranks = np.arange(1, candidates + 1)
        recall = recall_over_k(found, candidates)
        color, line = COLORS[number % len(COLORS)], LINES[number % len(LINES)]
        marked = [rank - 1 for rank in _MARKED if rank <= candidates]
        left.plot(ranks, recall, line, color=color, marker="o", markersize=5, markevery=marked, label=name)
        most = max(most, candidates)
    ticks = [tick for tick in _TICKS if tick <= most]
    left.set_xscale("log")
    left.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    left.minorticks_off()
    left.set(xlabel="k", ylabel="recall at k, %", ylim=(0, 103), xlim=(0.9, most * 1.1))
    draw_histograms(right, score, scores)
    right.set_ylabel("share of the pairs, %")
    for axes in (left, right):
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def recall_over_k(places: Sequence[int], candidates: int) -> np.ndarray:
    """
    Recall at every k, in percent.

    Args:
        places (`Sequence[int]`): of each query, the place of its first right candidate, from 1; 0 for none.
        candidates (`int`): number of candidates.

    Returns:
        `np.ndarray` of shape `(candidates,)`: the share of queries of which a right candidate is among the k best.
    """
    found = np.asarray(places)
    counts = np.bincount(found[found > 0], minlength=candidates + 1)[1 : candidates + 1]
    return 100 * np.cumsum(counts) / max(len(found), 1)


__all__ = ["recall_over_k", "retrieval_figure"]
