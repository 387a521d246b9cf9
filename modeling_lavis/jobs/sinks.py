# SPDX-License-Identifier: Apache-2.0
"""Where the results of a job go.

Every form keeps a log of records in the folder of the job, which grows block by block and can be cut. At the end it is
moved to its place or converted.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from modeling_lavis.import_utils import require
from modeling_lavis.jobs.items import Result
from modeling_lavis.jobs.journal import GrowingFile, JobError
from modeling_lavis.jobs.tasks import finite

RECORDS = "records.jsonl"
_TEXTS = "texts.jsonl"  # what text files were written, noted before, so that they can be removed
_ROW_GROUP = 10_000  # rows of a row group of Parquet, which are in memory at a time
_LONGEST_NAME = 255  # bytes of a file name
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def as_line(value: Mapping[str, Any]) -> bytes:
    """
    A record as a line of JSON Lines, in ASCII: names of files that are not valid Unicode survive in it. Numbers that
    JSON does not have, such as NaN, are `null`.
    """
    try:
        text = json.dumps(value, default=_plain, allow_nan=False)
    except ValueError:
        text = json.dumps(finite(value), default=_plain, allow_nan=False)
    return text.encode("ascii") + b"\n"


def _plain(value: Any) -> Any:
    """JSON for values of columns that have none of their own: arrays and numbers of NumPy, times, bytes."""
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, (bytes, bytearray)):
        raise TypeError("bytes have no form in JSON")
    return str(value)


def with_kept(record: Mapping[str, Any], fields: Mapping[str, Any], keep: Iterable[str]) -> dict[str, Any]:
    """
    A record with columns of the input. One whose name is taken is called `original_NAME`.

    Args:
        record (`Mapping[str, Any]`): the record.
        fields (`Mapping[str, Any]`): columns of the input.
        keep (`Iterable[str]`): names of those that are kept.
    """
    kept: dict[str, Any] = {}
    for column in keep:
        if column in fields:
            name = column
            while name in record or name in kept:
                name = f"original_{name}"
            kept[name] = fields[column]
    return {**kept, **record}


class Sink:
    """
    Base class of the forms of output.

    Args:
        output (`Path`): what the user named.
        folder (`Path`): folder of the job.
        keep (`Sequence[str]`, *optional*): further columns of the input that records get.
        text (`str`, *optional*): column of the record that stands for it in a text file.
    """

    #: whether the output is a folder
    is_folder = False

    def __init__(self, output: Path, folder: Path, keep: Sequence[str] = (), text: str | None = None) -> None:
        self.output, self.folder, self.keep, self.text = output, folder, tuple(keep), text
        self.files: dict[str, GrowingFile] = {}

    def check(self) -> None:
        """
        Check that a new job may write its output.

        Raises:
            JobError: something is in its place. OSError: it cannot be written there.
        """
        if self.output.exists():
            raise JobError(
                f"{self.output} exists already, and is not of this job. Choose another output, or remove it."
            )
        self.output.absolute().parent.mkdir(parents=True, exist_ok=True)

    def discard(self) -> None:
        """Remove the output of an earlier run of the job."""
        if self.output.is_file():
            self.output.unlink()

    def is_present(self) -> bool:
        """Whether the output of a finished job is still there."""
        return self.output.exists()

    def open(self, sizes: Mapping[str, int], note: Mapping[str, Any]) -> None:
        """
        Open the files at the lengths that the journal has.

        Args:
            sizes (`Mapping[str, int]`): sizes by name; empty for a new job.
            note (`Mapping[str, Any]`): what `note` returned after the last block.
        """
        for name in (RECORDS, "failures.jsonl"):
            self._open(name, sizes.get(name, 0))

    def _open(self, name: str, size: int) -> GrowingFile:
        path = self.folder / name
        if size and not path.exists():
            raise JobError(f"{path} is missing, without which the job cannot be resumed. Start over with --restart.")
        self.files[name] = GrowingFile(path, size)
        return self.files[name]

    def write(self, results: Sequence[Result]) -> int:
        """Write the results of a block, and return how many of them are failures."""
        failed = 0
        for result in results:
            error, record = result.error, None
            if error is None:
                try:
                    record = as_line(self.record(result))
                    self.add(result)
                except (OSError, ValueError, TypeError) as problem:
                    if is_disk_full(problem):
                        raise
                    error = str(problem)
            if error is None and record is not None:
                self.files[RECORDS].write(record)
            else:
                failed += 1
                self.files["failures.jsonl"].write(as_line({"file": result.item.name, "error": error}))
        return failed

    def record(self, result: Result) -> dict[str, Any]:
        """The record of a result, with the columns of the input that are kept."""
        return with_kept(result.record or {}, result.item.fields, self.keep)

    def add(self, result: Result) -> None:
        """What a form of output writes for a result in addition to its record; an error makes the result a failure."""

    def sizes(self) -> dict[str, int]:
        """Sizes of the growing files."""
        return {name: file.flush() for name, file in self.files.items()}

    def note(self) -> dict[str, Any]:
        """What [`open`] needs in addition to the sizes."""
        return {}

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        for file in self.files.values():
            file.sync()

    def close(self) -> None:
        """Close the files."""
        for file in self.files.values():
            file.close()

    def finish(self, sizes: Mapping[str, int], note: Mapping[str, Any]) -> None:
        """
        Put the output in its place, after [`close`] or without [`open`]. Called again if the process ends before it
        returns; `sizes` and `note` are those of the last block.
        """
        raise NotImplementedError


class JsonLines(Sink):
    """A file of JSON Lines, one per result."""

    def finish(self, sizes: Mapping[str, int], note: Mapping[str, Any]) -> None:
        if (self.folder / RECORDS).exists():
            os.replace(self.folder / RECORDS, self.output)


class Parquet(Sink):
    """
    A Parquet file. Columns have the types that hold all their values. A column with values of several kinds, which
    Parquet does not have, has texts: JSON for what was none.
    """

    def finish(self, sizes: Mapping[str, int], note: Mapping[str, Any]) -> None:
        arrow: Any = require("pyarrow", extra="train", purpose="Parquet files")
        parquet: Any = require("pyarrow.parquet", extra="train")
        if not (self.folder / RECORDS).exists():
            return
        types: dict[str, Any] = {}  # `None` for a column that is written as text
        for chunk in self._chunks():
            for name in dict.fromkeys(name for row in chunk for name in row):
                types[name] = _common_type(types.get(name, arrow.null()), [row.get(name) for row in chunk], arrow)
        texts = [name for name, kind in types.items() if kind is None]
        fields = [arrow.field(name, arrow.string() if kind is None else kind) for name, kind in types.items()]
        schema = arrow.schema([_single_precision(field, arrow) for field in fields] or [("file", arrow.string())])
        # under a fixed name in the folder of the job, so that a process that is killed leaves nothing beside the output
        partial = self.folder / "output.partial"
        with parquet.ParquetWriter(partial, schema) as writer:
            for chunk in self._chunks():
                rows = [{**row, **{name: _as_text(row.get(name)) for name in texts}} for row in chunk]
                writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
        os.replace(partial, self.output)
        (self.folder / RECORDS).unlink()

    def _chunks(self) -> Iterator[list[dict[str, Any]]]:
        with (self.folder / RECORDS).open("rb") as file:
            while lines := list(islice(file, _ROW_GROUP)):
                yield [_valid_text(json.loads(line)) for line in lines]


def _common_type(known: Any, values: list[Any], arrow: Any) -> Any:
    """The type that holds the values and those of a type that is known; `None` if there is none."""
    if known is None:
        return None
    try:
        found = arrow.schema([("", arrow.array(values).type)])
        (unified,) = arrow.unify_schemas([arrow.schema([("", known)]), found], promote_options="permissive").types
    except (arrow.ArrowException, OverflowError, TypeError):
        return None
    return None if arrow.types.is_struct(unified) and unified.num_fields == 0 else unified


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _single_precision(field: Any, arrow: Any) -> Any:
    """Features as float32, which they were computed in; those of several query tokens are lists of lists."""

    def single(kind: Any) -> Any:
        if arrow.types.is_list(kind):
            return arrow.list_(single(kind.value_type))
        return arrow.float32() if arrow.types.is_floating(kind) else kind

    return field.with_type(single(field.type)) if field.name.endswith("_features") else field


def _valid_text(value: Any) -> Any:
    """A value whose texts are valid Unicode, which names of files need not be."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, list):
        return value if value and isinstance(value[0], float) else [_valid_text(entry) for entry in value]
    return {name: _valid_text(entry) for name, entry in value.items()} if isinstance(value, dict) else value


