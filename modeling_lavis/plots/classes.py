# SPDX-License-Identifier: Apache-2.0
"""Confusion matrices."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from modeling_lavis.plots.figure import in_style, new_figure

_OTHER = "(others)"
_LONGEST_NAME = 18


@in_style
def confusion_figure(
    targets: Sequence[str], predictions: Sequence[str], *, labels: Sequence[str] = (), max_classes: int = 12
) -> Any:
    """
    Draw how often each class was predicted for each class.

    Args:
        targets (`Sequence[str]`): right class of each row.
        predictions (`Sequence[str]`): predicted class of each row.
        labels (`Sequence[str]`, *optional*): classes in their order; by default those that occur, the most frequent
            first. Classes that do not occur are left out.
        max_classes (`int`, *optional*, defaults to 12): largest number of classes; of more, the most frequent right
            ones are drawn, and the others are one.

    Returns:
        `matplotlib.figure.Figure`: a matrix of counts, of which the colors are the shares of each row.

    Raises:
        ValueError: there are no rows, or their numbers differ.
        ImportError: matplotlib is not installed.
    """
    names, counts = confusion_counts(targets, predictions, labels=labels, max_classes=max_classes)
    size = len(names)
    figure = new_figure(2.0 + 0.38 * size, width=3.4 + 0.5 * size)
    axes = figure.subplots()
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(size, size):
        color = "white" if shares[row, column] > 50 else "black"
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=color, fontsize=9)
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..." for name in names]
    upright = max(map(len, shown)) * size <= 50
    turned: dict[str, Any] = {} if upright else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(size), shown, **turned)
    axes.set_yticks(range(size), shown)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted", ylabel="right")
    figure.colorbar(image, ax=axes, label="share of the row, %", shrink=0.8)
    return figure


def confusion_counts(
    targets: Sequence[str], predictions: Sequence[str], *, labels: Sequence[str] = (), max_classes: int = 12
) -> tuple[list[str], np.ndarray]:
    """
    Names of the classes and the counts `(classes, classes)`, rows of right and columns of predicted classes, of
    [`confusion_figure`].
    """
    if len(targets) != len(predictions) or not len(targets):
        raise ValueError(
            f"Got {len(targets)} right classes and {len(predictions)} predictions; expected equally many, and some."
        )
    right, predicted = Counter(targets), Counter(predictions)
    frequent = sorted(right | predicted, key=lambda name: (-right[name], -predicted[name], name))
    names = [name for name in labels if name in right or name in predicted]
    names += [name for name in frequent if name not in names]
    if len(names) > max_classes:
        kept = set(frequent[: max_classes - 1])
        names = [*(name for name in names if name in kept), _OTHER]
    places = {name: place for place, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    last = len(names) - 1  # that of the others, if there are any
    for target, prediction in zip(targets, predictions):
        counts[places.get(target, last), places.get(prediction, last)] += 1
    return names, counts


__all__ = ["confusion_counts", "confusion_figure"]
