# SPDX-License-Identifier: Apache-2.0
"""Reading the records of one file: JSON, JSON Lines, CSV, Parquet, WebDataset shards, folders of classes.

A record is a dict as the file has it. [`modeling_lavis.data.rows`] makes a row of the contract of it.
"""

import csv
import json
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from modeling_lavis.data.columns import DataError, is_plain_integer
from modeling_lavis.files import parse_json
from modeling_lavis.files import read_json as parse_file
from modeling_lavis.import_utils import require

Record = Mapping[str, Any]

VIDEO_SUFFIXES = frozenset({".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm"})

_HEAD = 1 << 16  # bytes read to find the first record of a file, which may be large
_MAX_MEMBER = 1 << 30  # bytes of a file in a shard, which is read as a whole
_MAX_TAR_HEADER = 1 << 20  # bytes of a long name or of the properties of a file in a shard
_MAX_BATCH = 1 << 31  # bytes of a batch of rows of a Parquet file


@dataclass(frozen=True)
class SourceFile:
    """
    A file with records.

    Args:
        path (`str`): the file, or the folder of classes.
        kind (`str`): a key of [`READERS`].
        folder (`str`, *optional*): folder of relative paths in the file; defaults to that of the file.
        prefix (`str`, *optional*): only records whose `file_name` starts with it belong to the split.
    """

    path: str
    kind: str
    folder: str = ""
    prefix: str = ""

    @property
    def media_folder(self) -> str:
        """Folder of relative paths."""
        return self.folder or (self.path if self.kind == "classfolders" else os.path.dirname(self.path))

    @property
    def name(self) -> str:
        """Name for messages."""
        return os.path.basename(os.path.normpath(self.path))

    @property
    def is_textual(self) -> bool:
        """Whether all its values are texts, numbers and lists included."""
        return self.kind == "csv"

    def records(self) -> Iterator[tuple[str, Record]]:
        """
        Read the file.

        Yields:
            `tuple[str, Mapping[str, Any]]`: where the record is from, such as `train.json, row 17` (from 0), and the
            record.

        Raises:
            OSError: the file cannot be read. DataError: its content has another form.
        """
        for place, record in _raising(self.records_and_errors()):
            yield f"{self.name}, {place}", record

    def records_and_errors(self) -> Iterator[tuple[str, Record | DataError]]:
        """
        Read the file, and continue after lines of JSON or CSV that are not records.

        Yields:
            `tuple[str, Mapping[str, Any] | DataError]`: the place in the file, such as `row 17`, and the record or what
            is wrong with it.

        Raises:
            OSError, DataError: the rest of the file cannot be read.
        """
        try:
            for place, record in READERS[self.kind](self.path):
                if isinstance(record, DataError) or str(record.get("file_name", "")).startswith(self.prefix):
                    yield place, record
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path} is not text in UTF-8 ({error}); save it as UTF-8.") from error
        except csv.Error as error:
            if "field larger than field limit" in str(error):
                raise DataError(
                    f"{self.path} has a field of more than {csv.field_size_limit():,} characters, which Python's csv"
                    " does not read. Look for a quotation mark that is not closed, or raise csv.field_size_limit."
                ) from error
            raise DataError(f"{self.path} is not CSV: {error}. Save it again, as text in UTF-8.") from error


def _raising(found: Iterator[tuple[str, Record | DataError]]) -> Iterator[tuple[str, Record]]:
    for place, record in found:
        if isinstance(record, DataError):
            raise record
        yield place, record


def image_suffixes() -> frozenset[str]:
    """Suffixes of the image files that PIL reads, in lower case."""
    return frozenset(suffix for suffix, name in PIL.Image.registered_extensions().items() if name in PIL.Image.OPEN)


# ---- JSON ----


def read_json(path: str) -> Iterator[tuple[str, Record]]:
    """Records of a JSON file; `DataError` at the first that is none."""
    return _raising(_json_records(path))


def _json_records(path: str) -> Iterator[tuple[str, Record | DataError]]:
    """Records of a JSON list, or of JSON Lines under the name `.json`, as NLVR2 has them."""
    with open(path, encoding="utf-8-sig") as file:
        start = file.read(_HEAD).lstrip()[:1]
    if start != "[":
        yield from _json_lines(path)
        return
    content = load_json(path)
    for index, record in enumerate(content):
        yield f"row {index}", _checked(record, path, f"row {index}")