class _BesideFiles(Sink):
    """Base of the forms that belong to a folder of images or videos: `output` is that folder."""

    is_folder = True

    def check(self) -> None:
        if self.output.exists() and not self.output.is_dir():
            raise JobError(f"{self.output} is not a folder. Give the folder of the images, or another one.")
        self.output.mkdir(parents=True, exist_ok=True)
        if not os.access(self.output, os.W_OK):
            raise JobError(f"{self.output} cannot be written to. Give --output another folder, or write JSON Lines.")

    def relative(self, result: Result) -> str:
        """Path of an input in the folder of the output, with `/`."""
        source = next((result.item.row[name] for name in ("image", "video") if name in result.item.row), None)
        # the path of a content that is stored in a table or a shard names no file
        path = source.get("path") if isinstance(source, Mapping) and source.get("bytes") is None else source
        if not isinstance(path, (str, os.PathLike)) or "://" in os.fspath(path):
            raise ValueError(f"{result.item.name} is not a file; write JSON Lines, Parquet or WebDataset shards.")
        return Path(os.path.relpath(path, self.base())).as_posix()

    def base(self) -> Path:
        """Folder that names are relative to."""
        return self.output


class Metadata(_BesideFiles):
    """`metadata.jsonl` in the folder of the images, as `load_dataset("imagefolder")` reads it."""

    def check(self) -> None:
        super().check()
        found = [
            name for name in ("metadata.jsonl", "metadata.csv", "metadata.parquet") if (self.output / name).exists()
        ]
        if found:
            raise JobError(
                f"{self.output} has {found[0]} already. Move it away, or write JSON Lines, Parquet or text files."
            )

    def discard(self) -> None:
        (self.output / "metadata.jsonl").unlink(missing_ok=True)

    def is_present(self) -> bool:
        return (self.output / "metadata.jsonl").exists()

    def record(self, result: Result) -> dict[str, Any]:
        name = self.relative(result)
        if name.startswith("../"):
            raise ValueError(
                f"{result.item.name} is not in {self.output}, whose metadata.jsonl names files in it only."
            )
        try:
            name.encode()
        except UnicodeEncodeError as error:  # readers of JSON refuse the whole file for it
            raise ValueError(f"{name!r} is not valid Unicode, which metadata.jsonl needs. Rename the file.") from error
        record = super().record(result)
        record.pop("file", None)
        record.pop("file_name", None)
        return {"file_name": name, **record}

    def finish(self, sizes: Mapping[str, int], note: Mapping[str, Any]) -> None:
        if (self.folder / RECORDS).exists():
            os.replace(self.folder / RECORDS, self.output / "metadata.jsonl")


