# SPDX-License-Identifier: Apache-2.0
"""Plots of what was measured, as figures of matplotlib.

* `figure`: the look that all plots share, and files of them, PNG or SVG.
* `histograms`: scores. `retrieval`: recall over k. `classes`: confusion matrices. `bars`: values with names.
  `verification`: differences from what was expected.

Functions take numbers and return a `matplotlib.figure.Figure`; the commands have `--plot FILE`. matplotlib is in the
extra `plot`.
"""

from .bars import bars_figure
from .classes import confusion_figure
from .figure import check_plot_file, save_figure
from .histograms import histogram_figure
from .retrieval import retrieval_figure
from .verification import differences_figure

__all__ = [
    "bars_figure",
    "check_plot_file",
    "confusion_figure",
    "differences_figure",
    "histogram_figure",
    "retrieval_figure",
    "save_figure",
]
