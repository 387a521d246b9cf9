# SPDX-License-Identifier: Apache-2.0
"""Pictures with what the model says about them, on one sheet."""

from collections.abc import Mapping, Sequence
from typing import Any

import PIL.Image
from PIL import ImageDraw, ImageFont

_SIDE, _WIDTH, _MARGIN, _SIZE, _LINES = 128, 260, 16, 14, 2
_PAPER, _INK, _FAINT, _GOOD, _BAD = "white", "#222222", "#777777", "#1a7f37", "#b3261e"


def draw(rows: Sequence[Mapping[str, Any]], columns: int = 4) -> PIL.Image.Image:
    """
    Draw a contact sheet.

    Args:
        rows: with `file`, `name`, `caption`, `caption_is_name`, `best_match` and `score` (probability); a caption or
            match that is the name is green, another red.
        columns (`int`, *optional*, defaults to 4): pictures side by side.
    """
    if not rows:
        raise ValueError("There are no pictures to draw on a contact sheet.")
    font = _font()
    line_height = _SIZE + 5
    height = _SIDE + 3 * _LINES * line_height + 2 * _MARGIN
    columns = min(columns, len(rows))
    size = (columns * (_WIDTH + _MARGIN) + _MARGIN, -(-len(rows) // columns) * height + _MARGIN)
    sheet = PIL.Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        left = _MARGIN + number % columns * (_WIDTH + _MARGIN)
        top = _MARGIN + number // columns * height
        with PIL.Image.open(row["file"]) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((_WIDTH, _SIDE))
        sheet.paste(picture, (left + (_WIDTH - picture.width) // 2, top))
        top += _SIDE + 6
        for label, text, colour in (
            ("name", row["name"], _INK),
            ("caption", row["caption"], _GOOD if row["caption_is_name"] else _BAD),
            (f"match {row['score']:.2f}", row["best_match"], _GOOD if row["best_match"] == row["name"] else _BAD),
        ):
            indent = pen.textlength(f"{label}: ", font=font)
            pen.text((left, top), f"{label}: ", font=font, fill=_FAINT)
            for line in wrap(text, _WIDTH - indent, lambda part: pen.textlength(part, font=font)):
                pen.text((left + indent, top), line, font=font, fill=colour)
                top += line_height
    return sheet


def wrap(text: str, width: float, measure: Any) -> list[str]:
    """Break a text at spaces into at most two lines of a width; what is left over becomes three dots.

    Args:
        text: any string.
        width: in the unit of `measure`.
        measure: gives the width of a string.
    """
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if measure(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], f"{lines[_LINES - 1]} ..."]
    return [_fitting(line, width, measure) for line in lines]


def _fitting(line: str, width: float, measure: Any) -> str:
    if measure(line) <= width:
        return line
    line = line.removesuffix(" ...")
    while line and measure(f"{line}...") > width:
        line = line[:-1]
    return f"{line}..."


def _font() -> Any:
    try:
        return ImageFont.load_default(size=_SIZE)
    except (OSError, ImportError):  # Pillow without FreeType has one bitmap font, of one size
        return ImageFont.load_default()
