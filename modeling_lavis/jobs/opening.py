# SPDX-License-Identifier: Apache-2.0
"""Which source a user's data are."""

import glob
import json
import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

from modeling_lavis.data.loading import without_decoding
from modeling_lavis.data.media_files import SUFFIXES, URLS, matching_paths
from modeling_lavis.data.records import SourceFile, kind_of
from modeling_lavis.import_utils import is_available, require
from modeling_lavis.jobs.columns import ItemMaker
from modeling_lavis.jobs.journal import JOB
from modeling_lavis.jobs.sources import FileList, ParquetFiles, RecordFiles, Rows, Source, Stream, write_file_list

_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def open_source(data: Any, maker: ItemMaker, list_path: Path, own: Sequence[Path] = ()) -> Source:
    """
    The source of a user's data.

    Args:
        data: a path, a URL or a list of them (see `docs/collections.md`), a data set of `datasets`, a list of images or
            rows, or an iterable of them.
        maker (`ItemMaker`): makes items of records.
        list_path (`Path`): where a list of files is, or is to be written; one that exists is used as it is, so that a
            job that is resumed keeps the files that it began with.
        own (`Sequence[Path]`, *optional*): files that the job writes, which are left out where a folder or a glob has
            them.

    Raises:
        FileNotFoundError: a file does not exist. ValueError: the inputs are of several kinds. TypeError: they are none.
    """
    if isinstance(data, (str, os.PathLike)):
        data = [data]
    if isinstance(data, (list, tuple)) and data and all(isinstance(entry, (str, os.PathLike)) for entry in data):
        return _from_arguments([os.fspath(entry) for entry in data], maker, list_path, own)
    trusted = replace(maker, trusted=True)
    if is_available("datasets") and type(data).__module__.partition(".")[0] == "datasets":
        return _from_dataset(data, trusted)
    if isinstance(data, Sized) and hasattr(data, "__getitem__") and not isinstance(data, (Mapping, str, bytes)):
        return Rows(data, trusted)
    if isinstance(data, Iterable) and not isinstance(data, (Mapping, str, bytes)):
        return Stream(data, trusted)
    raise TypeError(
        f"The data are {type(data).__name__}; expected paths or URLs, a data set of datasets, or a list or an iterable"
        " of images or rows."
    )


def _from_arguments(arguments: Sequence[str], maker: ItemMaker, list_path: Path, own: Sequence[Path]) -> Source:
    if list_path.exists():  # also if the folder has metadata by now, which this job wrote
        _check_folder(arguments, list_path)
        return FileList(list_path, maker.modality)
    files: list[SourceFile] = []
    others: list[str] = []
    for argument in arguments:
        found = record_files(argument, maker.modality, without=own)
        files += found
        if not found:
            others.append(argument)
    if files and others:
        raise ValueError(
            f"The inputs are of two kinds: records ({files[0].path}) and {maker.modality}s ({others[0]}). Give them to"
            " two commands."
        )
    if not files:
        if (list_path.parent / JOB).exists():  # which had no list
            raise FileNotFoundError(
                f"The job in {list_path.parent} was begun with records, and {', '.join(arguments[:3])} names none. Give"
                " the inputs that it was begun with, choose another output, or start over with --restart."
            )
        write_file_list(list_path, others, maker.modality)
        return FileList(list_path, maker.modality)
    kinds = {file.kind for file in files}
    if "parquet" in kinds and len(kinds) > 1:
        raise ValueError(f"The inputs are files of several kinds: {', '.join(sorted(kinds))}. Give those of one kind.")
    return ParquetFiles(files, maker) if kinds == {"parquet"} else RecordFiles(files, maker)


def _check_folder(arguments: Sequence[str], list_path: Path) -> None:
    """
    Raise `FileNotFoundError` if none of the inputs of a job is there: it is resumed in another working folder, or a
    disk is not mounted. All of its inputs would be failures.
    """
    with list_path.open(encoding="utf-8") as file:
        first = next((json.loads(line) for line in file), None)
    if first is None or first[1] is not None or first[0].startswith(URLS) or os.path.lexists(first[0]):
        return
    if not any(map(_names_something, arguments)) and not (list_path.parent / "summary.json").exists():
        raise FileNotFoundError(
            f"None of the inputs is there: {', '.join(arguments[:3])}, seen from {os.getcwd()}. Go on with the job in"
            " the folder where it was begun, and with the disk of its inputs mounted."
        )


