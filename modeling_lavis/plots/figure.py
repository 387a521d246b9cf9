# SPDX-License-Identifier: Apache-2.0
"""The look that all plots share, and files of them."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from modeling_lavis.files import whole_file
from modeling_lavis.import_utils import require

SUFFIXES = (".png", ".svg")
#: colors that the color-blind can tell apart (Okabe and Ito, 2008), and lines that differ without color
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
GOOD, BAD, REFERENCE = COLORS[0], COLORS[1], "#555555"
_WIDTH = 7.0  # inches: the text of a page is about as wide, so that letters have the size of its text
_DPI = 110
_STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",  # text stays text, which can be searched and read aloud
    "svg.hashsalt": "modeling_lavis",  # equal plots are equal files
}

Drawing = TypeVar("Drawing", bound=Callable[..., Any])


def check_plot_file(path: str | os.PathLike) -> Path:
    """
    Check that a plot can be written to a file, before what is plotted is measured.

    Args:
        path (`str` or `os.PathLike`): the file, `.png` or `.svg`.

    Raises:
        ValueError: the suffix is another.
        OSError: the folder is missing or cannot be written to, or the path is a folder.
        ImportError: matplotlib is not installed.
    """
    file = Path(path)
    if file.suffix.lower() not in SUFFIXES:
        raise ValueError(f"The plot is {file}; expected a file name that ends in {' or '.join(SUFFIXES)}.")
    folder = file.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise NotADirectoryError(f"The plot is {file}, but {folder} is not a folder that can be written to. Make it.")
    if file.exists() and not file.is_file():
        raise IsADirectoryError(f"The plot is {file}, which is a folder or no regular file. Give the path of a file.")
    require("matplotlib", extra="plot", purpose="plots")
    return file


def in_style(draw: Drawing) -> Drawing:
    """Decorator of functions that draw: with the look of all plots."""

    @functools.wraps(draw)
    def styled(*args: Any, **kwargs: Any) -> Any:
        matplotlib: Any = require("matplotlib", extra="plot", purpose="plots")
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled  # type: ignore[return-value]


def new_figure(height: float, width: float = _WIDTH) -> Any:
    """
    An empty figure.

    Args:
        height (`float`): height in inches.
        width (`float`, *optional*): width in inches, by default and at most that of a page.
    """
    module: Any = require("matplotlib.figure", extra="plot", purpose="plots")
    return module.Figure(figsize=(min(width, _WIDTH), height), layout="constrained")


@in_style
def save_figure(figure: Any, path: str | os.PathLike) -> None:
    """
    Write a figure, wholly or not at all. Equal figures give equal files.

    Args:
        figure (`matplotlib.figure.Figure`): the figure.
        path (`str` or `os.PathLike`): the file, `.png` or `.svg`.

    Raises:
        ValueError, OSError, ImportError: see [`check_plot_file`].
    """
    file = check_plot_file(path)
    form = file.suffix.lower().removeprefix(".")
    options: dict[str, Any] = {"metadata": {"Date": None, "Creator": None}}
    if form == "png":
        options = {"metadata": {"Software": None}, "pil_kwargs": {"optimize": True}}
    with whole_file(file, prefix="_") as partial:  # an upload to the Hub leaves out names with an underscore
        figure.savefig(partial, format=form, dpi=_DPI, **options)


__all__ = [
    "BAD",
    "COLORS",
    "GOOD",
    "LINES",
    "REFERENCE",
    "SUFFIXES",
    "check_plot_file",
    "in_style",
    "new_figure",
    "save_figure",
]
