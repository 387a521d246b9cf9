# SPDX-License-Identifier: Apache-2.0
"""Features of a collection for an index, computed by a job that can be interrupted.

The folder of the job has `records.jsonl` (a line per item), `vectors.f32` (float32, the vectors of the items one
after the other), `states.f32` (hidden states of the items that have some) and, once the job is finished,
`features.json` (the shapes).

Shapes: I items, Q vectors per item, P projection dimension, S hidden states of all items, n those of one, D hidden
size.
"""

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from modeling_lavis.evaluation.index_files import StoredStates
from modeling_lavis.evaluation.index_rows import file_record, file_state, local_path, records_table
from modeling_lavis.files import read_json, whole_file
from modeling_lavis.import_utils import require
from modeling_lavis.jobs.identity import model_identity
from modeling_lavis.jobs.items import Result
from modeling_lavis.jobs.sinks import RECORDS, Sink
from modeling_lavis.jobs.tasks import Task
from modeling_lavis.pipelines.inputs import Failure
from modeling_lavis.pipelines.retrieval import ImageTextRetrievalPipeline

TASKS = {"image": "image-text-retrieval", "video": "video-text-retrieval"}
_VECTORS, _STATES, _SHAPES = "vectors.f32", "states.f32", "features.json"
_NO_STATES = np.empty((0, 0), np.float32)
_READ_RECORDS = 4096  # lines that are in memory at a time


def features_identity(pipe: Any) -> dict[str, Any]:
    """
    What has to be equal of the models of all features of an index and of its queries: class, weights (in float32 or
    bfloat16) and processor.
    """
    identity = model_identity(pipe, any_precision=True)
    return {name: identity[name] for name in ("class", "weights", "processor")}


@dataclass(frozen=True)
class Features:
    """
    What a finished job computed; arrays are mapped into memory.

    Args:
        rows (`pyarrow.Table`): a row per item.
        vectors (`np.ndarray` of shape `(I, P)` or `(I, Q, P)`): normalized features.
        states ([`StoredStates`], *optional*): hidden states of the items, as far as they are stored.
    """

    rows: Any
    vectors: np.ndarray
    states: StoredStates | None


class ItemEncoder:
    """
    What a job runs: the steps in which a retrieval pipeline encodes a collection, with the states of files.

    Args:
        pipe (`ImageTextRetrievalPipeline`): the pipeline.
        keep_states (`bool`): whether results have hidden states.
    """

    def __init__(self, pipe: ImageTextRetrievalPipeline, keep_states: bool) -> None:
        self.model, self.processor, self.device, self.modality = pipe.model, pipe.processor, pipe.device, pipe.modality
        self._steps = pipe.item_steps(keep_states)

    def steps(self, **options: Any) -> tuple[Callable[[Any], Any], Callable[[list[Any]], list[Any]]]:
        """As [`LavisPipeline.steps`]; a result is features, hidden states or `None`, and the state of the file."""
        prepare_item, encode = self._steps

        def prepare(entry: Mapping[str, Any]) -> Any:
            medium = entry[self.modality]
            # before it is read, so that a file that changes meanwhile counts as changed; opened images have a name
            state = file_state(local_path(getattr(medium, "filename", medium)))
            prepared = prepare_item(entry)
            return prepared if isinstance(prepared, Failure) else {**prepared, "file_state": state}

        def run(rows: list[Any]) -> list[tuple[Tensor, Tensor | None, Any]]:
            return [(*encoded, row["file_state"]) for encoded, row in zip(encode(rows), rows)]

        return prepare, run

    def task(self) -> Task:
        """The task of the job."""

        def record(result: Any, row: Mapping[str, Any]) -> dict[str, Any]:
            vector, states, state = result
            columns = file_record("", row[self.modality], row, state)
            del columns["file"]  # the worker knows it
            return {**columns, "vector": _as_array(vector), "states": None if states is None else _as_array(states)}

        return Task("index", TASKS, (), record)


def _as_array(values: Tensor) -> np.ndarray:
    return values.float().contiguous().numpy()


class FeatureFiles(Sink):
    """
    Files of features in the folder of a job.

    Args:
        output (`Path`): folder of the index.
        folder (`Path`): folder of the job.
        states_bytes (`int`): bytes of hidden states that may be written; those of the first items that fit are.
    """

    is_folder = True

    def __init__(self, output: Path, folder: Path, states_bytes: int) -> None:
        super().__init__(output, folder)
        self._states_bytes = states_bytes
        self._shapes: dict[str, Any] = {}

    def check(self) -> None:
        """Do nothing: `build_index` has checked and locked the folder of the index before the job starts."""

    def discard(self) -> None:
        """Remove nothing: what is in the index stays there."""

    def is_present(self) -> bool:
        return (self.folder / _SHAPES).exists()

    def open(self, sizes: Mapping[str, int], note: Mapping[str, Any]) -> None:
        super().open(sizes, note)
        for name in (_VECTORS, _STATES):
            self._open(name, sizes.get(name, 0))
        self._states_bytes -= sizes.get(_STATES, 0)
        self._shapes = dict(note)

    def record(self, result: Result) -> dict[str, Any]:
        record = {name: value for name, value in (result.record or {}).items() if name not in ("vector", "states")}
        for name in ("file", "path"):
            _check_unicode(record[name])
        return {**record, "num_states": len(self._stored(result))}

    def add(self, result: Result) -> None:
        vector, states = (result.record or {})["vector"], self._stored(result)
        self._shapes.setdefault("vector", list(vector.shape))
        self.files[_VECTORS].write(vector.tobytes())
        if len(states):
            self._shapes.setdefault("hidden_size", states.shape[-1])
            self.files[_STATES].write(states.tobytes())
            self._states_bytes -= states.nbytes

    def _stored(self, result: Result) -> np.ndarray:
        """The hidden states of a result that are written; none if they do not fit."""
        states = (result.record or {})["states"]
        return _NO_STATES if states is None or states.nbytes > self._states_bytes else states

    def note(self) -> dict[str, Any]:
        return self._shapes

    def finish(self, sizes: Mapping[str, int], note: Mapping[str, Any]) -> None:
        with whole_file(self.folder / _SHAPES) as partial:
            partial.write_text(json.dumps(note), encoding="utf-8")


def _check_unicode(name: str | None) -> None:
    try:
        (name or "").encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name!r} is not valid Unicode, which a table of rows needs. Rename the file.") from None


def read_features(folder: Path) -> Features | None:
    """
    What a finished job computed; `None` if it has no results.

    Args:
        folder (`Path`): folder of the job.
    """
    shapes = read_json(folder / _SHAPES)
    if "vector" not in shapes:
        return None
    arrow: Any = require("pyarrow", extra="train", purpose="the rows of an index")
    tables, counts = [], list[int]()
    with (folder / RECORDS).open("rb") as file:
        while lines := list(itertools.islice(file, _READ_RECORDS)):
            records = [json.loads(line) for line in lines]
            tables.append(records_table(records))
            counts += [record["num_states"] for record in records]
    vectors = np.memmap(folder / _VECTORS, np.float32, "r", shape=(len(counts), *shapes["vector"]))
    states = None
    if "hidden_size" in shapes:
        values = np.memmap(folder / _STATES, np.float32, "r", shape=(sum(counts), shapes["hidden_size"]))
        states = StoredStates(values, np.array(counts))
    return Features(arrow.concat_tables(tables), vectors, states)


__all__ = ["TASKS", "FeatureFiles", "Features", "ItemEncoder", "features_identity", "read_features"]