class TextFiles(_BesideFiles):
    """
    A text file for each image, with its name and the suffix `.txt`, as trainers of diffusion models read them. Scores
    are in the records in the folder of the job.

    Args:
        root (`Path`, *optional*): folder of the inputs, whose structure the output has; `output` by default.
    """

    def __init__(self, *args: Any, root: Path | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.root = root

    def open(self, sizes: Mapping[str, int], note: Mapping[str, Any]) -> None:
        super().open(sizes, note)
        size = sizes.get(_TEXTS, 0)
        for path, content in self._logged(size):  # written after the last line of the journal
            self._partial(path).unlink(missing_ok=True)
            _unlink_if(path, content)
        self._open(_TEXTS, size)

    def _logged(self, start: int = 0) -> Iterator[tuple[Path, bytes]]:
        """The text files that the job wrote or was about to write, from a place in the list of them on."""
        if not (self.folder / _TEXTS).exists():
            return
        with (self.folder / _TEXTS).open("rb") as file:
            file.seek(start)
            for line in file:
                with contextlib.suppress(ValueError):  # a line that was written half
                    entry = json.loads(line)
                    yield self.output / entry["text"], entry["content"].encode()

    def base(self) -> Path:
        return self.output if self.root is None else self.root

    def add(self, result: Result) -> None:
        name = self.relative(result)
        if name.startswith("../"):
            raise ValueError(f"{result.item.name} is not in {self.base()}, so that there is no place for its text.")
        path = self._path(name)
        if len(os.fsencode(path.name)) > _LONGEST_NAME:
            raise ValueError(f"{path} has a longer name than files may have.")
        content = self._content(result.record or {})
        if path.exists():
            # from an image with another suffix, or from the user
            if path.read_bytes() != content:
                raise ValueError(f"{path} exists already, with another text. Move it away to have it written.")
            return
        entry = {"text": path.relative_to(self.output).as_posix(), "content": content.decode()}
        self.files[_TEXTS].write(as_line(entry))
        self.files[_TEXTS].flush()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._partial(path)
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def _partial(self, path: Path) -> Path:
        return path.with_name(f"{self.folder.name}.partial")  # hidden, and short enough beside any other name

    def _path(self, name: str) -> Path:
        return (self.output / name).with_suffix(".txt")

    def _content(self, record: Mapping[str, Any]) -> bytes:
        return f"{record[self.text or '']}\n".encode()

    def discard(self) -> None:
        """Remove the text files that the earlier run wrote, if they still have its texts."""
        for path, content in self._logged():
            _unlink_if(path, content)

    def finish(self, sizes: Mapping[str, int], note: Mapping[str, Any]) -> None:
        """Nothing is left to do."""


def _unlink_if(path: Path, content: bytes) -> None:
    """Remove a file if it has this content."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == content:
            path.unlink()


def is_disk_full(error: BaseException) -> bool:
    """Whether an error is about the disk and not about an input."""
    return isinstance(error, OSError) and error.errno in _OF_THE_DISK


__all__ = ["RECORDS", "JsonLines", "Metadata", "Parquet", "Sink", "TextFiles", "as_line", "is_disk_full"]