def load_json(path: str) -> Any:
    """
    Parse a JSON file.

    Raises:
        OSError: the file cannot be read. DataError: it is not JSON; the message has file, line and column.
    """
    try:
        return parse_file(path, limit=None)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error}); save it as UTF-8.") from error
    except ValueError as error:
        raise DataError(
            f"{path} is not valid JSON: {error}. The file may be incomplete: copy or download it again."
        ) from error


def _json_lines(path: str) -> Iterator[tuple[str, Record | DataError]]:
    """Records of JSON Lines: one object per line. A line that is none is an error in its place."""
    index = 0
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"row {index}", _json_line(line, path, number)
                index += 1


def _json_line(line: str, path: str, number: int) -> Record | DataError:
    try:
        if not line.isascii():
            line.encode()
        return _checked(parse_json(line), path, f"line {number}")
    except UnicodeEncodeError:
        return DataError(f"{path}, line {number} is not text in UTF-8; save it as UTF-8.")
    except ValueError as error:
        reason = str(error).replace(" in line 1,", ",")
        return DataError(
            f"{path}, line {number}: not valid JSON ({reason}). Expected a list of"
            " objects, or one object per line; give format= for the published files of another form."
        )


def _checked(record: Any, path: str, place: str) -> Record | DataError:
    if isinstance(record, Mapping):
        return record
    return DataError(
        f"{path}, {place}: got {str(record)[:60]!r}; expected an object with the columns of a row. Lists of answers"
        " or labels are not rows."
    )


# ---- tables ----


def _csv_records(path: str) -> Iterator[tuple[str, Record | DataError]]:
    """Records of a CSV file with a header (`.tsv`: separated by tabs); empty fields are `None`."""
    delimiter = "\t" if path.lower().endswith(".tsv") else ","
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        names = reader.fieldnames or []
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(
                f"{path}: the header has {', '.join(map(repr, twice))} twice; give each column its own name."
            )
        for index, record in enumerate(reader):
            if None in record or None in record.values():
                yield (
                    f"row {index}",
                    DataError(
                        f"{path}, row {index} (line {reader.line_num}): its number of fields is not that of the header"
                        f" {reader.fieldnames}; quote fields that contain {delimiter!r}."
                    ),
                )
            else:
                yield f"row {index}", {name: value if value != "" else None for name, value in record.items()}


