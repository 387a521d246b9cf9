# SPDX-License-Identifier: Apache-2.0
"""Output of the command: results on stdout, errors and progress on stderr, and atomic writing of files."""

import contextlib
import json
import logging
import os
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from modeling_lavis.data.media_files import InputFile
from modeling_lavis.files import whole_file
from modeling_lavis.progress import with_progress

#: Number of inputs from which on progress is shown.
PROGRESS_THRESHOLD = 20


class UsageError(Exception):
    """Raised for arguments that cannot be used. The command prints the message and exits with status 2."""


class Results:
    """
    Prints results as text or as JSON lines, and counts failures.

    Args:
        as_json (`bool`): whether to print one JSON object per line on stdout, and nothing else.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.failed = 0

    def add(self, record: Mapping[str, Any], text: str) -> None:
        """
        Print a result.

        Args:
            record (`Mapping[str, Any]`): the result for JSON.
            text (`str`): the result as text.
        """
        # Escape what the terminal's encoding cannot represent, for example file names that are not valid Unicode.
        line = json.dumps(record) if self.as_json else text
        encoding = sys.stdout.encoding or "utf-8"
        with _without_progress_bar(sys.stdout):
            sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            sys.stdout.flush()

    def fail(self, name: str, message: str) -> None:
        """Report an input that failed, on stderr and in JSON."""
        self.failed += 1
        warn(message if name in message else f"{name}: {message}")
        if self.as_json:
            self.add({"file": name, "error": message}, "")

    @property
    def status(self) -> int:
        """Exit status: 1 if any input failed, 0 otherwise."""
        return int(self.failed > 0)


def warn(message: str, level: str = "error") -> None:
    """Print an error message (or a warning or a note, by `level`) on stderr, in one line."""
    _write_to_stderr([f"{level}: {one_line(message)}"])


def warn_lines(message: str, level: str = "error") -> None:
    """Print a report of several lines, such as a list of bad rows, on stderr: the first line as [`warn`] prints it."""
    first, *others = message.splitlines() or [""]
    _write_to_stderr([f"{level}: {one_line(first)}", *map(one_line, others)])


def _write_to_stderr(lines: Sequence[str]) -> None:
    encoding = sys.stderr.encoding or "utf-8"
    with _without_progress_bar(sys.stderr):
        for line in lines:
            sys.stderr.write(f"{line}\n".encode(encoding, "backslashreplace").decode(encoding))


def one_line(text: str) -> str:
    """
    Escape line breaks and control characters, so that a name or a generated text stays in its line.

    Args:
        text (`str`): a file name, a text or a message.

    Returns:
        `str`: the text with, for example, a backslash and an `n` for each new line.
    """
    if text.isprintable():
        return text
    # "Cc" are control characters, "Zl" and "Zp" the line and paragraph separators of Unicode
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Zl", "Zp")
        else character
        for character in text
    )


class _Printer(logging.Handler):
    """Prints what this package logs as warnings of the command."""

    def emit(self, record: logging.LogRecord) -> None:
        show = warn_lines if getattr(record, "is_report", False) else warn
        show(record.getMessage(), "warning")


_PRINTER = _Printer(logging.WARNING)


def print_logged_warnings() -> None:
    """Print the warnings that this package logs, also as code that was loaded with a repository."""
    for name in ("modeling_lavis", "transformers_modules"):
        logging.getLogger(name).addHandler(_PRINTER)  # a second time without effect


def iterate_results(
    files: list[InputFile], run: Callable[[Iterable[str]], Iterable[Any]], results: Results
) -> Iterator[tuple[str, Any]]:
    """
    Run a pipeline on images or videos and yield the name and result of each. Failures are reported and skipped.

    Args:
        files (`list[InputFile]`): the inputs.
        run (`Callable`): function from names to one result each, which is `{"error": message}` for a file that cannot
            be read.
        results (`Results`): where failures are reported.
    """
    found = iter(run(file.name for file in files if file.error is None))
    for file in progress(files):
        result = {"error": file.error} if file.error is not None else next(found)
        if isinstance(result, dict) and "error" in result:
            results.fail(file.name, result["error"])
        else:
            yield file.name, result


def progress(entries: list[Any]) -> Iterable[Any]:
    """Iterate over entries, and show progress on stderr if there are many."""
    if len(entries) < PROGRESS_THRESHOLD:
        return entries
    return with_progress(entries, unit="files", shown=True)


def _without_progress_bar(stream: IO[str]) -> contextlib.AbstractContextManager[None]:
    """Clear the progress bar while a line is printed, if the line goes to a terminal, too."""
    if "tqdm" not in sys.modules or not sys.stderr.isatty() or not stream.isatty():
        return contextlib.nullcontext()
    from tqdm import tqdm

    return tqdm.external_write_mode(file=sys.stderr)


def check_output_file(path: Path, suffixes: tuple[str, ...], flag: str = "--output") -> Path:
    """
    Check that a file can be written to `path`, without creating anything.

    Args:
        path (`Path`): value of the option.
        suffixes (`tuple[str, ...]`): the allowed suffixes.
        flag (`str`, *optional*, defaults to `"--output"`): the option.

    Raises:
        UsageError: If the suffix is another, `path` is a folder, a FIFO or a device, or its folder is missing or cannot
            be written to.
    """
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{flag} is {path}; expected a file name that ends in {', '.join(suffixes)}.")
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        what = "is a folder" if path.is_dir() else f"is in {folder}, which is not a writable folder"
        raise UsageError(f"{flag} is {path}, which {what}. Give the path of a file.")
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise UsageError(f"{flag} is {path}, which is a FIFO, a socket or a device. Give the path of a file.")
    return path


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Context manager that yields a temporary file next to `path`, and moves it there if the block succeeds."""
    with whole_file(path) as partial, partial.open("xb") as file:
        yield file
