# SPDX-License-Identifier: Apache-2.0
"""Where the items of a job come from: lists of files, tables, WebDataset shards, data sets and streams.

Every source gives the same blocks whenever it is read, from any place on.
"""

import contextlib
import itertools
import json
import os
import tarfile
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from modeling_lavis.data.columns import DataError
from modeling_lavis.data.media_files import URLS, InputFile, iterate_inputs
from modeling_lavis.data.records import SourceFile, image_suffixes, sample_record, shard_samples
from modeling_lavis.files import whole_file
from modeling_lavis.import_utils import require
from modeling_lavis.jobs.columns import ItemMaker, file_item
from modeling_lavis.jobs.identity import rows_digest
from modeling_lavis.jobs.items import START, WHOLE, Block, Item, Position, Shard

_READ_ROWS = 64  # rows of a table that are in memory at a time
_UNREADABLE = (OSError, ValueError, EOFError, zlib.error)


class Source:
    """
    Base class of the sources. A subclass reads a collection in units, each of which can be read alone.
    """

    #: whether blocks are found only by reading everything before them
    is_one_pass = False

    def describe(self) -> dict[str, Any]:
        """What identifies the collection, as JSON; a job is not resumed with another one."""
        raise NotImplementedError

    def count(self, size: int, shard: Shard = WHOLE) -> int | None:
        """Number of items of a part in blocks of `size` items, `None` if it is known only at the end."""
        return None

    def units(self, size: int) -> Iterable[int]:
        """Numbers of the units, for blocks of `size` items."""
        raise NotImplementedError

    def read(self, unit: int, size: int, skip: int) -> Iterator[Item]:
        """The items of a unit, without the first `skip`."""
        raise NotImplementedError

    def blocks(self, size: int, start: Position = START, shard: Container[int] = WHOLE) -> Iterator[Block]:
        """
        The blocks of the collection.

        Args:
            size (`int`): items per block; the last block of a unit may have fewer.
            start (`Position`, *optional*): where to begin.
            shard (`Shard` or `Container[int]`, *optional*): the units to read; all by default.
        """
        for unit in self.units(size):
            if unit < start.unit or unit not in shard:
                continue
            first = start.block if unit == start.unit else 0
            items = self.read(unit, size, first * size)
            for number in itertools.count(first):
                block = list(itertools.islice(items, size))
                if not block:
                    break
                yield Block(Position(unit, number), block)