def read_parquet(path: str) -> Iterator[tuple[str, Record]]:
    """Records of a Parquet file, a batch of rows in memory."""
    parquet: Any = require("pyarrow.parquet", extra="train", purpose="Parquet files")
    arrow: Any = require("pyarrow", extra="train")
    index = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                if batch.nbytes > _MAX_BATCH:
                    raise DataError(
                        f"{path}, rows from {index}: 256 rows have {batch.nbytes:,} bytes; expected at most"
                        f" {_MAX_BATCH:,}. Store large media as files."
                    )
                for record in batch.to_pylist():
                    yield f"row {index}", record
                    index += 1
    except DataError:
        raise
    except (arrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the file system
            raise
        raise DataError(f"{path} cannot be read as Parquet: {error}. Copy or download it again.") from error


# ---- WebDataset ----


def read_shard(path: str) -> Iterator[tuple[str, Record | DataError]]:
    """
    Records of a WebDataset shard: neighbouring files with one name and several extensions are a record.

    A sample with a file that cannot be read is an error in its place.

    `.json` gives the columns that it contains, images and videos are columns `image` and `video` as `{bytes, path}`, or
    `images` if there are several in a record; `.txt` is the column `caption`, `.cls` `label`, `.name.txt` and other
    extensions are columns of that name.
    """
    suffixes = image_suffixes()
    for key, members in shard_samples(path):
        try:
            yield f"sample {key}", sample_record(members, path, key, suffixes)
        except DataError as error:
            yield f"sample {key}", error


def shard_samples(path: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """
    The samples of a WebDataset shard as they are stored: the key of each, and the content of its files by extension.

    Raises:
        OSError: the file cannot be read. DataError: it is not a tar archive, or ends too early.
    """
    key, members = None, dict[str, bytes]()
    try:
        with tarfile.open(path, "r|*", tarinfo=_Member) as archive:
            for member in archive:
                _check_member(member, path)
                if not member.isfile() or os.path.basename(member.name).startswith("."):
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                member_key = f"{folder}/{stem}" if folder else stem
                if key is not None and member_key != key:
                    yield key, members
                    members = {}
                key = member_key
                content: Any = archive.extractfile(member)
                members[extension.lower()] = content.read()
    except DataError:
        raise
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"{path} cannot be read as a tar archive: {error}. Copy or download it again.") from error
    if key is not None:
        yield key, members


class _Member(tarfile.TarInfo):
    """A file in a shard, whose size is checked before its long name or its properties are read."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
        """Read a header."""
        member = super().frombuf(buf, encoding, errors)
        # GNU's long names, and the properties of POSIX
        if member.type in (b"K", b"L", b"x", b"g", b"X") and member.size > _MAX_TAR_HEADER:
            raise tarfile.ReadError(f"a header has {member.size:,} bytes; expected at most {_MAX_TAR_HEADER:,}")
        return member


def _check_member(member: tarfile.TarInfo, path: str) -> None:
    if member.issparse() or member.size > _MAX_MEMBER:
        what = "sparse" if member.issparse() else f"of {member.size:,} bytes"
        raise DataError(
            f"{path}: the file {member.name!r:.80} is {what}; expected at most {_MAX_MEMBER:,} bytes, all of"
            " them stored."
        )


def sample_record(members: Mapping[str, bytes], path: str, key: str, image_extensions: frozenset[str]) -> Record:
    """The record of a sample of [`shard_samples`], as [`read_shard`] has it; `DataError` if a file of it is broken."""
    record: dict[str, Any] = {}
    media: dict[str, dict[str, Any]] = {"image": {}, "video": {}}
    for extension, content in members.items():
        head, _, last = extension.rpartition(".")
        if f".{last}" in image_extensions or f".{last}" in VIDEO_SUFFIXES:
            kind = "video" if f".{last}" in VIDEO_SUFFIXES and last != "gif" else "image"
            media[kind][head or kind] = {"bytes": content, "path": f"{key}.{extension}"}
            continue
        try:
            if last == "json":
                parsed = parse_json(content)
                record.update(parsed if isinstance(parsed, Mapping) and not head else {head or "json": parsed})
            elif last in ("txt", "text", "caption"):
                record[head or "caption"] = content.decode("utf-8")
            elif last == "cls":
                label = content.decode("utf-8").strip()
                record[head or "label"] = int(label) if is_plain_integer(label) else label
        except ValueError as error:
            raise DataError(f"{path}, sample {key}: the file .{extension} cannot be read ({error}).") from error
    for kind, entries in media.items():
        record.update(entries)
        if len(entries) == 1:
            record.setdefault(kind, next(iter(entries.values())))
    if len(media["image"]) == 2:
        # left before right, 0 before 1
        record.setdefault("images", [media["image"][name] for name in sorted(media["image"])])
    return record


# ---- folders ----


def class_folders(path: Path) -> list[Path]:
    """The folders in a folder of classes, in order of their names, without hidden ones (`.ipynb_checkpoints`)."""
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def read_class_folders(path: str) -> Iterator[tuple[str, Record]]:
    """Records `{image, label}` of a folder with one folder of images per class, in order of their names."""
    suffixes = image_suffixes()
    for folder in class_folders(Path(path)):
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() in suffixes and not file.name.startswith("."):
                name = file.relative_to(path).as_posix()
                yield name, {"image": name, "label": folder.name}


READERS: dict[str, Callable[[str], Iterator[tuple[str, Record | DataError]]]] = {
    "json": _json_records,
    "jsonl": _json_lines,
    "csv": _csv_records,
    "parquet": read_parquet,
    "webdataset": read_shard,
    "classfolders": read_class_folders,
}
"""Readers by kind of file; they yield an error in the place of a line that is not a record."""

_SUFFIXES = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".tar.gz": "webdataset",
    ".tgz": "webdataset",
}


def kind_of(path: str) -> str | None:
    """The kind of a file by its suffix, `None` if it is none that is read here."""
    found = re.search(r"(\.tar\.gz|\.[^./\\]+)$", path.lower())
    return _SUFFIXES.get(found.group(1)) if found else None


def first_record(file: SourceFile) -> Record | None:
    """The first record of a file, without reading all of it; `None` if the file has none, or another form."""
    if file.kind == "json":
        with open(file.path, encoding="utf-8-sig", errors="replace") as opened:
            head = opened.read(_HEAD).lstrip()
        if head[:1] == "[":
            try:
                record, _ = json.JSONDecoder().raw_decode(head[1:].lstrip())
            except (ValueError, RecursionError):
                return None
            return record if isinstance(record, Mapping) else None
    try:
        return next((record for _, record in file.records()), None)
    except DataError:
        return None


__all__ = [
    "READERS",
    "VIDEO_SUFFIXES",
    "Record",
    "SourceFile",
    "first_record",
    "image_suffixes",
    "kind_of",
    "load_json",
    "sample_record",
    "shard_samples",
]
