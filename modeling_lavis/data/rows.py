# SPDX-License-Identifier: Apache-2.0
"""Records of files as rows of the contract: names and types of columns, paths of images and videos."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from modeling_lavis.data.columns import ORIGIN, PROBLEM, Column, DataError, TaskColumns, hash_id, is_plain_integer
from modeling_lavis.data.records import Record, SourceFile
from modeling_lavis.files import parse_json
from modeling_lavis.import_utils import require

ColumnNames = Mapping[str, str | Sequence[str] | None]

# names that Hugging Face's imagefolder and videofolder give to columns of paths
_FILE_NAME = "file_name"


def find_value(record: Record, column: Column, names: ColumnNames) -> tuple[bool, Any]:
    """
    The value of a column in a record.

    Args:
        record (`Mapping[str, Any]`): the record.
        column (`Column`): the column.
        names (`Mapping`): names of columns in the record, where they differ; several for `images`.

    Returns:
        `tuple[bool, Any]`: whether the record has the column, and the value.
    """
    name = names.get(column.name, column.name) if names else column.name
    if name is None:
        return False, None
    if not isinstance(name, str):
        return all(part in record for part in name), [record.get(part) for part in name]
    if name in record:
        return True, record[name]
    if column.kind in ("image", "images", "video") and column.name not in names:
        for alias in (f"{column.name}_{_FILE_NAME}", f"{column.name}_{_FILE_NAME}s", _FILE_NAME, f"{_FILE_NAME}s"):
            if alias in record:
                return True, record[alias]
    return False, None


def missing_columns(record: Record, task: TaskColumns, names: ColumnNames, targets: bool = True) -> list[str]:
    """Names of the needed columns that a record lacks; columns that the user left out are not missing."""
    left_out = {name for name, value in names.items() if value is None}
    return [
        column.name
        for column in task.needed(targets)
        if column.name not in left_out and not find_value(record, column, names)[0]
    ]


@dataclass(frozen=True)
class RowMaker:
    """
    Makes rows of records.

    Args:
        task (`TaskColumns`): the task.
        names (`Mapping`, *optional*): names of columns in the records, where they differ.
        media_root (`str`, *optional*): folder of images and videos; by default that of the file that names them.
        keep (`tuple[str, ...]`, *optional*): further columns of the records to keep.
        targets (`bool`, *optional*, defaults to `True`): whether a record needs the columns for training and scores.
        trusted (`bool`, *optional*, defaults to `False`): whether to take paths as they are: the user's own objects.
    """

    task: TaskColumns
    names: ColumnNames = field(default_factory=dict)
    media_root: str | None = None
    keep: tuple[str, ...] = ()
    targets: bool = True
    trusted: bool = False

    @cached_property
    def _needed(self) -> set[str]:
        left_out = {name for name, value in self.names.items() if value is None}
        return {column.name for column in self.task.needed(self.targets)} - left_out

    def __call__(self, record: Record, origin: str, folder: str = "", textual: bool = False) -> dict[str, Any]:
        """
        Make a row.

        Args:
            record (`Mapping[str, Any]`): the record.
            origin (`str`): where it is from.
            folder (`str`, *optional*): folder of relative paths, without a `media_root`.
            textual (`bool`, *optional*, defaults to `False`): whether numbers and lists are written as texts (CSV).

        Returns:
            `dict[str, Any]`: all columns of the task, `None` for those that the record lacks.

        Raises:
            DataError: a column is missing, has a wrong type, or a path leaves its folder.
        """
        row: dict[str, Any] = {}
        missing = []
        for column in self.task.columns:
            found, value = find_value(record, column, self.names)
            if not found and column.name in self._needed:
                missing.append(column.name)
            try:
                row[column.name] = None if value is None else self._value(column, value, folder, textual)
            except (TypeError, ValueError, RecursionError) as error:
                raise DataError(f"{_printable(origin)}, column {column.name!r}: {error}") from error
        if missing:
            raise DataError(
                f"{origin}: the column{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))} of the task"
                f" {self.task.task!r} {'are' if len(missing) > 1 else 'is'} missing; the row has {sorted(record)}. Give"
                f" the name in the file as columns={{{missing[0]!r}: ...}}, or None if there is none."
            )
        self._add_media_id(row, record)
        row.update({name: record.get(name) for name in self.keep})
        row[ORIGIN] = _printable(origin)
        return row

    def problem(self, message: str, origin: str) -> dict[str, Any]:
        """A row that stands for a record that is not a row, for `on_bad_row="keep"`."""
        empty = dict.fromkeys([*self.task.names, *self.keep])
        return {**empty, ORIGIN: _printable(origin), PROBLEM: _printable(message)}

    def _add_media_id(self, row: dict[str, Any], record: Record) -> None:
        """Images and videos without an id get their path, as it is written, so that rows of one are positives."""
        media = self.task.media
        name = f"{media.name}_id"
        if name in self.task.names and row[name] is None and self.names.get(name, name) is not None:
            _, value = find_value(record, media, self.names)
            if isinstance(value, Mapping) and value.get("bytes") is None:
                value = value.get("path")
            row[name] = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None

    def _value(self, column: Column, value: Any, folder: str, textual: bool) -> Any:
        if isinstance(value, np.ndarray) and column.kind not in ("image", "video"):
            value = value.tolist()
        if isinstance(value, np.generic):
            value = value.item()
        if column.kind in ("image", "video"):
            return self.medium(value, folder)
        if column.kind == "images":
            if textual and isinstance(value, str):
                value = _json_list(value)
            if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or len(value) != 2:
                raise ValueError(f"got {str(value)[:80]!r}; expected a list of two images, left and right.")
            return [self.medium(entry, folder) for entry in value]
        return _CONVERTERS[column.kind](value, textual)

    def medium(self, value: Any, folder: str) -> Any:
        """An image or a video: paths are made absolute, encoded bytes become `{bytes, path}`, others are unchanged."""
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": bytes(value), "path": None}
        if isinstance(value, Mapping):
            if value.get("bytes") is not None:
                return {"bytes": value["bytes"], "path": value.get("path")}
            value = value.get("path")
        if isinstance(value, (str, os.PathLike)):
            return self.path(os.fspath(value), folder)
        if value is None:
            raise ValueError("it is empty; expected a path or encoded bytes.")
        if self.trusted:
            return value
        raise ValueError(f"got {type(value).__name__}; expected a path, or encoded bytes.")

    def path(self, path: str, folder: str) -> str:
        """
        The absolute path of an image or a video.

        A file may name paths below its own folder, or below `media_root`, and nothing else: neither `..` and absolute
        paths that lead out of it, nor URLs. Links of the file system are followed. Paths of the user's own objects are
        not restricted.

        Raises:
            ValueError: the path is empty, leads out of its folder, or is a URL.
        """
        if not path.strip():
            raise ValueError("the path is empty.")
        _check_unicode(path)
        if path.startswith("data:"):
            return path
        if "://" in path:
            if self.trusted:
                return path
            raise ValueError(
                f"{path[:80]!r} is a URL, and files of a data set name files. Download the media, for example with"
                " img2dataset into WebDataset shards, and load those."
            )
        if self.trusted and self.media_root is None:
            return path
        root = self.media_root if self.media_root is not None else folder
        if ".." not in path and os.path.isabs(root) and path[0] not in "/\\~" and ":" not in path:
            return f"{root.rstrip('/')}/{path}" if os.sep == "/" else os.path.normpath(os.path.join(root, path))
        root = os.path.abspath(root)
        full = os.path.normpath(os.path.join(root, path))
        if not self.trusted and full != root and not full.startswith(os.path.join(root, "")):
            raise ValueError(
                f"the path {path!r} leads out of {root}. If it is to be read, give the folder that contains all media"
                " as media_root=; media_root='/' allows all paths."
            )
        return full


# ---- values ----


def _check_unicode(text: str) -> None:
    """Raise `ValueError` for halves of surrogate pairs, which JSON can have and UTF-8 cannot."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"got {text[:60]!r}, which is not valid Unicode ({error.reason}).") from error


