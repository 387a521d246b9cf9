# SPDX-License-Identifier: Apache-2.0
"""Files that are written completely or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


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


__all__ = ["whole_file"]
