# SPDX-License-Identifier: Apache-2.0
"""A look through the pickle and the zip directory of a PyTorch checkpoint before either is read: nothing is executed,
and no memory is taken for what a file only promises.

`torch.load(weights_only=True)` refuses code. It takes the memory that a file asks for, though, and a key that is a
tuple of a million levels crashes the interpreter when it is hashed.
"""

import io
import os
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

#: Largest pickle, zip directory or safetensors header, in bytes. Those of the largest published checkpoints have less
#: than 2 MB, and Python objects take up to a hundred times the memory of their pickle.
MAX_INDEX_BYTES = 2**25
#: Largest number of levels of tuples, lists and dictionaries in each other.
MAX_LEVELS = 100

_DIRECTORY_END = b"PK\x05\x06"
_ZIP64_LOCATOR = b"PK\x06\x07"
_LOCAL_HEADER_BYTES = 30
_LEGACY_PICKLES = 5  # magic number, protocol, system, content, keys of the storages
_INTEGERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1"})
_CONSTANTS = frozenset({"NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "GLOBAL"})
_EMPTY = frozenset({"EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"})
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class PromiseError(ValueError):
    """Raised if a file promises more than it has, or nests without end. The message completes "the file ..."."""


def check_archive(path: Path) -> list[str]:
    """
    Check the zip directory of a checkpoint, and the pickle in it.

    Args:
        path (`Path`): the file.

    Returns:
        `list[str]`: names of the entries.

    Raises:
        PromiseError: an entry is compressed, the entries together have more bytes than the file, the directory or the
            pickle is too large, or the pickle promises more than the file has.
        zipfile.BadZipFile: the file is not a complete zip archive.
    """
    size = path.stat().st_size
    _check_directory(path, size)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    compressed = next((entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
    if compressed is not None or any(entry.file_size != entry.compress_size for entry in entries):
        name = entries[0].filename if compressed is None else compressed.filename
        raise PromiseError(f"has the compressed entry {name!r:.80}; PyTorch stores entries as they are")
    if sum(entry.file_size for entry in entries) > size:
        raise PromiseError(f"has entries of {sum(entry.file_size for entry in entries):,} bytes, but {size:,} bytes")
    with path.open("rb") as file:
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                _check_size("pickle", entry.file_size)
                file.seek(entry.header_offset)
                header = file.read(_LOCAL_HEADER_BYTES)
                if len(header) < _LOCAL_HEADER_BYTES:
                    raise zipfile.BadZipFile("an entry starts after the end of the file")
                file.seek(sum(struct.unpack("<HH", header[-4:])), os.SEEK_CUR)
                check_pickle(io.BytesIO(file.read(entry.file_size)), size)
    return [entry.filename for entry in entries]


def _check_directory(path: Path, size: int) -> None:
    """Check the size of the zip directory, of which Python makes objects ten times as large."""
    with path.open("rb") as file:
        file.seek(max(size - 42, 0))
        end = file.read()
        if end[-22:-18] != _DIRECTORY_END or end[-2:] != b"\0\0":
            # readers of zip files differ in what they make of a directory that is not at the very end
            raise zipfile.BadZipFile("its directory is not at the end of the file")
        (directory,) = struct.unpack("<I", end[-10:-6])
        if end.startswith(_ZIP64_LOCATOR):
            (place,) = struct.unpack("<Q", end[8:16])
            file.seek(min(place, size))
            record = file.read(56)
            if len(record) == 56:
                (directory,) = struct.unpack("<Q", record[40:48])
    _check_size("zip directory", directory)


def _check_size(what: str, size: int) -> None:
    if size > MAX_INDEX_BYTES:
        raise PromiseError(f"has a {what} of {size:,} bytes; expected at most {MAX_INDEX_BYTES:,}")


def check_legacy(path: Path) -> None:
    """
    Check the pickles at the start of a checkpoint in the format of PyTorch before 1.6.

    Raises:
        PromiseError: see [`check_pickle`].
    """
    with path.open("rb") as file:
        for _ in range(_LEGACY_PICKLES):
            if not check_pickle(file, path.stat().st_size):
                return


def check_pickle(stream: BinaryIO, available: int) -> bool:
    """
    Check a pickle up to its end, or up to an instruction that `torch.load(weights_only=True)` refuses.

    Args:
        stream (`BinaryIO`): at the start of the pickle; after it if the pickle is complete.
        available (`int`): size of the file that has the storages, in bytes.

    Returns:
        `bool`: whether the pickle is complete.

    Raises:
        PromiseError: the pickle is too large, nests too deeply, or refers to a storage that is larger than the file.
    """
    levels: list[int] = []  # of each object on the stack of the pickle
    marks: list[int] = []
    memo: dict[int, int] = {}
    number, start = 0, stream.tell()
    try:
        for name, argument in _instructions(stream, start):
            if name == "STOP":
                return True
            if name in _INTEGERS:
                number = argument
                levels.append(0)
            elif name == "BINPERSID":  # a storage; the last number before it is that of its elements
                if number > available:
                    raise PromiseError(f"promises a storage of {number:,} elements, but has {available:,} bytes")
                levels[-1] = 0
            elif not _follow(name, argument, levels, marks, memo):
                return False
            if levels and levels[-1] > MAX_LEVELS:
                raise PromiseError(f"nests more than {MAX_LEVELS} levels of tuples, lists or dictionaries")
    except IndexError:  # more is taken from the stack than is on it; the unpickler says so, too
        pass
    return False


def _instructions(stream: BinaryIO, start: int) -> Iterator[tuple[str, Any]]:
    instructions = pickletools.genops(stream)
    while True:
        try:
            opcode, argument, position = next(instructions)
        except StopIteration:
            return
        except (ValueError, OverflowError, MemoryError, UnicodeError):  # no pickle, or not a whole one
            return
        _check_size("pickle", (position or 0) - start)
        yield opcode.name, argument


def _follow(name: str, argument: Any, levels: list[int], marks: list[int], memo: dict[int, int]) -> bool:
    """Do to the levels what an instruction does to the objects; `False` for one that is not allowed."""
    if name in _CONSTANTS:
        levels.append(0)
    elif name in _EMPTY:
        levels.append(1)
    elif name == "MARK":
        marks.append(len(levels))
    elif name == "TUPLE":
        _collect(levels, marks.pop())
    elif name in _TUPLES:
        _collect(levels, max(len(levels) - _TUPLES[name], 0))
    elif name in ("APPENDS", "SETITEMS"):
        _put_into(levels, marks.pop())
    elif name in ("APPEND", "BUILD"):
        _put_into(levels, len(levels) - 1)
    elif name == "SETITEM":
        _put_into(levels, len(levels) - 2)
    elif name in ("REDUCE", "NEWOBJ"):  # what a function makes has the levels of its arguments
        levels[-2:] = [levels[-1]]
    elif name in ("BINPUT", "LONG_BINPUT"):
        memo[argument] = levels[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        levels.append(memo.get(argument, 0))
    else:
        return name == "PROTO"
    return True


def _collect(levels: list[int], first: int) -> None:
    """Objects from `first` on become one tuple."""
    levels[first:] = [1 + max(levels[first:], default=0)]


def _put_into(levels: list[int], first: int) -> None:
    """Objects from `first` on go into the one before them."""
    inner = max(levels[first:], default=0)
    del levels[first:]
    levels[-1] = max(levels[-1], inner + 1)


__all__ = ["MAX_INDEX_BYTES", "MAX_LEVELS", "PromiseError", "check_archive", "check_legacy", "check_pickle"]
