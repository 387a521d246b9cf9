# SPDX-License-Identifier: Apache-2.0
"""Files that are written completely or not at all, their digests, and JSON of unknown origin."""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: two processes are not noticed there
    fcntl = None  # type: ignore[assignment]

#: Largest file of settings or of an index, in bytes. Python objects take about ten times the memory of their JSON.
MAX_JSON_BYTES = 2**26


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, prefix: str = ".") -> Iterator[Path]:
    """
    Context manager that yields the path of a temporary file in the same folder. If the block succeeds, the file gets
    its name, and replaces what had it; otherwise it is deleted.

    Args:
        path (`str` or `os.PathLike`): the file.
        prefix (`str`, *optional*, defaults to `"."`): start of the temporary name, by which other code leaves out what
            a killed process was writing.
    """
    target = Path(path)
    partial = target.with_name(f"{prefix}{target.name}.partial-{secrets.token_hex(4)}")
    try:
        yield partial
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def lock_file(path: str | os.PathLike) -> IO[bytes]:
    """
    Open a file, which is created if there is none, and lock it until it is closed or the process ends.

    Raises:
        BlockingIOError: another process has locked it. On Windows, and on file systems without locks, this is not
            noticed.
    """
    file = open(path, "ab")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise
        except OSError:  # a file system without locks
            pass
    return file


def sha256_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file of any size, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: str | os.PathLike, limit: int | None = MAX_JSON_BYTES) -> Any:
    """
    Parse a JSON file.

    Args:
        path (`str` or `os.PathLike`): the file, in UTF-8.
        limit (`int`, *optional*, defaults to `MAX_JSON_BYTES`): largest size in bytes, which is checked before the file
            is read; `None` for none.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is too large, or not JSON. The message has the reason, without the name of the file.
    """
    size = os.path.getsize(path)
    if limit is not None and size > limit:
        raise ValueError(f"it has {size:,} bytes; expected at most {limit:,}")
    with open(path, encoding="utf-8-sig") as file:
        return parse_json(file.read())


def parse_json(text: str | bytes) -> Any:
    """
    Parse JSON.

    Raises:
        ValueError: it is not JSON, or nests too deeply; the message has the reason.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} in line {error.lineno}, column {error.colno}") from error
    except RecursionError:
        raise ValueError("it nests too deeply") from None


__all__ = ["MAX_JSON_BYTES", "lock_file", "parse_json", "read_json", "sha256_of", "whole_file"]
