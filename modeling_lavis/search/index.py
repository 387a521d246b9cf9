# SPDX-License-Identifier: Apache-2.0
"""An index of a collection that is open for searching."""

import os
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from modeling_lavis.evaluation.candidates import Ranking
from modeling_lavis.evaluation.index_files import IndexFiles
from modeling_lavis.evaluation.index_rows import file_state, row_item
from modeling_lavis.evaluation.vector_search import search_vectors

FileState = Literal["unchanged", "changed", "missing", "unknown"]


class SearchIndex:
    """
    An index of a collection. Vectors are mapped into memory, so that an index of any size opens at once.

    Args:
        folder (`str` or `os.PathLike`): folder that [`build_index`] or `RetrievalIndex.save` has written.

    Raises:
        OSError: there is no index, or one of its files is missing or was cut off. ValueError: a file is damaged.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.files = IndexFiles.open(folder)
        self.kind: str = self.files.head["kind"]

    def __len__(self) -> int:
        return len(self.files.vectors)

    def record(self, row: int) -> dict[str, Any]:
        """The columns of a row: `file`, `path`, `bytes`, `modified_ns`, `start` and `end`, or `text`."""
        return self.files.rows.slice(row, 1).to_pylist()[0]

    def item(self, row: int) -> Any:
        """The item of a row as a pipeline takes it: a path, a URL, a row of a video, or a text."""
        return row_item(self.kind, self.record(row))

    def nearest(self, queries: Tensor, k: int, exact: bool = False) -> Ranking:
        """
        The most similar items.

        Args:
            queries (`Tensor` of shape `(B, P)` or `(B, R, P)`): normalized features.
            k (`int`): number of results.
            exact (`bool`, *optional*, defaults to `False`): compare with all items, also if there is a FAISS index.

        Returns:
            [`Ranking`]: rows of the index, and cosine similarities.
        """
        return search_vectors(self.files.vectors, queries, k, None if exact else self.files.faiss)

    def state(self, row: int) -> FileState:
        """Whether the file of a row is as it was when it was indexed; `"unknown"` for URLs, records and texts."""
        return state_of(self.record(row))

    def changes(self) -> dict[str, list[str]]:
        """Names of the files that have changed or are missing since they were indexed, under these two keys."""
        found: dict[str, list[str]] = {"changed": [], "missing": []}
        if self.kind == "text":
            return found
        for batch in self.files.rows.to_batches(max_chunksize=4096):
            for record in batch.to_pylist():
                if (state := state_of(record)) in found:
                    found[state].append(record["file"])
        return found


def state_of(record: dict[str, Any]) -> FileState:
    """What became of the file of a row."""
    path = record.get("path")
    if path is None:
        return "unknown"
    state = file_state(path)
    if state is None:
        return "missing"
    return "unchanged" if state == (record["bytes"], record["modified_ns"]) else "changed"


__all__ = ["FileState", "SearchIndex", "state_of"]
