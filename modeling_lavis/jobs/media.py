# SPDX-License-Identifier: Apache-2.0
"""Opening the image or video of an item, and its content as it is stored."""

import contextlib
import io
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import PIL.Image

from modeling_lavis.data.collators import open_row_image
from modeling_lavis.data.media_files import URLS
from modeling_lavis.data.video_collators import opened_row_video
from modeling_lavis.jobs.items import Item
from modeling_lavis.models.image_conversion import check_regular_file, download

_ATTEMPTS = 3
_PASSING = (408, 425, 429)  # HTTP statuses below 500 after which another attempt may succeed


@contextlib.contextmanager
def opened_row(item: Item, draft_size: int | None = None) -> Iterator[Mapping[str, Any]]:
    """
    Context manager that yields the row of an item with its image or video as a pipeline takes it.

    Args:
        item (`Item`): the item.
        draft_size (`int`, *optional*): decode a JPEG file to the smallest of the sizes that its format offers (1/2,
            1/4, 1/8) whose sides are at least this number of pixels. Faster for large photos; the pixels after resizing
            differ a little. By default all pixels are decoded.

    Raises:
        OSError, ValueError, TypeError: it cannot be read.
    """
    if "video" in item.row:
        with opened_row_video(_fetched(item.row["video"])) as video:
            yield {**item.row, "video": video}
        return
    medium = _fetched(item.row["image"])
    if draft_size is not None:
        medium = _draft(medium, draft_size)
    if isinstance(medium, (Mapping, bytes, bytearray)):
        medium = open_row_image(medium)
    yield {**item.row, "image": medium}


def _draft(medium: Any, size: int) -> Any:
    """An opened JPEG file in draft mode; everything else unchanged."""
    content = medium.get("bytes") if isinstance(medium, Mapping) else medium
    if isinstance(content, (bytes, bytearray)):
        opened: Any = io.BytesIO(content)
    elif isinstance(content, (str, os.PathLike)) and not os.fspath(content).startswith(URLS):
        check_regular_file(content, "image")
        opened = content
    else:
        return medium
    try:
        image = PIL.Image.open(opened)
    except Exception:  # of any type for broken files; opening without draft mode says what is wrong
        return medium
    if image.format != "JPEG":
        image.close()
        return medium
    image.draft(None, (size, size))
    return image


def _fetched(medium: Any) -> Any:
    """A medium, downloaded if it is a URL."""
    if isinstance(medium, str) and medium.startswith(URLS):
        return {"bytes": fetch(medium), "path": medium}
    return medium


def downloaded(item: Item) -> Item:
    """An item whose image or video is a URL with its content, others as they are; `OSError` if there is none."""
    for kind in ("image", "video"):
        medium = item.row.get(kind)
        if (content := _fetched(medium)) is not medium:
            return replace(item, row={**item.row, kind: content})
    return item


def fetch(url: str) -> bytes:
    """
    Download what a URL names, with several attempts if it may be the network.

    Raises:
        OSError: it cannot be downloaded; the message has the URL.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return download(url)
        except Exception as error:  # the HTTP client and base64 raise unrelated types
            status = getattr(getattr(error, "response", None), "status_code", None)
            final = url.startswith("data:") or (status is not None and status < 500 and status not in _PASSING)
            if final or attempt == _ATTEMPTS - 1:
                raise OSError(f"Cannot read {url[:200]}: {error}") from error
        time.sleep(2.0**attempt)
    raise AssertionError("unreachable")


def stored_content(item: Item) -> tuple[str, bytes]:
    """
    The image or video of an item as it is stored.

    Args:
        item (`Item`): the item.

    Returns:
        `tuple[str, bytes]`: the extension, such as `"jpg"`, and the content; an image that exists in memory only is
        stored as PNG, without loss.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a video that exists in memory only.
    """
    kind = "video" if "video" in item.row else "image"
    medium = item.row[kind]
    if isinstance(medium, str) and medium.startswith(URLS):
        content, name = fetch(medium), medium.partition("?")[0]
    elif isinstance(medium, (str, os.PathLike)):
        with open(medium, "rb") as file:
            content, name = file.read(), os.fspath(medium)
    elif isinstance(medium, Mapping) and medium.get("bytes") is not None:
        content, name = medium["bytes"], medium.get("path") or ""
        name = name.partition("?")[0] if name.startswith(URLS) else name
    elif isinstance(medium, (bytes, bytearray)):
        content, name = bytes(medium), ""
    elif kind == "video":
        raise ValueError(f"{item.name} is a video in memory, which is not stored again; give files.")
    else:
        image = open_row_image(medium)
        encoded = io.BytesIO()
        (image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)).save(encoded, "PNG")
        return "png", encoded.getvalue()
    extension = os.path.splitext(name)[1].lower().lstrip(".")
    return extension if extension.isalnum() else _guessed(content, kind), content


def _guessed(content: bytes, kind: str) -> str:
    """Extension of a content without a name."""
    if kind == "video":
        return "mp4"
    try:
        with PIL.Image.open(io.BytesIO(content)) as image:
            return {"JPEG": "jpg", "TIFF": "tif"}.get(image.format or "", (image.format or "jpg").lower())
    except (OSError, ValueError):
        return "jpg"


__all__ = ["downloaded", "fetch", "opened_row", "stored_content"]
