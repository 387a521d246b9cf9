# SPDX-License-Identifier: Apache-2.0
"""The folder of a job: what it is, how far it has come, and files that grow.

| file | content |
| --- | --- |
| `job.json` | what identifies the job; a command that differs in it does not resume the job |
| `journal.jsonl` | a line per finished block: its place, its numbers of rows, and the sizes of the files after it |
| `failures.jsonl` | a line per input without a result: `{"file": ..., "error": ...}` |
| `texts.jsonl` | a line per text file that was written, if the output is text files |
| `files.jsonl` | the list of files, if the input was one |
| `summary.json` | written at the end |

A block is finished when its line is in the journal. What a killed process wrote after that is removed when the job
is resumed. Without `job.json` no other file of the folder counts: the process was killed while it began a job, or while
it removed one.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from modeling_lavis.files import lock_file, whole_file
from modeling_lavis.jobs.items import Position

JOB, FILES = "job.json", "files.jsonl"
_JOURNAL = "journal.jsonl"
_STATE = (_JOURNAL, FILES, "summary.json", "texts.jsonl")  # what a job that is resumed reads, apart from its output
_REMOVING = "is_being_removed"
_VERSION = 2
_SYNC_SECONDS = 1.0


class JobError(ValueError):
    """A job that cannot begin or be resumed; the message says why, and what to do."""


class GrowingFile:
    """
    A file to which blocks are appended; cut to a length that is known to be good when it is opened.

    Args:
        path (`Path`): the file.
        size (`int`): its good length in bytes; it is created if that is 0.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._file: IO[bytes] = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(size)
        self._file.seek(size)

    def write(self, content: bytes) -> None:
        """Append; what is appended counts only when the journal says so."""
        self._file.write(content)

    def flush(self) -> int:
        """Hand all content to the operating system, and return the size."""
        self._file.flush()
        return self._file.tell()

    def sync(self) -> None:
        """Wait until the content is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, whatever state it is in: a full disk refuses what is still buffered."""
        with contextlib.suppress(OSError):
            self._file.close()


