# SPDX-License-Identifier: Apache-2.0
"""The next version of an index: items that it had, and items whose features are new.

Shapes: I items, P projection dimension, S hidden states of all items, n those of one, D hidden size.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modeling_lavis.data.media_files import URLS
from modeling_lavis.evaluation.faiss_indexes import build_faiss, choose_index
from modeling_lavis.evaluation.index_files import IndexFiles
from modeling_lavis.evaluation.index_rows import iterate_rows
from modeling_lavis.evaluation.index_writing import Blocks, write_index_files
from modeling_lavis.import_utils import require
from modeling_lavis.search.features import Features

_BLOCK = 4096  # vectors that are copied at a time


class Part(NamedTuple):
    """
    Items of the next version.

    Args:
        source (`IndexFiles` or [`Features`]): what has them.
        rows (`np.ndarray` of shape `(I,)`): their rows in it.
    """

    source: IndexFiles | Features
    rows: np.ndarray


def merged_parts(known: IndexFiles | None, new: Features | None) -> list[Part]:
    """
    The items of an index and those of a job, which replace earlier ones of the same file.

    Args:
        known (`IndexFiles`, *optional*): the index, if there is one.
        new ([`Features`], *optional*): what the job computed, if anything.

    Returns:
        `list[Part]`: the parts that have items.
    """
    latest: dict[tuple[Any, ...], int] = {}
    if new is not None:
        latest = {key: row for row, key in enumerate(item_keys(new.rows))}
    parts = []
    if known is not None:
        kept = [row for row, key in enumerate(item_keys(known.rows)) if key not in latest]
        parts.append(Part(known, np.array(kept, np.int64)))
    if new is not None:
        parts.append(Part(new, np.array(list(latest.values()), np.int64)))
    return [part for part in parts if len(part.rows)]


def item_keys(rows: Any) -> Iterator[tuple[Any, ...]]:
    """
    What identifies the items of a table: path or URL, and the range of a video. Images in files of records have no
    path, and their names need not be unique: those of one name are counted.
    """
    counts: dict[str, int] = {}
    for record in iterate_rows(rows, ["file", "path", "start", "end"]):
        name, number = record["file"], 0
        if record["path"] is None and not name.startswith(URLS):
            number = counts[name] = counts.get(name, 0) + 1
        yield record["path"] or name, record["start"], record["end"], number


def write_version(
    folder: Path, settings: Mapping[str, Any], parts: Sequence[Part], known: IndexFiles | None
) -> IndexFiles:
    """
    Write the next version of an index. A FAISS index whose items are all kept is extended, others are built anew.

    Args:
        folder (`Path`): its folder.
        settings (`Mapping[str, Any]`): entries of the head, among them `index` and `memory`.
        parts (`Sequence[Part]`): the items, in order; at least one.
        known (`IndexFiles`, *optional*): the index as it is.
    """
    vectors, states = _vectors(parts), _states(parts)
    factory = choose_index(vectors.shape[0], vectors.shape[1:], settings["index"], settings["memory"])
    extended = None
    if known is not None and factory is not None and _keeps_all(known, parts):
        had = known.head.get("search", "")
        if known.head.get("index") == settings["index"] in ("auto", "ivf-pq") and factory[:3] == had[:3] == "IVF":
            factory = had  # the number of cells would change with every addition
        extended = known if had == factory else None

    def make_faiss(written: np.ndarray) -> Any:
        return build_faiss(written, str(factory), None if extended is None else extended.read_faiss(mapped=False))

    return write_index_files(
        folder,
        {**settings, "search": factory or "exact"},
        _rows(parts, has_states=states is not None),
        vectors,
        states=states,
        make_faiss=None if factory is None else make_faiss,
    )


def _keeps_all(known: IndexFiles, parts: Sequence[Part]) -> bool:
    return parts[0].source is known and len(parts[0].rows) == len(known.vectors)


def _rows(parts: Sequence[Part], has_states: bool) -> Any:
    arrow: Any = require("pyarrow", extra="train", purpose="the rows of an index")
    tables = []
    for part in parts:
        table = part.source.rows
        if "num_states" in table.column_names:
            table = table.drop_columns("num_states")
        tables.append(table.take(arrow.array(part.rows)))
    table = arrow.concat_tables(tables)
    return table.append_column("num_states", [np.concatenate(list(map(_counts, parts)))]) if has_states else table


def _vectors(parts: Sequence[Part]) -> Blocks:
    def blocks() -> Iterator[np.ndarray]:
        for part in parts:
            for first in range(0, len(part.rows), _BLOCK):
                yield part.source.vectors[part.rows[first : first + _BLOCK]]

    return Blocks((sum(len(part.rows) for part in parts), *parts[0].source.vectors.shape[1:]), blocks())


def _states(parts: Sequence[Part]) -> Blocks | None:
    """Hidden states of the items; `None` if none are stored."""
    total = int(sum(_counts(part).sum() for part in parts))
    if not total:
        return None

    def blocks() -> Iterator[np.ndarray]:
        for part in parts:
            if part.source.states is not None:
                for row in part.rows[_counts(part) > 0]:
                    yield part.source.states.array(int(row))

    width = next(part.source.states.values.shape[1] for part in parts if part.source.states is not None)
    return Blocks((total, width), blocks())


def _counts(part: Part) -> np.ndarray:
    """How many hidden states of each item are stored."""
    states = part.source.states
    return np.zeros(len(part.rows), np.int64) if states is None else states.counts[part.rows]


__all__ = ["Part", "item_keys", "merged_parts", "write_version"]
