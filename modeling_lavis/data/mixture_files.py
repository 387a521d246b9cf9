# SPDX-License-Identifier: Apache-2.0
"""Mixtures as files: the data sets of a mixture, their sampling ratios and text options, as JSON.

    {"mixture": [{"source": "coco/train.json", "probability": 3},
                 {"source": "web/*.tar", "probability": 1, "prompt": "a picture of ", "columns": {"caption": "txt"}}],
     "seed": 0, "stopping_strategy": "all_exhausted"}

Such a file stands wherever a data set does: in `load_data`, `train`, and on the command line.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from modeling_lavis.data.columns import DataError
from modeling_lavis.data.mixtures import TextOptions, mix

_KEY = "mixture"
_OF_FILE = (_KEY, "seed", "stopping_strategy")
_OF_LOADING = ("source", "split", "columns", "media_root", "format")
_OF_TEXTS = tuple(field.name for field in fields(TextOptions))
_PATHS = ("source", "media_root")
#: mixture files are small: annotation files above this size are not parsed to find out whether they are one
_MAX_BYTES = 2**20


def read_mixture(path: str) -> dict[str, Any] | None:
    """
    The content of a mixture file, `None` for any other file.

    Args:
        path (`str`): path of a file; whether it is a mixture is decided by its key `"mixture"`.

    Raises:
        DataError: the file is a mixture, but has a wrong or an unknown entry.
    """
    if not path.endswith(".json") or not os.path.isfile(path) or os.path.getsize(path) > _MAX_BYTES:
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    try:
        content = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):  # JSON Lines, or broken: for the reader of data files
        return None
    if not isinstance(content, dict) or _KEY not in content:
        return None
    _check_names(content, _OF_FILE, path)
    sources = content[_KEY]
    if not isinstance(sources, list) or not sources:
        raise DataError(
            f'{path}: "{_KEY}" is {sources!r}; expected a list of data sets such as {{"source": "a.json"}}.'
        )
    for number, entry in enumerate(sources):
        where = f"{path}, data set {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("source"), str):
            raise DataError(f'{where}: got {entry!r}; expected an object with "source", a file, folder or pattern.')
        _check_names(entry, (*_OF_LOADING, *_OF_TEXTS, "probability"), where)
    if 0 < sum("probability" in entry for entry in sources) < len(sources):
        raise DataError(f"{path}: some data sets have a probability and others none; give it for all, or for none.")
    return content


def load_mixture(content: Mapping[str, Any], folder: str, load: Callable[..., Any]) -> Any:
    """
    Load the data sets of a mixture, and mix them.

    Args:
        content (`Mapping`): what [`read_mixture`] returned.
        folder (`str`): folder that relative paths start from.
        load (`Callable`): function from a source and options of `load_data` to a data set.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: the mixture.
    """
    loaded, texts, ratios = [], [], []
    for entry in content[_KEY]:
        given = {name: entry[name] for name in _OF_LOADING if name in entry}
        options = {name: os.path.join(folder, value) if name in _PATHS else value for name, value in given.items()}
        loaded.append(load(options.pop("source"), **options))
        texts.append({name: entry[name] for name in _OF_TEXTS if name in entry})
        ratios.append(entry.get("probability"))
    return mix(
        loaded,
        probabilities=None if None in ratios else ratios,
        text_options=texts,
        **{name: content[name] for name in _OF_FILE[1:] if name in content},
    )


def _check_names(entry: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    if unknown := sorted(set(entry) - set(known)):
        raise DataError(f"{where}: unknown {', '.join(map(repr, unknown))}; expected {', '.join(known)}.")


__all__ = ["load_mixture", "read_mixture"]
