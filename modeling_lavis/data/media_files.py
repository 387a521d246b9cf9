# SPDX-License-Identifier: Apache-2.0
"""Images or videos that a user names: files, folders, patterns and URLs."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: Suffixes of the files that are collected from folders. A file that is named itself may have any suffix.
SUFFIXES = {
    "image": frozenset(
        ".avif .bmp .dib .gif .ico .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()
    ),
    "video": frozenset(".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()),
}
INPUTS = "a file, a folder, a glob or a URL"
URLS = ("http://", "https://", "data:image/")


class InputFile(NamedTuple):
    """
    An image or video.

    Args:
        name (`str`): path or URL, under which results are printed.
        error (`str`, *optional*): why there is nothing to open, if that is already known.
    """

    name: str
    error: str | None = None


def find_inputs(arguments: Iterable[str], kind: str = "image") -> list[InputFile]:
    """
    Find images or videos, in the order of the arguments. Files are not opened, so they may turn out to be unreadable.

    Args:
        arguments (`Iterable[str]`): files, URLs, folders and globs (`*`, `?`, `[...]`, `**`). Folders are searched
            recursively in alphabetical order, without hidden files.
        kind (`str`, *optional*, defaults to `"image"`): what to collect from folders, `"image"` or `"video"`.

    Returns:
        `list[InputFile]`: The files and URLs. A folder or glob without any is one entry with an error.
    """
    return list(iterate_inputs(arguments, kind))


def iterate_inputs(arguments: Iterable[str], kind: str = "image") -> Iterator[InputFile]:
    """As [`find_inputs`], one by one: at most the names of one folder are in memory."""
    for argument in arguments:
        yield from _find(argument, kind)


def _find(argument: str, kind: str) -> Iterator[InputFile]:
    if not argument:
        yield InputFile(argument, f"An input is an empty string; expected {INPUTS}.")
    elif argument.startswith(URLS) or os.path.isfile(argument):
        yield InputFile(argument)
    elif os.path.isdir(argument):
        yield from _in_folder(argument, kind)
    elif glob.has_magic(argument):
        found = sorted(set(matching_paths(argument)))
        if not found:
            yield InputFile(argument, f"No file matches {argument}.")
        for path in found:
            # "**" matches every folder as well as its files, which must not be listed twice.
            if os.path.isfile(path):
                yield InputFile(path)
            elif not os.path.isdir(path):
                yield _special_file(path, kind)
            elif "**" not in argument:
                yield from _in_folder(path, kind)
    else:
        yield _special_file(argument, kind)


def matching_paths(pattern: str) -> Iterator[str]:
    """
    Paths that match a glob. `**` stands for any number of folders, also for none. Links to folders are not followed
    there, since they may lead in circles; hidden folders are left out.
    """
    if os.sep == "\\":
        pattern = pattern.replace("\\", "/")
    parts = re.fullmatch(r"(|.*?/)\*\*(?:/(.*))?", pattern, re.DOTALL)
    if parts is None:
        yield from glob.iglob(pattern)
        return
    head, tail = parts.group(1), parts.group(2)
    for base in glob.iglob(head) if glob.has_magic(head) else [head]:
        for parent, folders, files in os.walk(base or "."):
            folders[:] = [name for name in folders if not name.startswith(".")]
            prefix = os.path.join(parent, "") if base else os.path.join(parent, "")[2:]
            if tail:
                yield from matching_paths(glob.escape(prefix) + tail)
            else:
                yield from (prefix + name for name in files if not name.startswith("."))


def _special_file(path: str, kind: str) -> InputFile:
    """What is neither a regular file nor a folder: nothing, which fails when it is opened, or something that blocks."""
    from modeling_lavis.models.image_conversion import check_regular_file  # imports torch

    try:
        check_regular_file(path, kind)
    except FileNotFoundError:
        return InputFile(path)
    except OSError as error:
        return InputFile(path, str(error))
    return InputFile(path)


def _in_folder(folder: str, kind: str) -> Iterator[InputFile]:
    empty, refused = True, list[OSError]()
    for parent, folders, files in os.walk(folder, onerror=refused.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES[kind]:
                empty = False
                path = os.path.join(parent, name)
                yield InputFile(path) if os.path.isfile(path) else _special_file(path, kind)
    for error in refused:
        yield InputFile(str(error.filename), f"The folder {error.filename} cannot be read: {error.strerror}.")
    if empty and not refused:
        yield InputFile(folder, f"No {kind} in the folder {folder}; looked for {' '.join(sorted(SUFFIXES[kind]))}.")


__all__ = ["INPUTS", "SUFFIXES", "URLS", "InputFile", "find_inputs", "iterate_inputs", "matching_paths"]