@dataclass(frozen=True)
class Blocks:
    """
    The blocks of a source from some place on. They can be iterated over where the source can be read, also in another
    process.

    Args:
        source (`Source`): the source.
        size (`int`): items per block.
        start (`Position`, *optional*): where to begin.
        shard (`Shard` or `Container[int]`, *optional*): the units to read; all by default.
    """

    source: Source
    size: int
    start: Position = START
    shard: Container[int] = WHOLE

    def __iter__(self) -> Iterator[Block]:
        return self.source.blocks(self.size, self.start, self.shard)

    def runs(self, most: int) -> "list[Blocks]":
        """The same in at most `most` parts of neighbouring units that can be read at the same time, in order."""
        if self.source.is_one_pass:
            return [self]
        units = [unit for unit in self.source.units(self.size) if unit >= self.start.unit and unit in self.shard]
        length = -(-len(units) // most) or 1
        return [replace(self, shard=frozenset(units[first : first + length])) for first in range(0, len(units), length)]


class FileList(Source):
    """
    Files and URLs, as a list that is written once: files that come or go later do not change a job that has begun.

    Args:
        path (`Path`): the list, one JSON array `[name, error]` per line; written by [`write_file_list`].
        modality (`str`): `"image"` or `"video"`.
    """

    is_one_pass = True

    def __init__(self, path: Path, modality: str) -> None:
        self.path, self.modality = path, modality
        digest = sha256()
        self._count = 0
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                self._count += 1
        self._digest = digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        return {"kind": "files", "count": self._count, "sha256": self._digest}

    def count(self, size: int, shard: Shard = WHOLE) -> int:
        return _count_of_blocks(self._count, size, shard)

    def units(self, size: int) -> Iterable[int]:
        return range(-(-self._count // size))

    def blocks(self, size: int, start: Position = START, shard: Container[int] = WHOLE) -> Iterator[Block]:
        """As in the base class, in one pass over the list."""
        with self.path.open(encoding="utf-8") as file:
            for unit in self.units(size):
                lines = list(itertools.islice(file, size))
                if Position(unit) >= start and unit in shard:
                    yield Block(Position(unit), [self._item(line) for line in lines])

    def _item(self, line: str) -> Item:
        name, error = json.loads(line)
        return file_item(name, self.modality, error)

    def only_error(self) -> str | None:
        """Why there is nothing to open, if that is so for all entries: the first reason."""
        first = None
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                _, error = json.loads(line)
                if error is None:
                    return None
                first = first or error
        return first


def _count_of_blocks(total: int, size: int, shard: Shard) -> int:
    """Number of items of a part, if each block is a unit."""
    return sum(min(size, total - first) for unit, first in enumerate(range(0, total, size)) if unit in shard)


def write_file_list(path: Path, arguments: Iterable[str], modality: str) -> int:
    """
    List the files that arguments name, each once, in the order of the arguments.

    Args:
        path (`Path`): file to write.
        arguments (`Iterable[str]`): files, folders, globs, URLs, and `@FILE`, a list of files and URLs, one per line.
        modality (`str`): `"image"` or `"video"`: what is collected from folders.

    Returns:
        `int`: how many names were left out, because they were named before.

    Raises:
        OSError: a list cannot be read.
    """
    arguments = list(arguments)
    # a folder names nothing twice, so the names of a large one need not be remembered
    seen: set[str] | None = None if len(arguments) == 1 and os.path.isdir(arguments[0]) else set()
    left_out = 0
    with whole_file(path) as partial, partial.open("x", encoding="ascii") as file:
        for entry in _listed(arguments, modality):
            if seen is not None:
                name = _comparable(entry.name)
                if name in seen:
                    left_out += 1
                    continue
                seen.add(name)
            file.write(json.dumps([entry.name, entry.error]) + "\n")
    return left_out


def _comparable(name: str) -> str:
    """What is equal for different spellings of a path. A path with `..` depends on links, and is compared as it is."""
    return name if name.startswith(URLS) or ".." in name else os.path.abspath(name)


def _listed(arguments: Iterable[str], modality: str) -> Iterator[InputFile]:
    for argument in arguments:
        if not argument.startswith("@") or os.path.exists(argument):
            yield from iterate_inputs([argument], modality)
            continue
        with open(argument[1:], encoding="utf-8-sig", errors="surrogateescape") as file:
            for line in file:
                if name := line.rstrip("\r\n"):
                    yield InputFile(name)


class RecordFiles(Source):
    """
    Files with records: JSON Lines, CSV, WebDataset shards. Each file is a unit.

    Args:
        files (`Sequence[SourceFile]`): the files, in order.
        maker (`ItemMaker`): makes items of records.
    """

    def __init__(self, files: Sequence[SourceFile], maker: ItemMaker) -> None:
        self.files, self.maker = list(files), maker

    def describe(self) -> dict[str, Any]:
        described = [[file.path, os.stat(file.path).st_size] for file in self.files]
        return {"kind": "records", "files": described, **self.maker.describe()}

    def units(self, size: int) -> Iterable[int]:
        return range(len(self.files))

    def read(self, unit: int, size: int, skip: int) -> Iterator[Item]:
        return itertools.islice(self._items(self.files[unit]), skip, None)

    def _items(self, file: SourceFile) -> Iterator[Item]:
        """All items of a file; where it cannot be read further, the last item says so."""
        try:
            if file.kind == "webdataset":
                yield from self._samples(file)
            else:
                folder = os.path.abspath(file.media_folder)
                for place, record in file.records_and_errors():
                    if isinstance(record, DataError):
                        yield Item(f"{file.name}, {place}", error=str(record))
                    else:
                        yield self.maker(record, f"{file.name}, {place}", folder)
        except _UNREADABLE as error:
            yield Item(file.path, error=f"The rest of {file.path} cannot be read: {error}")

    def _samples(self, file: SourceFile) -> Iterator[Item]:
        suffixes = image_suffixes()
        for key, members in shard_samples(file.path):
            place = f"{file.name}/{key}"
            try:
                record = sample_record(members, file.path, key, suffixes)
            except ValueError as error:
                yield Item(place, members=members, error=str(error))
                continue
            yield self.maker(record, place, members=members)
        if file.path.endswith(".tar") and not _has_end(file.path):
            raise DataError("it has no mark of its end, as an archive that was cut off. Copy or download it again.")


def _has_end(path: str) -> bool:
    """Whether a tar archive ends with the two empty blocks that mark its end; an archive cut between files is valid."""
    with open(path, "rb") as file:
        file.seek(-min(os.path.getsize(path), 2 * tarfile.BLOCKSIZE), os.SEEK_END)
        return file.read() == bytes(2 * tarfile.BLOCKSIZE)


class ParquetFiles(RecordFiles):
    """Parquet files. Each row group is a unit, so that a large file is read from any place, and by several machines."""

    def __init__(self, files: Sequence[SourceFile], maker: ItemMaker) -> None:
        super().__init__(files, maker)
        parquet: Any = require("pyarrow.parquet", extra="train", purpose="Parquet files")
        self._groups: list[tuple[int, int, int, int]] = []  # file, row group, rows before it in the file, its rows
        for index, file in enumerate(self.files):
            try:
                metadata = parquet.read_metadata(file.path)
            except _UNREADABLE:
                self._groups.append((index, -1, 0, 1))  # read reports it, as one item
                continue
            before = 0
            for group in range(metadata.num_row_groups):
                rows = metadata.row_group(group).num_rows
                self._groups.append((index, group, before, rows))
                before += rows

    def count(self, size: int, shard: Shard = WHOLE) -> int:
        return sum(rows for unit, (_, _, _, rows) in enumerate(self._groups) if unit in shard)

    def units(self, size: int) -> Iterable[int]:
        return range(len(self._groups))

    def read(self, unit: int, size: int, skip: int) -> Iterator[Item]:
        parquet: Any = require("pyarrow.parquet", extra="train", purpose="Parquet files")
        index, group, before, _ = self._groups[unit]
        file = self.files[index]
        folder = os.path.abspath(file.media_folder)
        number = 0
        try:
            with parquet.ParquetFile(file.path) as opened:
                for batch in opened.iter_batches(batch_size=_READ_ROWS, row_groups=[max(group, 0)]):
                    first = max(skip - number, 0)
                    records = batch.slice(first).to_pylist() if first < batch.num_rows else []
                    for row, record in enumerate(records, start=before + number + first):
                        yield self.maker(record, f"{file.name}, row {row}", folder)
                    number += batch.num_rows
        except _UNREADABLE as error:
            if number >= skip:
                yield Item(file.path, error=f"The rest of {file.path} cannot be read: {error}")


class Rows(Source):
    """
    A data set in memory or on disk: a `datasets.Dataset`, or a list of images or rows.

    Args:
        rows: something with a length and numbered entries.
        maker (`ItemMaker`): makes items of rows.
    """

    def __init__(self, rows: Any, maker: ItemMaker) -> None:
        self.rows, self.maker = rows, maker

    def describe(self) -> dict[str, Any]:
        fingerprint = getattr(self.rows, "_fingerprint", None)
        if fingerprint is None:  # objects that read a row when it is asked for are not read twice
            fingerprint = rows_digest(self.rows if isinstance(self.rows, (list, tuple)) else self._first())
        return {"kind": "rows", "count": len(self.rows), "fingerprint": fingerprint, **self.maker.describe()}

    def count(self, size: int, shard: Shard = WHOLE) -> int:
        return _count_of_blocks(len(self.rows), size, shard)

    def _first(self) -> list[Any]:
        with contextlib.suppress(IndexError, *_UNREADABLE):
            return [self.rows[0]]
        return []

    def units(self, size: int) -> Iterable[int]:
        return range(-(-len(self.rows) // size))

    def read(self, unit: int, size: int, skip: int) -> Iterator[Item]:
        for index in range(unit * size + skip, min((unit + 1) * size, len(self.rows))):
            try:
                row = self.rows[index]
            except _UNREADABLE as error:
                yield Item(f"row {index}", error=f"Row {index} cannot be read: {error}")
                continue
            yield row_item(self.maker, row, f"row {index}")


class Stream(Source):
    """
    A stream of rows, such as a `datasets.IterableDataset` or a generator. To resume a job, it is read from the
    beginning; it is identified by its first row.

    Args:
        rows (`Iterable`): the rows.
        maker (`ItemMaker`): makes items of rows.
    """

    is_one_pass = True

    def __init__(self, rows: Iterable[Any], maker: ItemMaker) -> None:
        self.rows, self.maker = rows, maker

    def describe(self) -> dict[str, Any]:
        rows = iter(self.rows)
        first = list(itertools.islice(rows, 1))
        if rows is self.rows:  # it can be read only once
            self.rows = itertools.chain(first, rows)
        return {"kind": "stream", "first": rows_digest(first), **self.maker.describe()}

    def blocks(self, size: int, start: Position = START, shard: Container[int] = WHOLE) -> Iterator[Block]:
        """As in the base class, in one pass over the stream."""
        rows = iter(self.rows)
        for unit in itertools.count():
            block = list(itertools.islice(rows, size))
            if not block:
                return
            if Position(unit) >= start and unit in shard:
                items = [row_item(self.maker, row, f"row {unit * size + index}") for index, row in enumerate(block)]
                yield Block(Position(unit), items)


def row_item(maker: ItemMaker, row: Any, place: str) -> Item:
    """The item of a row, or of an image or a video without a row."""
    if not isinstance(row, Mapping):
        row = {maker.modality: row}
    return maker(row, place)


__all__ = [
    "Blocks",
    "FileList",
    "ParquetFiles",
    "RecordFiles",
    "Rows",
    "Source",
    "Stream",
    "row_item",
    "write_file_list",
]