def _printable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _json_list(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def _text(value: Any, textual: bool) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"got {type(value).__name__} {str(value)[:60]!r}; expected a text.")
    _check_unicode(value)
    return value


def _texts(value: Any, textual: bool) -> str | list[str]:
    if textual and isinstance(value, str) and value.lstrip().startswith("["):
        parsed = _json_list(value)
        value = parsed if isinstance(parsed, list) else value
    if type(value) is list and all(type(entry) is str and entry.isascii() for entry in value):
        return value  # nearly always
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_text(entry, textual) for entry in value]
    return _text(value, textual)


def _id_or_label(value: Any, textual: bool) -> int | str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if textual and isinstance(value, str) and is_plain_integer(value):
        value = int(value)
    if isinstance(value, str):
        _check_unicode(value)
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"got an integer of {value.bit_length()} bits; expected at most 64.")
        return value
    raise ValueError(f"got {type(value).__name__} {str(value)[:60]!r}; expected an integer or a name.")


def _number(value: Any, textual: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or (isinstance(value, str) and not textual):
        raise ValueError(f"got {str(value)[:60]!r}; expected a number.")
    return float(value)


def _numbers(value: Any, textual: bool) -> float | list[float]:
    if textual and isinstance(value, str):
        value = _json_list(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_number(entry, textual) for entry in value]
    return _number(value, textual)


_CONVERTERS = {
    "text": _text,
    "texts": _texts,
    "label": _id_or_label,
    "id": _id_or_label,
    "number": _number,
    "numbers": _numbers,
}


# ---- types of columns ----


@dataclass
class ColumnTypes:
    """
    Types of the columns of a data set, found by looking at its rows; a column has one type in all of them.

    Args:
        task (`TaskColumns`): the task.
        keep (`tuple[str, ...]`, *optional*): further columns.
    """

    task: TaskColumns
    keep: tuple[str, ...] = ()
    has_problems: bool = False
    seen: dict[str, set[str]] = field(default_factory=dict)
    kept_values: dict[str, list[Any]] = field(default_factory=dict)

    def look_at(self, row: Mapping[str, Any]) -> None:
        """Take note of the types of a row's values."""
        if PROBLEM in row:
            self.has_problems = self.has_problems or row[PROBLEM] is not None
        for column in self.task.columns:
            value = row.get(column.name)
            if value is not None:
                found = self.seen.setdefault(column.name, set())
                if column.kind == "images":
                    found.update(_type_of(entry) for entry in value)
                else:
                    found.add(_type_of(value))
        self.keep_values(row)

    def keep_values(self, row: Mapping[str, Any]) -> None:
        """Keep a row's values of further columns, to find their types."""
        for name in self.keep:
            self.kept_values.setdefault(name, []).append(row.get(name))

    def add(self, other: "ColumnTypes") -> None:
        """Add what was found in other rows."""
        self.has_problems = self.has_problems or other.has_problems
        for name, found in other.seen.items():
            self.seen.setdefault(name, set()).update(found)

    def is_mixed(self) -> bool:
        """Whether a column has values of several types, which are to be converted."""
        return any(len(found) > 1 for found in self.seen.values())

    def has_bytes(self) -> bool:
        """Whether images or videos are given by their content."""
        return self.seen.get(self.task.media.name, set()) - {"text"} != set()

    def features(self) -> Any:
        """The types as `datasets.Features`."""
        datasets: Any = require("datasets", extra="train", purpose="data sets")
        text = datasets.Value("string")
        found: dict[str, Any] = {}
        for column in self.task.columns:
            seen = self.seen.get(column.name, set())
            is_list = "list" in seen
            if column.kind in ("image", "images", "video"):
                if not self.has_bytes():
                    entry = text
                elif column.kind == "video" and not is_list:
                    entry = datasets.Video(decode=False)
                else:
                    entry = datasets.Image(decode=False)
                found[column.name] = datasets.List(entry) if is_list or column.kind == "images" else entry
            elif not seen:
                continue  # no row has it
            elif column.kind in ("id", "label"):
                found[column.name] = datasets.Value("int64") if seen == {"integer"} else text
            else:
                entry = datasets.Value("float64") if column.kind in ("number", "numbers") else text
                found[column.name] = datasets.List(entry) if is_list else entry
        for name, values in self.kept_values.items():
            if any(value is not None for value in values):
                found[name] = datasets.Dataset.from_dict({name: values}).features[name]
        found[ORIGIN] = text
        if self.has_problems:
            found[PROBLEM] = text
        return datasets.Features(found)

    def convert(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        A row with values of these types.

        Raises:
            DataError: the row has a value of another type, which the rows looked at did not have.
        """
        converted: dict[str, Any] = {}
        has_bytes = self.has_bytes()
        media, is_problem = self.task.media.name, row.get(PROBLEM) is not None
        for name in [*self.task.names, *self.keep]:
            value, seen = row.get(name), self.seen.get(name, set())
            if name == f"{media}_id" and value is None and seen and not is_problem:
                # collators need an id in all rows or in none
                value = content_id(row.get(media), str(row.get(ORIGIN)))
                value = value if "text" in seen else hash_id(value)
            if name in self.task.names and value is not None and name != self.task.media.name:
                kind = _type_of(value)
                if "list" in seen and kind != "list":
                    value = [value]
                elif "text" in seen and kind == "integer":
                    value = str(value)
                elif kind not in seen:
                    raise DataError(
                        f"{row.get(ORIGIN)}, column {name!r}: got {str(value)[:60]!r}, but the first rows have"
                        f" {' or '.join(sorted(seen)) or 'no value'}. Give all rows the same type, or load the data"
                        " without streaming, where all rows are looked at first."
                    )
            if seen or name in self.kept_values:
                converted[name] = value
        if has_bytes and media in converted:
            value = converted[media]
            converted[media] = [_as_file(entry) for entry in value] if isinstance(value, list) else _as_file(value)
        converted[ORIGIN] = row.get(ORIGIN)
        if self.has_problems:
            converted[PROBLEM] = row.get(PROBLEM)
        return converted


def content_id(medium: Any, otherwise: str) -> str:
    """
    An id of an image or a video that has none, where others have one: equal contents have equal ids.

    Args:
        medium: a path, `{"bytes", "path"}`, a list of them, or an object.
        otherwise (`str`): the id of an object.
    """
    if isinstance(medium, str):
        return medium
    if isinstance(medium, Mapping):
        content = medium.get("bytes")
        return str(medium.get("path")) if content is None else f"sha1:{hashlib.sha1(content).hexdigest()}"
    if isinstance(medium, list) and all(isinstance(entry, (str, Mapping)) for entry in medium):
        return content_id({"bytes": "\n".join(content_id(entry, "") for entry in medium).encode()}, "")
    return otherwise


def _as_file(value: Any) -> Any:
    return {"bytes": None, "path": value} if isinstance(value, str) else value


_NAMES_OF_TYPES = {str: "text", int: "integer", float: "number", list: "list"}


def _type_of(value: Any) -> str:
    return _NAMES_OF_TYPES.get(type(value), "content")


def rows_of(
    files: Iterable[SourceFile], maker: RowMaker, types: ColumnTypes | None = None, on_bad_row: str = "raise"
) -> Any:
    """
    The rows of files, one after the other.

    With `on_bad_row="keep"`, lines, samples and files that cannot be read are rows with a problem, too.

    Args:
        files (`Iterable[SourceFile]`): the files.
        maker (`RowMaker`): makes rows of their records.
        types (`ColumnTypes`, *optional*): types to convert to.
        on_bad_row (`str`, *optional*, defaults to `"raise"`): `"raise"`, or `"keep"` a row with its problem.

    Yields:
        `dict[str, Any]`: rows.
    """
    has_rows = types is not None
    for file in files:
        folder = os.path.abspath(file.media_folder)
        for place, record in _records(file, on_bad_row == "keep"):
            origin = f"{file.name}, {place}" if place else file.name
            try:
                if isinstance(record, Exception):
                    raise record
                row = maker(record, origin, folder, file.is_textual)
                yield row if types is None else types.convert(row)
            except (DataError, OSError) as error:
                # a source of which nothing can be read is a wrong source, not one with bad rows
                if on_bad_row == "raise" or not (place or has_rows):
                    raise
                bad = maker.problem(str(error), origin)
                yield bad if types is None else types.convert(bad)
            has_rows = True


def _records(file: SourceFile, keep: bool) -> Iterator[tuple[str, Record | Exception]]:
    """
    Records of a file, and errors in the place of those that are none.

    With `keep`, an error that ends the file is the last of them, without a place.
    """
    try:
        yield from file.records_and_errors()
    except (DataError, OSError) as error:
        if not keep:
            raise
        yield "", error


__all__ = ["ColumnNames", "ColumnTypes", "RowMaker", "content_id", "find_value", "missing_columns", "rows_of"]