def missing_arguments(data: Any) -> list[str]:
    """Paths, globs and lists of files among a user's data that name nothing."""
    arguments = [data] if isinstance(data, (str, os.PathLike)) else data
    if not isinstance(arguments, (list, tuple)):
        return []
    names = [os.fspath(entry) for entry in arguments if isinstance(entry, (str, os.PathLike))]
    return [name for name in names if not _names_something(name)]


def _names_something(argument: str) -> bool:
    """Whether an argument is a URL, or names a file that is there."""
    if argument.startswith(URLS) or os.path.lexists(argument):
        return True
    if argument.startswith("@"):
        return os.path.lexists(argument[1:])
    return glob.has_magic(argument) and any(True for _ in matching_paths(argument))


def record_files(argument: str, modality: str, without: Sequence[Path] = ()) -> list[SourceFile]:
    """
    The files with records that an argument names: a file, a glob, or a folder with `metadata.*`, shards or tables.

    Args:
        argument (`str`): the argument.
        modality (`str`): `"image"` or `"video"`.
        without (`Sequence[Path]`, *optional*): files that are left out where a folder or a glob has them: the job's own
            outputs.

    Returns:
        `list[SourceFile]`: the files; none if the argument names images or videos.

    Raises:
        ValueError: a folder has files of several kinds.
    """
    if argument.startswith((*URLS, "@")) and not os.path.exists(argument):
        return []
    if os.path.isdir(argument):
        return _in_folder(argument, modality, without)
    if os.path.isfile(argument):
        paths = [argument]
    else:
        found = sorted(matching_paths(argument)) if glob.has_magic(argument) else []
        paths = [path for path in found if not _is_one_of(path, without)]
    kinds = [kind_of(path) for path in paths]
    return [SourceFile(path, kind) for path, kind in zip(paths, kinds) if kind] if all(kinds) else []


def _is_one_of(path: str, others: Sequence[Path]) -> bool:
    return any(os.path.abspath(path) == os.path.abspath(other) for other in others)


def _in_folder(folder: str, modality: str, without: Sequence[Path]) -> list[SourceFile]:
    names = sorted(
        name
        for name in os.listdir(folder)
        if not name.startswith(".") and not _is_one_of(os.path.join(folder, name), without)
    )
    metadata = [name for name in names if name in _METADATA]
    if len(metadata) > 1:
        raise ValueError(f"{folder} holds {' and '.join(metadata)}; give the path of one of them.")
    if metadata:
        return [SourceFile(os.path.join(folder, metadata[0]), str(kind_of(metadata[0])))]
    found = {
        kind: [name for name in names if kind_of(name) == kind and os.path.isfile(os.path.join(folder, name))]
        for kind in ("webdataset", "parquet")
    }
    found = {kind: files for kind, files in found.items() if files}
    has_media = any(os.path.splitext(name)[1].lower() in SUFFIXES[modality] for name in names)
    if len(found) + has_media > 1:
        held = [f"{len(files)} {kind} files" for kind, files in found.items()] + [f"{modality}s"] * has_media
        raise ValueError(f"{folder} holds {' and '.join(held)}. Give a pattern, such as {folder}/*.tar.")
    return [SourceFile(os.path.join(folder, name), kind) for kind, files in found.items() for name in files]


def _from_dataset(data: Any, maker: ItemMaker) -> Source:
    datasets: Any = require("datasets", extra="train", purpose="data sets")
    if isinstance(data, Mapping):
        if len(data) != 1:
            raise ValueError(f"The data set has the splits {', '.join(data)}; give one of them, such as data['train'].")
        data = next(iter(data.values()))
    features = data.features or {}
    column = maker.columns.get(maker.modality, maker.modality)
    if column not in features and maker.modality not in maker.columns:
        kind = datasets.Video if maker.modality == "video" else datasets.Image
        found = [name for name, feature in features.items() if isinstance(feature, kind)]
        if len(found) == 1:
            column = found[0]
            maker = replace(maker, columns={**maker.columns, maker.modality: column})
    data = without_decoding(data, column, datasets)
    return Rows(data, maker) if isinstance(data, datasets.Dataset) else Stream(data, maker)


__all__ = ["missing_arguments", "open_source", "record_files"]
