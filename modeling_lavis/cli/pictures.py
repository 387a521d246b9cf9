# SPDX-License-Identifier: Apache-2.0
"""Files, folders, globs and URLs of the command line as a list of pictures or of videos."""

import glob
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: files of a folder that count as pictures or as videos; a file named by itself may end in anything
SUFFIXES = {
    "picture": frozenset(
        ".avif .bmp .dib .gif .ico .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()
    ),
    "video": frozenset(".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()),
}
_URLS = ("http://", "https://", "data:image/")


class Picture(NamedTuple):
    """
    Args:
        name: path or URL, as results are printed under.
        error: why there is nothing to open, if that is known already.
    """

    name: str
    error: str | None = None


def find_pictures(inputs: Iterable[str], kind: str = "picture") -> list[Picture]:
    """
    Turn arguments into pictures or videos, in order; whether they can be read is seen when they are opened.

    Args:
        inputs: files, URLs, folders (searched with all folders in them, hidden ones left out, in the order of names)
            and globs (`*`, `?`, `[...]`, `**`) that the shell has not replaced.
        kind: "picture" or "video": what is looked for in folders.
    """
    return [picture for entry in inputs for picture in _find(entry, kind)]


def _find(entry: str, kind: str) -> Iterator[Picture]:
    if entry.startswith(_URLS) or os.path.isfile(entry):
        yield Picture(entry)
    elif os.path.isdir(entry):
        yield from _in_folder(entry, kind)
    elif glob.has_magic(entry):
        found = sorted(glob.glob(entry, recursive=True))
        if not found:
            yield Picture(entry, f"No file matches {entry}.")
        for path in found:
            # "**" gives each folder as well as what is in it
            if os.path.isfile(path):
                yield Picture(path)
            elif "**" not in entry:
                yield from _in_folder(path, kind)
    else:
        yield Picture(entry)


def _in_folder(folder: str, kind: str) -> Iterator[Picture]:
    empty = True
    for above, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES[kind]:
                empty = False
                yield Picture(os.path.join(above, name))
    if empty:
        yield Picture(folder, f"No {kind} in the folder {folder}; looked for {' '.join(sorted(SUFFIXES[kind]))}.")
