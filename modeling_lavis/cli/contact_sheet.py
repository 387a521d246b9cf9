# SPDX-License-Identifier: Apache-2.0
"""Contact sheets of images with texts below them."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import PIL.Image
from PIL import ImageDraw

from modeling_lavis.drawing import load_font
from modeling_lavis.models.image_conversion import check_regular_file, open_image, parse_background, to_rgb
from modeling_lavis.models.video_decoding import read_frames

_IMAGE_HEIGHT, _CELL_WIDTH, _MARGIN, _FONT_SIZE, _MAX_LINES = 128, 260, 16, 14, 2
_BACKGROUND, TEXT, _LABEL = "white", "#222222", "#777777"
CORRECT, WRONG = "#0072B2", "#B34700"  # blue and orange, which the color-blind can tell apart


class Cell(NamedTuple):
    """
    An image of a contact sheet.

    Args:
        image (`PIL.Image.Image`, *optional*): the image; nothing is drawn for one that cannot be read.
        lines (`Sequence[tuple[str, str, str]]`): label, text and color of what is below it.
    """

    image: PIL.Image.Image | None
    lines: Sequence[tuple[str, str, str]]


def draw(rows: Sequence[Mapping[str, Any]], columns: int = 4) -> PIL.Image.Image:
    """
    Draw a contact sheet.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): one mapping per image with `file`, `name`, `caption`, `caption_is_name`,
            `best_match` and `score` (probability of the best match). A caption or match that is the name is drawn in
            blue, any other in orange.
        columns (`int`, *optional*, defaults to 4): maximum number of images per row.

    Returns:
        `PIL.Image.Image`: The contact sheet.

    Raises:
        ValueError: If there are no rows.
    """
    cells = []
    for row in rows:
        with PIL.Image.open(row["file"]) as opened:
            image = to_rgb(opened, parse_background(_BACKGROUND)).copy()  # an RGB image is returned as it is, unread
        match_color = CORRECT if row["best_match"] == row["name"] else WRONG
        lines = (
            ("name", row["name"], TEXT),
            ("caption", row["caption"], CORRECT if row["caption_is_name"] else WRONG),
            (f"match {row['score']:.2f}", row["best_match"], match_color),
        )
        cells.append(Cell(image, lines))
    return draw_cells(cells, columns)


def draw_cells(cells: Sequence[Cell], columns: int = 4) -> PIL.Image.Image:
    """
    Draw a contact sheet.

    Args:
        cells (`Sequence[Cell]`): images with what is written below them.
        columns (`int`, *optional*, defaults to 4): maximum number of images per row.

    Returns:
        `PIL.Image.Image`: The contact sheet.

    Raises:
        ValueError: If there are no cells.
    """
    if not cells:
        raise ValueError("A contact sheet needs at least one image.")
    font = load_font(_FONT_SIZE)
    line_height = _FONT_SIZE + 5
    height = _IMAGE_HEIGHT + max(len(cell.lines) for cell in cells) * _MAX_LINES * line_height + 2 * _MARGIN
    columns = min(columns, len(cells))
    size = (columns * (_CELL_WIDTH + _MARGIN) + _MARGIN, -(-len(cells) // columns) * height + _MARGIN)
    sheet = PIL.Image.new("RGB", size, _BACKGROUND)
    canvas = ImageDraw.Draw(sheet)
    for number, cell in enumerate(cells):
        left = _MARGIN + number % columns * (_CELL_WIDTH + _MARGIN)
        top = _MARGIN + number // columns * height
        if cell.image is not None:
            image = to_rgb(cell.image, parse_background(_BACKGROUND)).copy()
            image.thumbnail((_CELL_WIDTH, _IMAGE_HEIGHT))
            sheet.paste(image, (left + (_CELL_WIDTH - image.width) // 2, top))
        top += _IMAGE_HEIGHT + 6
        for label, text, color in cell.lines:
            indent = canvas.textlength(f"{label}: ", font=font)
            canvas.text((left, top), f"{label}: ", font=font, fill=_LABEL)
            for line in wrap(text, _CELL_WIDTH - indent, lambda part: canvas.textlength(part, font=font)):
                canvas.text((left + indent, top), line, font=font, fill=color)
                top += line_height
    return sheet


def item_image(item: Any, kind: str) -> PIL.Image.Image:
    """
    The image of an item of a collection, or the middle frame of a video.

    Args:
        item: a path or a URL, or a row of a video with `start` and `end` in seconds.
        kind (`str`): `"image"` or `"video"`.

    Raises:
        OSError: it cannot be read. ValueError: the video has no frame in that range.
    """
    if kind == "image":
        return open_image(item)
    row = item if isinstance(item, Mapping) else {"video": item}
    source, start, end = row["video"], row.get("start"), row.get("end")
    if not str(source).startswith(("http://", "https://")):
        check_regular_file(source, "video")

    def select(length: int, index_at: Callable[[float], int]) -> list[int]:
        first = 0 if start is None else index_at(start)
        last = length if end is None else min(index_at(end), length)
        if last <= first:
            raise ValueError(f"{source} has no frame between start={start} and end={end} (seconds).")
        return [(first + last) // 2]

    frames: Any = read_frames(source, select)
    with contextlib.closing(frames):
        return PIL.Image.fromarray(next(frames))


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