class Journal:
    """
    Progress of a job.

    Args:
        folder (`Path`): folder of the job; created if it is missing.

    Raises:
        JobError: another process works on the job.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = _lock(folder / "lock")
        if not (folder / JOB).exists():
            for name in _STATE:
                (folder / name).unlink(missing_ok=True)
        self.next = Position()
        self.rows = self.failed = 0
        self.seconds = 0.0
        self.sizes: dict[str, int] = {}
        self.note: dict[str, Any] = {}
        self.is_complete = False
        length = self._read()
        self._file = GrowingFile(folder / _JOURNAL, length)
        self._synced = time.monotonic()

    def _read(self) -> int:
        """Read all lines up to the first that is broken or names bytes that were lost. Returns their length."""
        path, length = self.folder / _JOURNAL, 0
        if not path.exists():
            return 0
        present: dict[str, int] = {}
        with path.open("rb") as file:
            for line in file:
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    entry = None
                if entry is None:
                    break
                if entry.get("complete"):
                    self.is_complete = True
                    length += len(line)
                    continue
                for name in entry["sizes"]:
                    if name not in present:
                        with contextlib.suppress(OSError):
                            present[name] = (self.folder / name).stat().st_size
                # a file that is not there was finished and moved; its sink looks for it
                if any(size > present.get(name, size) for name, size in entry["sizes"].items()):
                    break
                length += len(line)
                self.next = Position(entry["unit"], entry["block"] + 1)
                self.rows += entry["rows"]
                self.failed += entry["failed"]
                self.seconds += entry["seconds"]
                self.sizes, self.note = entry["sizes"], entry["note"]
        return length

    def check(self, identity: Mapping[str, Any]) -> None:
        """
        Check that this is the same job as the one in the folder, or write down what it is if there is none.

        Args:
            identity (`Mapping[str, Any]`): what identifies the job, as JSON.

        Raises:
            JobError: it is another job; the message names the differences.
        """
        path = self.folder / JOB
        wanted = json.loads(json.dumps({"version": _VERSION, **identity}))
        if not path.exists():
            with whole_file(path) as partial:
                partial.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise JobError(
                f"{path} is broken ({error}). Choose another output, or start over with --restart."
            ) from error
        if isinstance(found, Mapping) and found.get(_REMOVING):
            raise JobError(f"The job in {self.folder} was being removed by --restart. Start over with --restart again.")
        if changes := list(differences(found, wanted)):
            raise JobError(
                f"The job in {self.folder} was begun differently: {'; '.join(changes)}. Repeat the command that it"
                " was begun with, choose another output, or start over with --restart (restart=True)."
            )

    def begin_removal(self) -> Any:
        """
        Note that the job is going to be removed, so that no other run resumes what is left of it.

        Returns:
            What identifies the job, `None` if that cannot be read.
        """
        path, found = self.folder / JOB, None
        with contextlib.suppress(ValueError):
            found = json.loads(path.read_text(encoding="utf-8"))
        with whole_file(path) as partial:
            noted = {**(found if isinstance(found, Mapping) else {}), _REMOVING: True}
            partial.write_text(json.dumps(noted) + "\n", encoding="utf-8")
        return found

    def add(
        self,
        position: Position,
        rows: int,
        failed: int,
        seconds: float,
        sizes: Mapping[str, int],
        note: Mapping[str, Any],
    ) -> None:
        """
        Add a finished block.

        Args:
            position (`Position`): its place.
            rows (`int`): number of its items.
            failed (`int`): how many of them have no result.
            seconds (`float`): time since the block before.
            sizes (`Mapping[str, int]`): sizes of the growing files after it, by name.
            note (`Mapping[str, Any]`): what the output needs to be continued.
        """
        entry = {"unit": position.unit, "block": position.block, "rows": rows, "failed": failed}
        self._write({**entry, "seconds": round(seconds, 3), "sizes": dict(sizes), "note": dict(note)})
        self.next = Position(position.unit, position.block + 1)
        self.rows += rows
        self.failed += failed
        self.seconds += seconds
        self.sizes, self.note = dict(sizes), dict(note)

    def complete(self) -> None:
        """Note that all items are done and only the output has to be finished."""
        if not self.is_complete:
            self._write({"complete": True})
            self.is_complete = True

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()

    def is_sync_due(self) -> bool:
        """Whether the files should be on the disk before the next line. A killed process loses nothing without it."""
        due = time.monotonic() - self._synced >= _SYNC_SECONDS
        if due:
            self._synced = time.monotonic()
        return due

    @contextlib.contextmanager
    def held(self) -> Iterator["Journal"]:
        """Context manager that closes the journal at its end."""
        try:
            yield self
        finally:
            self.close()

    def close(self) -> None:
        """Close the journal and let others work on the job."""
        self._file.close()
        self._lock.close()


def _lock(path: Path) -> IO[bytes]:
    try:
        return lock_file(path)
    except BlockingIOError as error:
        raise JobError(
            f"Another process works on the job in {path.parent}. Wait until it has ended, or choose another output."
        ) from error


def differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """Differences of two JSON values, as texts; of long lists the first."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in dict.fromkeys([*found, *wanted]):
            yield from differences(found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    elif isinstance(found, list) and isinstance(wanted, list) and found != wanted and len(json.dumps(found)) > 80:
        if len(found) != len(wanted):
            yield f"{name} had {len(found)} entries, now it has {len(wanted)}"
        else:
            yield next(
                text for index, pair in enumerate(zip(found, wanted)) for text in differences(*pair, f"{name}[{index}]")
            )
    elif found != wanted:
        yield f"{name} was {_short(found)}, now it is {_short(wanted)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


__all__ = ["FILES", "JOB", "GrowingFile", "JobError", "Journal", "differences"]
