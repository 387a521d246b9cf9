# SPDX-License-Identifier: Apache-2.0
"""What a user's folder holds: which of its files are the rows of a task and a split.

Nothing is guessed where two answers are possible: the error lists them and says how to choose.
"""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from modeling_lavis.data.columns import DataError, TaskColumns
from modeling_lavis.data.media_files import matching_paths
from modeling_lavis.data.records import SourceFile, class_folders, first_record, image_suffixes, kind_of, load_json
from modeling_lavis.data.rows import ColumnNames, missing_columns

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
"""Names of a split in the names of files and folders."""

FORMATS = ("imagefolder", "videofolder", "json", "jsonl", "csv", "parquet", "webdataset")
"""Formats of files of the user's own; see `annotations` for those of published data sets."""

_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def split_names(split: str) -> tuple[str, ...]:
    """All names of a split: `val` is also called `validation`, `valid` and `dev`."""
    for names in SPLIT_NAMES.values():
        if split in names:
            return (split, *(name for name in names if name != split))
    return (split,)


def has_split(name: str, split: str) -> bool:
    """Whether the name of a file or folder contains the name of a split as a word."""
    return any(re.search(rf"(^|[^a-z]){re.escape(word)}($|[^a-z])", name.lower()) for word in split_names(split))


def find_source(
    source: str, task: TaskColumns, split: str | None, names: ColumnNames, format: str | None
) -> list[SourceFile]:
    """
    The files that hold the rows of a task and a split.

    Args:
        source (`str`): a file, a folder, or a pattern such as `shards/*.tar`.
        task (`TaskColumns`): the task.
        split (`str`, *optional*): name of the split; for folders.
        names (`Mapping`): names of columns in the files.
        format (`str`, *optional*): one of [`FORMATS`], where a folder holds several.

    Returns:
        `list[SourceFile]`: at least one file.

    Raises:
        FileNotFoundError: there is no such file. DataError: no file fits, or several do.
    """
    if os.path.isdir(source):
        return _in_folder(Path(source), task, split, names, format)
    if os.path.exists(source):
        return [_as_file(source, format)]
    matches = sorted(set(matching_paths(source))) if glob.has_magic(source) else []
    if not matches:
        raise FileNotFoundError(
            f"There is no file or folder {source!r} (from {os.getcwd()}). Check the path. Load a data set of the Hub"
            " with datasets.load_dataset, and pass the result."
        )
    return [_as_file(match, format) for match in matches if os.path.isfile(match)]


def _as_file(path: str, format: str | None) -> SourceFile:
    kind = format if format in FORMATS and not str(format).endswith("folder") else kind_of(path)
    if kind is None:
        raise DataError(
            f"{path}: files of this kind are not read. Expected .json, .jsonl, .csv, .tsv, .parquet or .tar; give"
            " format= for a file of one of these forms under another name."
        )
    return SourceFile(path, kind)


def _in_folder(
    folder: Path, task: TaskColumns, split: str | None, names: ColumnNames, format: str | None
) -> list[SourceFile]:
    found: dict[str, list[SourceFile]] = {}
    if format in (None, "imagefolder", "videofolder"):
        found |= _metadata_files(folder, split)
    if format in (None, "webdataset"):
        found |= _shards(folder, split)
    if format in (None, "json", "jsonl", "csv", "parquet"):
        found |= _annotation_files(folder, task, split, names, format)
    if not found and format in (None, "imagefolder") and task.task == "classification":
        found |= _class_folders(folder, split)
    if len(found) == 1:
        return next(iter(found.values()))
    wanted = f"the task {task.task!r}" + (f" and the split {split!r}" if split else "")
    if found:
        raise DataError(
            f"{folder} holds several sets of rows for {wanted}: {', '.join(found)}. Give the path of one of them"
            + (", or split=." if split is None else ".")
        )
    raise DataError(f"{folder} holds no rows for {wanted}. {_description(folder, task)}")


def _split_folders(folder: Path, split: str | None) -> list[Path]:
    """The folder itself, and the folders of the split in it."""
    inner = [folder / name for name in split_names(split)] if split else []
    return [entry for entry in inner if entry.is_dir()]


def _metadata_files(folder: Path, split: str | None) -> dict[str, list[SourceFile]]:
    for inner in [*_split_folders(folder, split), folder]:
        found = [inner / name for name in _METADATA if (inner / name).is_file()]
        if len(found) > 1:
            raise DataError(f"{inner} holds {' and '.join(path.name for path in found)}; give the path of one of them.")
        if found:
            kind = str(kind_of(str(found[0])))
            # as in datasets, file names of a split start with its folder
            inside = next((path.name for path in _split_folders(folder, split)), None) if inner == folder else None
            prefix = f"{inside}/" if inside else ""
            return {str(found[0].relative_to(folder)): [SourceFile(str(found[0]), kind, prefix=prefix)]}
    return {}


