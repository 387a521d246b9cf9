# SPDX-License-Identifier: Apache-2.0
"""What the command prints and writes: results on stdout, everything else on stderr, files whole or not at all."""

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from modeling_lavis.cli.pictures import Picture

#: from how many inputs on a progress bar is worth it
MANY = 20


class UsageError(Exception):
    """Arguments that cannot be followed; the command ends with status 2 and does nothing."""


class Results:
    """
    Prints results as text or as JSON lines, and remembers failures.

    Args:
        as_json: one JSON object per line on stdout, and nothing else there.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.failed = 0

    def add(self, record: Mapping[str, Any], text: str) -> None:
        """Print a result: the record as JSON, or the text."""
        # Escaped, a name that is no valid Unicode can be printed whatever the terminal's encoding.
        line = json.dumps(record) if self.as_json else text
        encoding = sys.stdout.encoding or "utf-8"
        with _beside_the_bar():
            sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            sys.stdout.flush()

    def fail(self, name: str, message: str) -> None:
        """Report an input that could not be used, on stderr and in JSON."""
        self.failed += 1
        warn(message if name in message else f"{name}: {message}")
        if self.as_json:
            self.add({"file": name, "error": message}, "")

    @property
    def status(self) -> int:
        """Exit status: 1 if anything failed."""
        return int(self.failed > 0)


def warn(message: str) -> None:
    """Print an error of one input or of the command."""
    encoding = sys.stderr.encoding or "utf-8"
    with _beside_the_bar():
        sys.stderr.write(f"error: {message}\n".encode(encoding, "backslashreplace").decode(encoding))


def over_pictures(
    pictures: list[Picture], run: Callable[[Iterable[str]], Iterable[Any]], results: Results
) -> Iterator[tuple[str, Any]]:
    """
    Run something over pictures and give each result with the picture's name; failures are reported and left out.

    Args:
        pictures: what was found.
        run: takes names and gives one result for each, `{"error": message}` where one cannot be read.
        results: takes the failures.
    """
    found = iter(run(picture.name for picture in pictures if picture.error is None))
    for picture in progress(pictures):
        result = {"error": picture.error} if picture.error is not None else next(found)
        if isinstance(result, dict) and "error" in result:
            results.fail(picture.name, result["error"])
        else:
            yield picture.name, result


def progress(entries: list[Any]) -> Iterable[Any]:
    """Go through entries with a bar on stderr, if they are many and that is a terminal."""
    if len(entries) < MANY or not sys.stderr.isatty():
        return entries
    from tqdm import tqdm

    return tqdm(entries, unit="picture", file=sys.stderr)


def _beside_the_bar() -> contextlib.AbstractContextManager[None]:
    """Lift the bar for a line that goes to the same terminal."""
    if "tqdm" not in sys.modules or not sys.stderr.isatty():
        return contextlib.nullcontext()
    from tqdm import tqdm

    return tqdm.external_write_mode(file=sys.stderr)


def check_output_file(path: Path, suffixes: tuple[str, ...]) -> Path:
    """Raise `UsageError` when a file cannot be written to `path`; creates nothing."""
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"--output is {path}; expected a name that ends in {', '.join(suffixes)}.")
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        what = "is a folder" if path.is_dir() else f"is in {folder}, which is no folder that can be written to"
        raise UsageError(f"--output is {path}, which {what}; give the path of a file.")
    return path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file next to `path` for writing, which takes its place when the block ends well and is removed if not."""
    path = path.absolute()
    partial = path.parent / f".{path.name}.partial-{secrets.token_hex(4)}"
    try:
        with partial.open("xb") as file:
            yield file
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
