# SPDX-License-Identifier: Apache-2.0
"""Contact sheet of images with their captions and matches."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import PIL.Image
from PIL import ImageDraw, ImageFont

from modeling_lavis.models.image_conversion import parse_background, to_rgb

_IMAGE_HEIGHT, _CELL_WIDTH, _MARGIN, _FONT_SIZE, _MAX_LINES = 128, 260, 16, 14, 2
_BACKGROUND, TEXT, _LABEL, CORRECT, WRONG = "white", "#222222", "#777777", "#1a7f37", "#b3261e"

Cell = tuple[PIL.Image.Image, Sequence[tuple[str, str, str]]]


def draw(rows: Sequence[Mapping[str, Any]], columns: int = 4) -> PIL.Image.Image:
    """
    Draw a contact sheet.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): one mapping per image with `file`, `name`, `caption`, `caption_is_name`,
            `best_match` and `score` (probability of the best match). A caption or match that is the name is drawn in
            green, any other in red.
        columns (`int`, *optional*, defaults to 4): maximum number of images per row.

    Returns:
        `PIL.Image.Image`: The contact sheet.

    Raises:
        ValueError: If there are no rows.
    """
    return draw_cells((_cell(row) for row in rows), len(rows), columns)


def _cell(row: Mapping[str, Any]) -> Cell:
    with PIL.Image.open(row["file"]) as opened:
        image = to_rgb(opened, parse_background(_BACKGROUND)).copy()  # an RGB image is returned as it is, unread
    texts = (
        ("name", row["name"], TEXT),
        ("caption", row["caption"], CORRECT if row["caption_is_name"] else WRONG),
        (f"match {row['score']:.2f}", row["best_match"], CORRECT if row["best_match"] == row["name"] else WRONG),
    )
    return image, texts


def draw_cells(cells: Iterable[Cell], count: int, columns: int = 4) -> PIL.Image.Image:
    """
    Draw images with texts below.

    Args:
        cells (`Iterable[Cell]`): an RGB image, which may be changed, and three texts with a label and a color, each.
        count (`int`): number of cells.
        columns (`int`, *optional*, defaults to 4): maximum number of images per row.

    Returns:
        `PIL.Image.Image`: The contact sheet.

    Raises:
        ValueError: If there are no cells.
    """
    if not count:
        raise ValueError("A contact sheet needs at least one image.")
    font = _font()
    line_height = _FONT_SIZE + 5
    height = _IMAGE_HEIGHT + 3 * _MAX_LINES * line_height + 2 * _MARGIN
    columns = min(columns, count)
    size = (columns * (_CELL_WIDTH + _MARGIN) + _MARGIN, -(-count // columns) * height + _MARGIN)
    sheet = PIL.Image.new("RGB", size, _BACKGROUND)
    canvas = ImageDraw.Draw(sheet)
    for number, (image, texts) in enumerate(cells):
        left = _MARGIN + number % columns * (_CELL_WIDTH + _MARGIN)
        top = _MARGIN + number // columns * height
        image.thumbnail((_CELL_WIDTH, _IMAGE_HEIGHT))
        sheet.paste(image, (left + (_CELL_WIDTH - image.width) // 2, top))
        top += _IMAGE_HEIGHT + 6
        for label, text, color in texts:
            indent = canvas.textlength(f"{label}: ", font=font)
            canvas.text((left, top), f"{label}: ", font=font, fill=_LABEL)
            for line in wrap(text, _CELL_WIDTH - indent, lambda part: canvas.textlength(part, font=font)):
                canvas.text((left + indent, top), line, font=font, fill=color)
                top += line_height
    return sheet


def wrap(text: str, width: float, measure: Any) -> list[str]:
    """
    Wrap a text at spaces into at most two lines. The rest is replaced by an ellipsis.

    Args:
        text (`str`): the text.
        width (`float`): maximum width of a line.
        measure (`Callable`): function that returns the width of a string.

    Returns:
        `list[str]`: The lines.
    """
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if measure(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > _MAX_LINES:
        lines = [*lines[: _MAX_LINES - 1], f"{lines[_MAX_LINES - 1]} ..."]
    return [_truncate(line, width, measure) for line in lines]


def _truncate(line: str, width: float, measure: Any) -> str:
    if measure(line) <= width:
        return line
    line = line.removesuffix(" ...")
    while line and measure(f"{line}...") > width:
        line = line[:-1]
    return f"{line}..."


def _font() -> Any:
    try:
        return ImageFont.load_default(size=_FONT_SIZE)
    except (OSError, ImportError):  # Pillow without FreeType has only a bitmap font of one size
        return ImageFont.load_default()
