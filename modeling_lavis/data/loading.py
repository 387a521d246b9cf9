# SPDX-License-Identifier: Apache-2.0
"""`load_data`: files, folders, shards, published annotation files and objects of the user as rows of a task."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
import torch

from modeling_lavis import __version__
from modeling_lavis.data.annotations import ANNOTATIONS, annotation_files
from modeling_lavis.data.columns import ORIGIN, DataError, TaskColumns, is_plain_integer, task_columns
from modeling_lavis.data.folders import FORMATS, find_source, load_label2id, split_names
from modeling_lavis.data.mixture_files import load_mixture, read_mixture
from modeling_lavis.data.records import SourceFile
from modeling_lavis.data.row_tables import in_memory
from modeling_lavis.data.rows import ColumnNames, ColumnTypes, RowMaker, rows_of
from modeling_lavis.files import read_json
from modeling_lavis.import_utils import require

_LOOK_AHEAD = 200  # rows looked at to find types, where not all are read before
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")  # TIFF has the others: 32 bits, CMYK, LAB
# modes that no lossless format has, or that early versions of PIL cannot read
_STORED_AS = {"HSV": "RGB", "YCbCr": "RGB", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}


def load_data(
    source: str | os.PathLike | Sequence[Mapping[str, Any]] | Any,
    task: str,
    *,
    split: str | None = None,
    columns: ColumnNames | None = None,
    media_root: str | os.PathLike | None = None,
    format: str | None = None,
    streaming: bool = False,
    keep_columns: Sequence[str] = (),
    on_bad_row: str = "raise",
) -> Any:
    """
    Load a data set as rows of a task; see `docs/data.md` for the columns.

    Images and videos are not opened here but by the collators, in the workers of the Trainer: a row has their absolute
    path, or `{"bytes", "path"}` if the data set contains them.

    Args:
        source (`str`, `os.PathLike`, `Sequence[Mapping]`, `datasets.Dataset`, `IterableDataset` or their dicts):
            - a folder with `metadata.jsonl`, `.csv` or `.parquet` (Hugging Face's `imagefolder`, `videofolder`), with
              files such as `train.json`, with `.tar` shards, with a folder of images per class, or one that
              `save_to_disk` wrote;
            - a `.json` (a list of objects, as LAVIS has it, or JSON Lines), `.jsonl`, `.csv`, `.tsv`, `.parquet` or
              `.tar` file, or a pattern such as `shards/*.tar`;
            - a `.json` file with the key `"mixture"`: several data sets with sampling ratios;
            - a list of dicts, or an object of `datasets`.
        task (`str`): a key of `TASKS`.
        split (`str`, *optional*):
            which split of a folder or a dict of data sets; `"train+val"` concatenates two. A file is read as a whole.
        columns (`Mapping`, *optional*):
            name in the source of columns with another name there: `{"caption": "text"}`; two names for the two images
            of a pair; `None` for a column that the source lacks (to predict without answers, say).
        media_root (`str` or `os.PathLike`, *optional*):
            folder of relative paths; by default that of the file that names them. Files may not name anything outside.
        format (`str`, *optional*):
            format of the files where a folder has several: `"imagefolder"`, `"videofolder"`, `"json"`, `"jsonl"`,
            `"csv"`, `"parquet"`, `"webdataset"`; or a published data set, see `ANNOTATIONS`.
        streaming (`bool`, *optional*, defaults to `False`):
            whether to read while iterating, for data that are too large to be looked at before. As many workers share
            the reading as there are files.
        keep_columns (`Sequence[str]`, *optional*): further columns to keep; others are dropped.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            what to do about a row that lacks a column or has one of a wrong type: `"raise"`, or `"keep"` it with the
            reason in its column `problem`, for `check_data` and for collators that skip such rows.

    Returns:
        `datasets.Dataset`, or `datasets.IterableDataset` with `streaming`. Column `origin` says where a row is from.
        Rows with paths are held in memory; images and videos of shards and Parquet files are written once to the cache
        of `datasets`, and read again from there while the files do not change.

    Raises:
        FileNotFoundError, OSError: a file cannot be read.
        DataError: a `ValueError` that names the file, the row, and what to do.
    """
    contract = task_columns(task)
    _check_options(contract, columns, format, on_bad_row)
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        if (mixture := read_mixture(path)) is not None:
            own = {"split": split, "columns": columns, "media_root": media_root, "format": format}
            if given := [name for name, value in own.items() if value is not None]:
                raise DataError(f"{path} is a mixture; give {', '.join(given)} for each of its data sets in the file.")
            options: Any = {"streaming": streaming, "keep_columns": keep_columns, "on_bad_row": on_bad_row}
            return load_mixture(
                mixture, os.path.dirname(path), lambda part, **own: load_data(part, task, **own, **options)
            )
        if _is_saved(path):
            _check_saved(path)
            datasets: Any = require("datasets", extra="train", purpose="data sets")
            return _from_datasets(datasets.load_from_disk(path), contract, split, columns, media_root, keep_columns)
        root = None if media_root is None else os.path.abspath(media_root)
        maker = RowMaker(contract, dict(columns or {}), root, tuple(keep_columns))
        if format in ANNOTATIONS:
            files, maker = annotation_files(path, maker, split, str(format))
            return _build(files, maker, streaming, on_bad_row)
        files = []
        for part in split.split("+") if split else [None]:
            files += find_source(path, contract, part, maker.names, format)
        return _build(files, maker, streaming, on_bad_row)
    if isinstance(source, Sequence):
        rows: Any = source
        return _from_list(rows, contract, columns, media_root, keep_columns, streaming, on_bad_row)
    return _from_datasets(source, contract, split, columns, media_root, keep_columns, streaming)


def _check_options(task: TaskColumns, columns: ColumnNames | None, format: str | None, on_bad_row: str) -> None:
    if unknown := [name for name in columns or {} if name not in task.names]:
        raise ValueError(f"The task {task.task!r} has no column {unknown[0]!r}; it has {', '.join(task.names)}.")
    if format is not None and format not in FORMATS and format not in ANNOTATIONS:
        raise ValueError(f"format is {format!r}; expected one of {', '.join([*FORMATS, *ANNOTATIONS])}.")
    if on_bad_row not in ("raise", "keep"):
        raise ValueError(f"on_bad_row is {on_bad_row!r}; expected 'raise' or 'keep'.")


def _is_saved(path: str) -> bool:
    return any(os.path.isfile(os.path.join(path, name)) for name in ("dataset_dict.json", "state.json"))


def _check_saved(path: str) -> None:
    """Raise `DataError` unless a folder of `save_to_disk` names files of its own only."""
    try:
        splits = [""]
        if os.path.isfile(os.path.join(path, "dataset_dict.json")):
            splits = read_json(os.path.join(path, "dataset_dict.json"))["splits"]
        named = list(splits)
        for split in splits:
            state = os.path.join(path, split, "state.json")
            named += [entry["filename"] for entry in read_json(state)["_data_files"]] if os.path.isfile(state) else []
        wrong = [name for name in named if os.path.basename(name) != name or name in (".", "..")]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} is not a folder that save_to_disk wrote: {type(error).__name__} {error}.") from error
    if wrong:
        raise DataError(f"{path} names {wrong[0]!r:.80}; expected files of its own folder. Do not use it.")


# ---- files ----


def stream_rows(files: list[SourceFile], maker: RowMaker, types: ColumnTypes, on_bad_row: str) -> Iterator[Any]:
    """Rows of files for a streaming data set; `datasets` gives each worker some of the files."""
    yield from rows_of(files, maker, types, on_bad_row)


def _build(files: list[SourceFile], maker: RowMaker, streaming: bool, on_bad_row: str) -> Any:
    datasets: Any = require("datasets", extra="train", purpose="data sets")
    types = ColumnTypes(maker.task, maker.keep)
    rows = rows_of(files, maker, None, on_bad_row)
    first = list(islice(rows, _LOOK_AHEAD))
    if not first:
        raise DataError(f"{', '.join(file.path for file in files[:3])}: there are no rows.")
    for row in first:
        types.look_at(row)
    if not streaming and not types.has_bytes():
        return in_memory(chain(first, rows), maker)
    rows.close()
    types.has_problems = types.has_problems or on_bad_row == "keep"
    if not streaming:
        return _cached(files, maker, types, on_bad_row)
    arguments = {"files": files, "maker": maker, "types": types, "on_bad_row": on_bad_row}
    return datasets.IterableDataset.from_generator(stream_rows, gen_kwargs=arguments, features=types.features())


def _cached(files: list[SourceFile], maker: RowMaker, types: ColumnTypes, on_bad_row: str) -> Any:
    """Rows with images or videos, in the cache of `datasets`; its key has sizes and times of files, and our version."""
    datasets: Any = require("datasets", extra="train", purpose="data sets")
    stamps = tuple((file.path, os.stat(file.path).st_size, os.stat(file.path).st_mtime_ns) for file in files)
    arguments = {"files": tuple(files), "maker": maker, "types": types, "on_bad_row": on_bad_row}
    arguments["stamps"] = (*stamps, __version__)
    return datasets.Dataset.from_generator(_cached_rows, gen_kwargs=arguments, features=types.features())


def _cached_rows(files: Any, maker: RowMaker, types: ColumnTypes, on_bad_row: str, stamps: Any) -> Iterator[Any]:
    yield from rows_of(list(files), maker, types, on_bad_row)


# ---- objects ----


def _from_list(
    rows: Sequence[Mapping[str, Any]],
    task: TaskColumns,
    columns: ColumnNames | None,
    media_root: str | os.PathLike | None,
    keep_columns: Sequence[str],
    streaming: bool,
    on_bad_row: str,
) -> Any:
    if not len(rows):
        raise DataError("The list of rows is empty; expected at least one dict.")
    root = None if media_root is None else os.path.abspath(media_root)
    maker = RowMaker(task, dict(columns or {}), root, tuple(keep_columns), trusted=True)
    types = ColumnTypes(task, maker.keep)
    made = []
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"row {index}: got {type(row).__name__}; expected a dict of columns.")
        try:
            made.append(maker(_as_frames(row, task, maker.names), f"row {index}"))
        except DataError as error:
            if on_bad_row == "raise":
                raise
            made.append(maker.problem(str(error), f"row {index}"))
        types.look_at(made[-1])
    dataset = in_memory(made, maker) if not types.has_bytes() else _encoded(made, types)
    return dataset.to_iterable_dataset() if streaming else dataset


def _as_frames(row: Mapping[str, Any], task: TaskColumns, names: ColumnNames) -> Mapping[str, Any]:
    """The row, with a video that is an array as a list of its frames, which are stored as PNG."""
    name = names.get("video", "video")
    video = row.get(name) if task.media.kind == "video" and isinstance(name, str) else None
    if isinstance(video, torch.Tensor):
        video = video.numpy()
    if not isinstance(video, np.ndarray):
        return row
    if video.ndim == 4 and video.shape[-1] not in (1, 3, 4):
        video = video.transpose(0, 2, 3, 1)
    return {**row, str(name): list(video)}


def _encoded(rows: Sequence[dict[str, Any]], types: ColumnTypes) -> Any:
    """Rows with images and videos as `{bytes, path}`; PIL images and arrays become PNG or TIFF files, without loss."""
    datasets: Any = require("datasets", extra="train", purpose="data sets")
    arrow: Any = require("pyarrow", extra="train")
    features, name = types.features(), types.task.media.name
    feature = getattr(features[name], "feature", features[name])
    converted = []
    for row in map(types.convert, rows):
        value = row[name]
        try:
            if isinstance(value, list):
                value = [_encode(entry, feature) for entry in value]
            elif value is not None:
                value = _encode(value, feature)
        except (TypeError, ValueError, OSError, AttributeError) as error:
            raise DataError(
                f"{row[ORIGIN]}, column {name!r}: cannot be stored ({error}). Expected a path, encoded bytes, a PIL"
                " image, or an array of uint8."
            ) from error
        converted.append({**row, name: value})
    return datasets.Dataset(arrow.Table.from_pylist(converted, schema=features.arrow_schema))


def _encode(value: Any, feature: Any) -> Any:
    """An image or a video as `{bytes, path}`, without loss."""
    if isinstance(value, Mapping):
        # datasets would take a file of that name instead of the bytes
        return {"bytes": value.get("bytes"), "path": value.get("path")}
    if not isinstance(value, PIL.Image.Image):
        return feature.encode_example(value)
    name = getattr(value, "filename", None)
    if name and _is_unread(value, name):
        # decoding it would keep its pixels in the list of the user, too
        return {"bytes": None, "path": os.fspath(name)}
    # datasets would take the file that the image was opened from, whatever was done to it since, or save it as JPEG
    image = value.convert(_STORED_AS[value.mode]) if value.mode in _STORED_AS else value
    content = io.BytesIO()
    image.save(content, "PNG" if image.mode in _PNG_MODES else "TIFF", exif=_orientation(value))
    return {"bytes": content.getvalue(), "path": None}


def _orientation(image: PIL.Image.Image) -> PIL.Image.Exif:
    """The EXIF orientation of an image, by which processors rotate it, without its other EXIF data."""
    exif = PIL.Image.Exif()
    try:
        orientation = image.getexif().get(PIL.ExifTags.Base.Orientation)
    except Exception:  # PIL raises unrelated types on corrupted EXIF data
        return exif
    if isinstance(orientation, int):
        exif[PIL.ExifTags.Base.Orientation] = orientation
    return exif


def _is_unread(image: PIL.Image.Image, name: Any) -> bool:
    """Whether an image is as `PIL.Image.open` returns that of its file, with no pixels read or changed."""
    if not getattr(image, "tile", None):  # it is empty once the pixels are read
        return False
    try:
        with PIL.Image.open(name) as opened:
            return _header(image) == _header(opened)
    except (OSError, ValueError):
        return False


def _header(image: Any) -> tuple[Any, ...]:
    """What PIL knows of an image before it reads the pixels, with the frame."""
    return image.format, image.mode, image.size, image.tile, image.tell()


def _from_datasets(
    source: Any,
    task: TaskColumns,
    split: str | None,
    columns: ColumnNames | None,
    media_root: str | os.PathLike | None,
    keep_columns: Sequence[str],
    streaming: bool = False,
) -> Any:
    datasets: Any = require("datasets", extra="train", purpose="data sets")
    if isinstance(source, Mapping):
        source = _chosen(source, split, datasets)
    if not isinstance(source, (datasets.Dataset, datasets.IterableDataset)):
        raise TypeError(
            f"source is {type(source).__name__}; expected a path, a list of dicts, or an object of datasets."
        )
    if source.column_names is None:  # a stream of unknown columns
        first = list(source.take(_LOOK_AHEAD))
        if not first:
            raise DataError("The data set has no rows.")
        source = source.cast(datasets.Dataset.from_list(first).features)
    source = _rename(source, task, dict(columns or {}), keep_columns)
    source = without_decoding(source, task.media.name, datasets)
    source = _with_names_of_classes(source, task, datasets)
    if media_root is not None:
        joined = RowMaker(task, {}, os.path.abspath(media_root))
        source = source.map(_JoinPaths(joined))
    is_map_style = isinstance(source, datasets.Dataset)
    if is_map_style and not len(source):
        raise DataError("The data set has no rows.")
    return source.to_iterable_dataset() if streaming and is_map_style else source


def _chosen(source: Mapping[str, Any], split: str | None, datasets: Any) -> Any:
    """The data sets of a split, or of several joined by "+"."""
    if split is None and len(source) == 1:
        split = next(iter(source))
    parts = []
    for part in split.split("+") if split is not None and split not in source else [split]:
        name = next((name for name in split_names(part) if name in source), None) if part else None
        if name is None:
            raise DataError(f"The data set has the splits {', '.join(source)}; choose one with split= (got {split!r}).")
        parts.append(source[name])
    return datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]


class _JoinPaths:
    """Makes the paths of a data set absolute."""

    def __init__(self, maker: RowMaker) -> None:
        self.maker = maker

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        name, kind = self.maker.task.media.name, self.maker.task.media.kind
        value = row[name]
        return {name: [self._join(entry) for entry in value] if kind == "images" else self._join(value)}

    def _join(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            has_bytes = value.get("bytes") is not None
            return value if has_bytes else {"bytes": None, "path": self.maker.path(value["path"], "")}
        return self.maker.path(value, "")


def _rename(source: Any, task: TaskColumns, columns: dict[str, Any], keep_columns: Sequence[str]) -> Any:
    names = {field: name for field, name in columns.items() if name is not None}
    if any(not isinstance(name, str) for name in names.values()):
        raise DataError("Several columns for images: add a column with the list of both by Dataset.map first.")
    present = set(source.column_names)
    missing = [name for name in names.values() if name not in present]
    missing += [
        column.name
        for column in task.needed()
        if column.name not in columns and column.name not in present and column.name not in missing
    ]
    if missing:
        raise DataError(
            f"The data set lacks the columns {', '.join(map(repr, missing))} of the task {task.task!r}; it has"
            f" {sorted(present)}. Give other names as columns={{{missing[0]!r}: ...}}, or None if there is none."
        )
    left_out = {field for field, name in columns.items() if name is None}
    used = set(names.values())
    wanted = [field for field in task.names if field in present and field not in names and field not in used]
    kept = [name for name in [*wanted, *used, *keep_columns, ORIGIN] if name in present and name not in left_out]
    source = source.select_columns(list(dict.fromkeys(kept)))
    # one column may stand for two fields
    changed = {name: field for field, name in names.items() if field != name}
    return source.rename_columns(changed) if changed else source


def _with_names_of_classes(source: Any, task: TaskColumns, datasets: Any) -> Any:
    """
    The data set, with names for integers that could be taken for the name of another class.

    Folders "0" to "11" have the order "0", "1", "10", "11", "2", so that 2 would be "10" or "2".
    """
    for column in task.columns:
        feature = (source.features or {}).get(column.name)
        if column.kind != "label" or not isinstance(feature, datasets.ClassLabel):
            continue
        if not any(is_plain_integer(name) and int(name) != index for index, name in enumerate(feature.names)):
            continue
        named, text = _NamesOfClasses(column.name, feature.names), datasets.Value("string")
        if isinstance(source, datasets.IterableDataset):
            source = source.map(named, features=datasets.Features({**source.features, column.name: text}))
            continue
        alone = source.select_columns([column.name]).map(named, features=datasets.Features({column.name: text}))
        source = datasets.concatenate_datasets([source.remove_columns([column.name]), alone], axis=1)
    return source


class _NamesOfClasses:
    """Replaces the integers of a column of classes by their names."""

    def __init__(self, column: str, names: Sequence[str]) -> None:
        self.column, self.names = column, list(names)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        value = row[self.column]
        return {**row, self.column: self.names[value] if isinstance(value, int) and value >= 0 else None}


def without_decoding(source: Any, name: str, datasets: Any) -> Any:
    """Images and videos of a data set are opened by the collators, where a broken one can be named and skipped."""
    feature = (source.features or {}).get(name)
    inner = getattr(feature, "feature", None)
    for kind in (datasets.Image, datasets.Video):
        if isinstance(feature, kind) and feature.decode:
            return source.cast_column(name, kind(decode=False))
        if isinstance(inner, kind) and inner.decode:
            return source.cast_column(name, datasets.List(kind(decode=False)))
    return source


__all__ = ["load_data", "load_label2id", "without_decoding"]
