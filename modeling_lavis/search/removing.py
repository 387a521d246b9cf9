# SPDX-License-Identifier: Apache-2.0
"""Removing items from an index."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modeling_lavis.evaluation.index_files import IndexFiles
from modeling_lavis.evaluation.index_rows import file_state, iterate_rows
from modeling_lavis.evaluation.index_writing import index_lock
from modeling_lavis.search.merging import Part, write_version
from modeling_lavis.search.summary import IndexSummary
from modeling_lavis.search.updates import open_for_change


def remove_from_index(output: str | os.PathLike, files: Sequence[str] = (), *, missing: bool = False) -> IndexSummary:
    """
    Remove items from an index.

    Args:
        output (`str` or `os.PathLike`): folder of the index.
        files (`Sequence[str]`, *optional*): names of items, as the index has them, or paths.
        missing (`bool`, *optional*, defaults to `False`): remove the items whose files are gone, too.

    Raises:
        ValueError: there is no item of a name, or none would be left. OSError: there is no index, the disk is full, or
            another process is changing the index.
    """
    folder = Path(output)
    IndexFiles.open(folder)  # raises, before the lock makes a folder
    with index_lock(folder):
        known = open_for_change(folder)
        if known is None:
            raise FileNotFoundError(f"The index {folder} was removed meanwhile. Give the folder of an index.")
        if known.head["kind"] == "text":
            raise ValueError(f"{output} is an index of texts, which have no files. Make another one.")
        kept = _kept_rows(known, files, missing)
        removed = len(known.vectors) - len(kept)
        if not kept:
            raise ValueError(f"No item of {output} would be left. Delete the folder instead.")
        settings = {"index": "auto", "memory": None, **known.head}
        made = write_version(folder, settings, [Part(known, np.array(kept))], known) if removed else known
    return IndexSummary.of(made, removed=removed)


def _kept_rows(known: IndexFiles, files: Sequence[str], missing: bool) -> list[int]:
    """
    The rows that are left.

    Raises:
        ValueError: there is no item of a name.
    """
    wanted = {*files, *map(os.path.abspath, files)}
    found, kept = set[str](), []
    for row, record in enumerate(iterate_rows(known.rows, ["file", "path"])):
        names = {record["file"], record["path"]} & wanted
        found |= names
        is_gone = missing and record["path"] is not None and file_state(record["path"]) is None
        if not names and not is_gone:
            kept.append(row)
    if unknown := [name for name in files if not {name, os.path.abspath(name)} & found]:
        raise ValueError(
            f"The index {known.folder} has no {unknown[0]!r}. Give names as the index has them, or their paths."
        )
    return kept


__all__ = ["remove_from_index"]
