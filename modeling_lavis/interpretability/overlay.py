# SPDX-License-Identifier: Apache-2.0
"""Drawings of maps over pictures.

Shapes: H height, W width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from PIL import ImageDraw

from modeling_lavis.drawing import load_font

if TYPE_CHECKING:
    from modeling_lavis.interpretability.explanation import Explanation

_CELL, _FRAME, _GAP, _FONT_SIZE, _COLUMNS = 176, 112, 10, 14, 5
_BACKGROUND, _TEXT, _LABEL = "white", "#222222", "#666666"
_LINE = _FONT_SIZE + 6
_OPACITY = 0.65
#: From dark to bright, like matplotlib's "inferno": order is visible without color, too.
_COLORS = np.array(
    [
        (0, 0, 4),
        (40, 11, 84),
        (101, 21, 110),
        (159, 42, 99),
        (212, 72, 66),
        (245, 125, 21),
        (250, 193, 39),
        (252, 255, 164),
    ],
    dtype=np.float32,
)


def colorize(values: np.ndarray) -> np.ndarray:
    """Colors `(H, W, 3)` of values `(H, W)` from 0 to 1, as floats from 0 to 255."""
    places = np.linspace(0, 1, len(_COLORS))
    return np.stack([np.interp(values, places, channel) for channel in _COLORS.T], axis=-1)


def overlay(picture: PIL.Image.Image, values: np.ndarray) -> PIL.Image.Image:
    """
    A picture under a map.

    Args:
        picture (`PIL.Image.Image`): an RGB image of H x W pixels.
        values (`np.ndarray` of shape `(H, W)`): from 0 to 1.
    """
    gray = np.asarray(picture.convert("L"), dtype=np.float32)[..., None]
    blended = (1 - _OPACITY) * gray + _OPACITY * colorize(values)
    return PIL.Image.fromarray(blended.round().clip(0, 255).astype(np.uint8))


def draw_maps(explanation: "Explanation", numbers: Sequence[int]) -> PIL.Image.Image:
    """
    Draw the pictures, and again under the map of each word.

    Args:
        explanation (`Explanation`): maps and pictures.
        numbers (`Sequence[int]`): numbers of the words.
    """
    several = len(explanation.pictures) > 1
    side = _FRAME if several else _CELL
    cells = [(_strip(explanation, None, side), "")]
    cells += [(_strip(explanation, number, side), _label(explanation, number)) for number in numbers]
    # rows of about the same length
    columns = 1 if several else -(-len(cells) // -(-len(cells) // _COLUMNS))
    width, height = (max(picture.size[axis] for picture, _ in cells) for axis in (0, 1))
    font = load_font(_FONT_SIZE)
    ruler = ImageDraw.Draw(PIL.Image.new("RGB", (1, 1)))

    def wrap(text: str, limit: int) -> list[str]:
        return _wrap(text, limit, lambda part: ruler.textlength(part, font=font))

    sheet_width = columns * (width + _GAP) + _GAP
    title = wrap(f"{explanation.target}: {explanation.score_name} {explanation.score:.3f}", sheet_width - 2 * _GAP)
    labels = [wrap(label, width) for _, label in cells]
    top, step = _GAP + len(title) * _LINE, height + max(map(len, labels)) * _LINE + _GAP
    sheet = PIL.Image.new("RGB", (sheet_width, top + -(-len(cells) // columns) * step), _BACKGROUND)
    canvas = ImageDraw.Draw(sheet)
    canvas.text((_GAP, _GAP // 2), "\n".join(title), font=font, fill=_LABEL, spacing=_LINE - _FONT_SIZE)
    for place, ((picture, _), label) in enumerate(zip(cells, labels, strict=True)):
        left, upper = _GAP + place % columns * (width + _GAP), top + place // columns * step
        sheet.paste(picture, (left, upper))
        canvas.text((left, upper + height + 2), "\n".join(label), font=font, fill=_TEXT, spacing=_LINE - _FONT_SIZE)
    return sheet


def _label(explanation: "Explanation", number: int) -> str:
    """A word, and of several pictures the share of each."""
    word = explanation.words[number]
    if len(explanation.pictures) == 1:
        return word
    return f"{word}: {', '.join(f'{share:.0%}' for share in explanation.shares[number].tolist())}"


def _strip(explanation: "Explanation", number: int | None, side: int) -> PIL.Image.Image:
    """The pictures side by side: as they are, or under the map of a word on a scale of its own."""
    largest = 0.0 if number is None else float(explanation.grids[number].max())
    parts = []
    for place, picture in enumerate(explanation.pictures):
        small = picture.copy()
        small.thumbnail((side, side))
        if number is not None:
            values = explanation.map(number, place).numpy() / (largest or 1.0)
            heat = PIL.Image.fromarray(values.astype(np.float32)).resize(small.size, PIL.Image.Resampling.BILINEAR)
            small = overlay(small, np.asarray(heat).clip(0, 1))
        parts.append(small)
    width = sum(part.width for part in parts) + 2 * (len(parts) - 1)
    strip = PIL.Image.new("RGB", (width, max(part.height for part in parts)), _BACKGROUND)
    left = 0
    for part in parts:
        strip.paste(part, (left, 0))
        left += part.width + 2
    return strip


def _wrap(text: str, width: float, measure: Any) -> list[str]:
    """Lines of at most a width, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and measure(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


__all__ = ["colorize", "draw_maps", "overlay"]