def _shards(folder: Path, split: str | None) -> dict[str, list[SourceFile]]:
    for inner in [*_split_folders(folder, split), folder]:
        shards = sorted(path for path in inner.iterdir() if kind_of(path.name) == "webdataset")
        others = [name for name in SPLIT_NAMES if split not in SPLIT_NAMES[name]]
        if split and inner == folder:
            chosen = [path for path in shards if has_split(path.name, split)]
            if not chosen and any(has_split(path.name, other) for path in shards for other in others):
                continue  # shards of other splits
            shards = chosen or shards
        elif inner == folder:
            splits = [name for name in SPLIT_NAMES if any(has_split(path.name, name) for path in shards)]
            if len(splits) > 1:
                raise DataError(f"{folder} holds shards of {', '.join(splits)}; choose with split=.")
        if shards:
            return {f"{len(shards)} .tar shards": [SourceFile(str(path), "webdataset") for path in shards]}
    return {}


def _annotation_files(
    folder: Path, task: TaskColumns, split: str | None, names: ColumnNames, format: str | None
) -> dict[str, list[SourceFile]]:
    """
    Annotation files whose rows have the columns of the task.

    A file that is named like the split alone, `train.json`, comes before `vqa_train.json`.
    """
    kinds = (format,) if format else ("json", "jsonl", "csv", "parquet")
    folders = [folder, folder / "annotations", *_split_folders(folder, split)]
    fitting: dict[str, list[SourceFile]] = {}
    for inner in folders:
        for path in sorted(inner.iterdir()) if inner.is_dir() else []:
            if kind_of(path.name) not in kinds or path.name in _METADATA or not path.is_file():
                continue
            if split and inner in (folder, folder / "annotations") and not has_split(path.stem, split):
                continue
            # files in annotations/ name media beside that folder
            file = SourceFile(str(path), str(kind_of(path.name)), folder=str(folder))
            record = first_record(file)
            if record is not None and not missing_columns(record, task, names):
                fitting[str(path.relative_to(folder))] = [file]
    exact = {name: files for name, files in fitting.items() if split and Path(name).stem in split_names(split)}
    return exact if len(exact) == 1 else fitting


def _class_folders(folder: Path, split: str | None) -> dict[str, list[SourceFile]]:
    suffixes = image_suffixes()
    for inner in [*_split_folders(folder, split), folder]:
        classes = class_folders(inner)
        if inner == folder and any(has_split(entry.name, split) for entry in classes for split in SPLIT_NAMES):
            continue  # folders of splits
        if any(path.suffix.lower() in suffixes for entry in classes for path in entry.iterdir()):
            return {f"{len(classes)} folders of classes": [SourceFile(str(inner), "classfolders")]}
    return {}


def _description(folder: Path, task: TaskColumns) -> str:
    """What the files of a folder lack, for the error that none fits."""
    needed = ", ".join(column.name for column in task.needed())
    parts = []
    for path in sorted(folder.iterdir()):
        if kind_of(path.name) in ("json", "jsonl", "csv", "parquet") and path.is_file():
            record = first_record(SourceFile(str(path), str(kind_of(path.name))))
            if record is not None:
                parts.append(f"{path.name} has {', '.join(sorted(map(str, record))[:12])}")
    inside = "; ".join(parts[:8]) or ", ".join(sorted(entry.name for entry in folder.iterdir())[:12]) or "nothing"
    return (
        f"Its rows need {needed}. It contains: {inside}. Expected metadata.jsonl, .csv or .parquet beside the media,"
        " files such as train.json with these columns (other names: columns=), or .tar shards; published annotation"
        " files need format=."
    )


def load_label2id(source: str | os.PathLike) -> dict[str, int]:
    """
    Read the class indices of a data set.

    Args:
        source (`str` or `os.PathLike`):
            a JSON file with a list of names (`labels.json`) or with an index by name (LAVIS's `ans2label.json`), or a
            folder that has one of them, or one folder of images per class.

    Returns:
        `dict[str, int]`: index of each name, for `config.label2id` and `make_collator(label2id=...)`.

    Raises:
        FileNotFoundError: there is no such file. DataError: the file has another form, or the folder has several.
    """
    path = Path(source)
    if path.is_dir():
        files = [path / name for name in ("ans2label.json", "train_ans2label.json", "labels.json")]
        files = [file for file in files if file.is_file()]
        if not files:
            classes = _class_folders(path, "train")
            if not classes:
                raise FileNotFoundError(
                    f"{path} has neither ans2label.json nor labels.json, nor a folder of images per class."
                )
            inner = Path(next(iter(classes.values()))[0].path)
            return {folder.name: index for index, folder in enumerate(class_folders(inner))}
        if len(files) > 1:
            raise DataError(f"{path} has {' and '.join(file.name for file in files)}; give the path of one of them.")
        path = files[0]
    content = load_json(str(path))
    if isinstance(content, list) and content and all(isinstance(name, str) for name in content):
        names: Sequence[str] = content
        return {name: index for index, name in enumerate(names)}
    if isinstance(content, dict) and content and all(isinstance(index, int) for index in content.values()):
        return dict(content)
    raise DataError(f"{path} is neither a list of names nor an object with an index for each name.")


__all__ = ["FORMATS", "SPLIT_NAMES", "find_source", "has_split", "load_label2id", "split_names"]
