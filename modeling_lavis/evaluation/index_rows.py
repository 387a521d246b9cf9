# SPDX-License-Identifier: Apache-2.0
"""The table of rows of an index: what its items are, and in which state their files were.

Columns: `file` (what results call an item: a path as it was given, a URL, a place in a data set), `path` (absolute, of
a file on this machine), `bytes` and `modified_ns` (of that file when it was read), `start` and `end` (seconds, of a
video); of an index of texts `text` alone. With stored hidden states, `num_states` says how many each item has.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modeling_lavis.data.media_files import URLS
from modeling_lavis.import_utils import require

_BATCH = 4096


def index_rows(kind: str, items: Sequence[Any]) -> Any:
    """
    The table of rows of items of a [`RetrievalIndex`].

    Args:
        kind (`str`): `"image"`, `"video"` or `"text"`.
        items (`Sequence`): texts, paths, URLs, or rows of videos with a time range.

    Returns:
        `pyarrow.Table`.

    Raises:
        ValueError: an item is an image or a video in memory.
    """
    if kind == "text":
        return _arrow().table({"text": list(items)})
    records = []
    for item in items:
        row = dict(item) if isinstance(item, Mapping) else {kind: item}
        medium = row.pop(kind)
        if not isinstance(medium, (str, os.PathLike)):
            raise ValueError(
                f"An item of the index is {type(medium).__name__}, which a table of rows cannot hold; expected paths or"
                f" URLs. Make the index of {kind} files."
            )
        records.append(file_record(os.fspath(medium), medium, row, file_state(local_path(medium))))
    return records_table(records)


def file_record(name: str, medium: Any, times: Mapping[str, Any], state: tuple[int, int] | None) -> dict[str, Any]:
    """
    The row of an image or a video.

    Args:
        name (`str`): what results call it.
        medium: its path or URL; anything else is in memory, or in a file of records.
        times (`Mapping[str, Any]`): `start` and `end` in seconds, if there are any.
        state (`tuple[int, int]`, *optional*): [`file_state`] of its file, if it is one.
    """
    path = local_path(medium)
    size, modified = state if path is not None and state is not None else (None, None)
    record = {"file": name, "path": path, "bytes": size, "modified_ns": modified}
    return {**record, **{key: None if times.get(key) is None else float(times[key]) for key in ("start", "end")}}


def local_path(medium: Any) -> str | None:
    """Absolute path of an image or a video that is a file on this machine; `None` for everything else."""
    name = os.fspath(medium) if isinstance(medium, (str, os.PathLike)) else ""
    if not name or name.startswith(URLS):
        return None
    return os.path.abspath(name)


def file_state(path: str | None) -> tuple[int, int] | None:
    """Size in bytes and time of the last change in nanoseconds of a file; `None` if there is none."""
    if path is None:
        return None
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


def records_table(records: Sequence[Mapping[str, Any]]) -> Any:
    """The table of rows of [`file_record`], a `pyarrow.Table`."""
    arrow = _arrow()
    kinds = {"file": arrow.string(), "path": arrow.string(), "bytes": arrow.int64(), "modified_ns": arrow.int64()}
    schema = arrow.schema([*kinds.items(), ("start", arrow.float64()), ("end", arrow.float64())])
    return arrow.Table.from_pylist([dict(record) for record in records], schema=schema)


def row_item(kind: str, record: Mapping[str, Any]) -> Any:
    """An item of a [`RetrievalIndex`], from its row: a text, a path or URL, or a row of a video with a time range."""
    if kind == "text":
        return record["text"]
    times = {name: record[name] for name in ("start", "end") if record.get(name) is not None}
    name, path = record["file"], record["path"]
    medium = name if path is None or os.path.abspath(name) == path else path  # in another working folder the path
    return {kind: medium, **times} if times else medium


def item_rows(kind: str, rows: Any) -> list[Any]:
    """The items of all rows of a table."""
    return [row_item(kind, record) for record in iterate_rows(rows)]


def iterate_rows(rows: Any, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """
    The rows of a table, of which few are in memory as dictionaries at a time.

    Args:
        rows (`pyarrow.Table`): the table.
        columns (`Sequence[str]`, *optional*): the columns that are needed; all by default.
    """
    for batch in (rows if columns is None else rows.select(columns)).to_batches(max_chunksize=_BATCH):
        yield from batch.to_pylist()


def _arrow() -> Any:
    return require("pyarrow", extra="train", purpose="the rows of an index")


__all__ = [
    "file_record",
    "file_state",
    "index_rows",
    "item_rows",
    "iterate_rows",
    "local_path",
    "records_table",
    "row_item",
]
