# SPDX-License-Identifier: Apache-2.0
"""Making an index of a collection, and keeping it up to date.

Features are computed by a job in the folder of the index, `.features.jsonl` with its journal, which goes on after an
interruption. Then all files of the index are written anew, with the vectors of the items that it had before.
"""

import base64
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modeling_lavis.data.media_files import URLS
from modeling_lavis.evaluation.index_files import FAILURES, HEAD, IndexFiles, check_index_folder, write_index_files
from modeling_lavis.evaluation.index_rows import file_record, file_state, records_table
from modeling_lavis.evaluation.vector_search import build_faiss, choose_index
from modeling_lavis.files import whole_file
from modeling_lavis.jobs.api import JobOptions, open_job_source, run_task
from modeling_lavis.jobs.columns import ItemMaker
from modeling_lavis.jobs.identity import model_identity
from modeling_lavis.jobs.sources import FileList, Source
from modeling_lavis.jobs.tasks import Task
from modeling_lavis.pipelines.loading import load
from modeling_lavis.pipelines.retrieval import ImageTextRetrievalPipeline

TASKS = {"image": "image-text-retrieval", "video": "video-text-retrieval"}
_FEATURES = ".features.jsonl"
_BLOCK = 4096  # vectors of an earlier index that are copied at a time
_COMPARED = ("class", "weights", "processor")  # what has to be equal of the models of two updates
_NOT_FOR_INDEXES = ("output_format", "samples_per_shard", "keep", "shard", "seed")


@dataclass(frozen=True)
class IndexSummary:
    """
    What became of an index.

    Args:
        output (`str`): its folder.
        items (`int`): number of items.
        added (`int`): how many of them are new, or were computed again because their files had changed.
        removed (`int`): items that were removed.
        failed (`int`): inputs that could not be read.
        failures (`str`): the list of those, with reasons.
        missing (`int`): items whose files are gone; [`remove_from_index`] removes them.
        search (`str`): `"exact"`, or FAISS's description of the index.
        seconds (`float`): time of computing features.
    """

    output: str
    items: int
    added: int = 0
    removed: int = 0
    failed: int = 0
    failures: str = ""
    missing: int = 0
    search: str = "exact"
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


class _Encoder:
    """A retrieval pipeline as what a job runs: its steps are those of encoding a collection."""

    def __init__(self, pipe: ImageTextRetrievalPipeline) -> None:
        self.model, self.processor, self.device = pipe.model, pipe.processor, pipe.device
        self._steps = pipe.item_steps

    def steps(self, **options: Any) -> tuple[Callable[[Any], Any], Callable[[list[Any]], list[Any]]]:
        return self._steps()


def build_index(
    data: Any,
    model: Any,
    output: str | os.PathLike,
    *,
    index: str | None = None,
    memory: int | None = None,
    **options: Any,
) -> IndexSummary:
    """
    Index the images or videos of a collection, or bring an index up to date.

    ```python
    >>> from modeling_lavis import search  # doctest: +SKIP
    >>> search.build_index("photos", "my-matcher", "photos.index")  # doctest: +SKIP
    IndexSummary(output='photos.index', items=5000, added=5000, ...)

    ```

    Of an index that exists, files that have not changed keep their vectors. Others are added or computed again.

    Args:
        data: as for `modeling_lavis.jobs.embed`.
        model: folder or Hub id of a model with a matching head, or a retrieval pipeline.
        output (`str` or `os.PathLike`): folder of the index.
        index (`str`, *optional*): `"exact"`, `"flat"`, `"hnsw"`, `"ivf-pq"`, a description for FAISS, such as
            `"faiss:IVF1024,Flat"`, or `"auto"`, by size and memory; by default what the index was made with.
        memory (`int`, *optional*): bytes that the FAISS index may take; by default half of the machine's memory.
        options: of `modeling_lavis.jobs.JobOptions`, without those of its outputs.

    Returns:
        [`IndexSummary`].

    Raises:
        ValueError: an option has a wrong value, or the index is of another model. JobError: an earlier run, which was
            interrupted, was begun differently. OSError: the disk is full, or there is no such model.
    """
    if unused := [name for name in _NOT_FOR_INDEXES if name in options]:
        raise ValueError(f"{', '.join(unused)} cannot be used for an index.")
    job = JobOptions(**options)
    folder = Path(output)
    if index is not None:
        choose_index(0, (1,), index)  # raises
    check_index_folder(folder)
    pipe = load(TASKS, model, job.device, job.dtype) if isinstance(model, (str, os.PathLike)) else model
    if not isinstance(pipe, ImageTextRetrievalPipeline):
        raise TypeError(f"The model is {type(model).__name__}; expected a folder, a Hub id or a retrieval pipeline.")
    identity = {name: value for name, value in model_identity(pipe).items() if name in _COMPARED}
    known = IndexFiles.open(folder) if (folder / HEAD).exists() else None
    if known is not None:
        _check_model(known, identity, folder)
    head = {
        "kind": pipe.modality,
        "model": identity,
        "model_name": _model_name(pipe),
        "index": index or (known.head.get("index", "auto") if known else "auto"),
        "memory": memory if memory is not None or known is None else known.head.get("memory"),
    }
    if unknown := set(job.columns) - {pipe.modality, "start", "end"}:
        raise ValueError(f"columns has {sorted(unknown)[0]}; an index reads the columns {pipe.modality}, start, end.")
    root = None if job.media_root is None else os.path.abspath(job.media_root)
    maker = ItemMaker(pipe.modality, (), dict(job.columns), root)
    while True:
        known = IndexFiles.open(folder) if (folder / HEAD).exists() else None
        folder.mkdir(parents=True, exist_ok=True)
        features, done = folder / _FEATURES, folder / f"{_FEATURES}.done"
        _clean(features, done)  # what a process that was killed after it had merged its job may have left
        task = Task("index", TASKS, (), functools.partial(_vector_record, pipe.modality))
        make_source = functools.partial(_changed_files, data, maker, job=job, known=known)
        made = run_task(task, _Encoder(pipe), {}, data, features, job, make_source, f"{pipe.modality}s")
        journal = Path(made.failures)
        with whole_file(folder / FAILURES) as partial:
            partial.write_bytes(journal.read_bytes() if journal.exists() else b"")
        summary = _merge(folder, known, features, head)
        os.replace(journal.parent, done)  # from here on the job counts as merged
        _clean(features, done)
        if made.was_finished:  # an earlier run, since which the collection may have changed
            continue
        failures = str(folder / FAILURES)
        if summary is None:
            raise ValueError(f"The collection has nothing that can be read; see {failures}.")
        return IndexSummary(**{**summary, "failed": made.failed, "failures": failures, "seconds": made.seconds})


def _clean(features: Path, done: Path) -> None:
    """Remove the output and the journal of a job whose vectors are in the index."""
    if done.exists():
        features.unlink(missing_ok=True)
        shutil.rmtree(done)


def remove_from_index(output: str | os.PathLike, files: Sequence[str] = (), *, missing: bool = False) -> IndexSummary:
    """
    Remove items from an index.

    Args:
        output (`str` or `os.PathLike`): folder of the index.
        files (`Sequence[str]`, *optional*): names of items, as the index has them, or paths.
        missing (`bool`, *optional*, defaults to `False`): remove the items whose files are gone, too.

    Raises:
        ValueError: there is no item of a name, or none would be left. OSError: there is no index.
    """
    known = IndexFiles.open(output)
    if known.head["kind"] == "text":
        raise ValueError(f"{output} is an index of texts, which have no files. Make another one.")
    wanted = {os.path.abspath(name) for name in files} | set(files)
    records = known.rows.to_pylist()
    found: set[str] = set()
    kept = []
    for row, record in enumerate(records):
        names = {record["file"], record["path"]} & wanted
        found |= {name for name in files if name in names or os.path.abspath(name) in names}
        is_gone = missing and record["path"] is not None and file_state(record["path"]) is None
        if not names and not is_gone:
            kept.append(row)
    if unknown := sorted(set(files) - found):
        raise ValueError(f"The index {output} has no {unknown[0]!r}. Give names as the index has them, or their paths.")
    if not kept:
        raise ValueError(f"No item of {output} would be left. Delete the folder instead.")
    summary = _write(Path(output), known.head, known, kept, [records[row] for row in kept], [])
    return IndexSummary(**{**summary, "removed": len(records) - len(kept)})


def _check_model(known: IndexFiles, identity: Mapping[str, Any], folder: Path) -> None:
    had = known.head.get("model")
    if had is None:
        raise ValueError(f"{folder} does not say which model its features are from. Give another folder.")
    if different := [name for name in _COMPARED if had.get(name) != identity[name]]:
        raise ValueError(
            f"The index {folder} is of another model: its {', '.join(different)} differ. Give that model, or another"
            " folder."
        )


def _model_name(pipe: Any) -> str | None:
    name = getattr(pipe.model.config, "_name_or_path", None) or getattr(pipe.model, "name_or_path", None)
    return os.path.abspath(name) if name and os.path.isdir(name) else name or None


def _vector_record(modality: str, result: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the job writes for an item: its vectors, as float32 in base64, and the state of its file."""
    values = result.float().contiguous().numpy()
    state = file_record("", row[modality], row)
    del state["file"]
    return {**state, "shape": list(values.shape), "vector": base64.b64encode(values.tobytes()).decode("ascii")}


def _changed_files(
    data: Any, maker: ItemMaker, list_path: Path, *, job: JobOptions, known: IndexFiles | None
) -> Source:
    """The source of a collection; of files only those that the index does not have as they are."""
    is_begun = list_path.exists()
    source = open_job_source(data, maker, list_path, job)
    if is_begun or not isinstance(source, FileList):
        return source
    had = {}
    if known is not None:
        columns = (known.rows.column(name).to_pylist() for name in ("path", "bytes", "modified_ns"))
        had = {path: (size, modified) for path, size, modified in zip(*columns) if path is not None}
        names = known.rows.select(["file", "path"]).to_pylist()
        urls = {row["file"] for row in names if row["path"] is None}
    else:
        urls = set()
    with list_path.open(encoding="utf-8") as file, whole_file(list_path) as partial, partial.open("x") as filtered:
        for line in file:
            name, error = json.loads(line)
            if name in urls:
                continue
            path = os.path.abspath(name)
            if error is None and path in had and file_state(path) == had[path]:
                continue
            try:
                name.encode()
            except UnicodeEncodeError:
                error = error or f"{name!r} is no valid Unicode, which a table of rows needs. Rename the file."
            filtered.write(json.dumps([name, error]) + "\n")
    return FileList(list_path, maker.modality)


def _merge(folder: Path, known: IndexFiles | None, features: Path, head: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    Write the items that the index had and those of a job, which replace earlier ones of the same key.

    Returns:
        `dict[str, Any]`: fields of the summary; `None` if there is nothing to index.
    """
    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    places: dict[tuple[Any, ...], int] = {}
    shape = None
    key_of = _Keys()
    for place, entry in _entries(features):
        key = key_of(entry)
        records[key] = {name: entry.get(name) for name in ("file", "path", "bytes", "modified_ns", "start", "end")}
        places[key], shape = place, tuple(entry["shape"])
    earlier = [] if known is None else known.rows.to_pylist()
    key_of = _Keys()
    kept = [row for row, record in enumerate(earlier) if key_of(record) not in records]
    if shape is None and not kept:
        return None
    missing = sum(earlier[row]["path"] is not None and file_state(earlier[row]["path"]) is None for row in kept)
    is_same = known is not None and all(known.head.get(name) == head[name] for name in ("index", "memory"))
    if shape is None and known is not None and is_same:
        search = known.head.get("search", "exact")
        return {"output": str(folder), "items": len(kept), "missing": missing, "search": search}
    new = _Vectors(features, list(places.values()))
    rows = [*(earlier[row] for row in kept), *records.values()]
    summary = _write(folder, head, known, kept, rows, new, shape)
    return {**summary, "added": len(records), "missing": missing}


class _Keys:
    """
    Keys of items, given in order. Images in files of records have no path, and their names need not be unique: those of
    one name are counted.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __call__(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        name, number = record["file"], 0
        if record.get("path") is None and not name.startswith(URLS):
            number = self._counts[name] = self._counts.get(name, 0) + 1
        return record.get("path") or name, record.get("start"), record.get("end"), number


def _entries(features: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of the job's output with their places in the file."""
    if not features.exists():
        return
    with features.open("rb") as file:
        place = 0
        for line in file:
            yield place, json.loads(line)
            place += len(line)


class _Vectors:
    """Vectors in the output of a job, read one by one."""

    def __init__(self, features: Path, places: Sequence[int]) -> None:
        self.features, self.places = features, places

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[np.ndarray]:
        if not self.places:
            return
        with self.features.open("rb") as file:
            for place in self.places:
                file.seek(place)
                entry = json.loads(file.readline())
                yield np.frombuffer(base64.b64decode(entry["vector"]), np.float32).reshape(1, *entry["shape"])


def _write(
    folder: Path,
    head: Mapping[str, Any],
    known: IndexFiles | None,
    kept: Sequence[int],
    records: Sequence[Mapping[str, Any]],
    new: Any,
    shape: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """Write an index of kept rows and new vectors; a FAISS index that has exactly the kept rows is extended."""
    if known is not None:
        shape = known.vectors.shape[1:]
    if shape is None:
        raise ValueError("An index without an earlier one needs new vectors.")
    count = len(kept) + len(new)
    kind = head.get("index", "auto")
    factory = choose_index(count, shape, kind, head.get("memory"))
    search = "" if known is None else known.head.get("search", "")
    extends = (
        known is not None
        and known.path("faiss") is not None
        and known.head.get("index") == kind
        and len(kept) == len(known.vectors)
    )
    if extends and factory is not None and kind in ("auto", "ivf-pq") and {factory[:3], search[:3]} == {"IVF"}:
        factory = search  # the number of cells would change with every addition

    def blocks() -> Iterator[np.ndarray]:
        if known is not None:
            for first in range(0, len(kept), _BLOCK):
                yield known.vectors[np.asarray(kept[first : first + _BLOCK])]
        yield from new

    def faiss(vectors: np.ndarray) -> Any:
        same = known if extends and search == factory else None
        return build_faiss(vectors, str(factory), None if same is None else same.read_faiss(mapped=False))

    entries = {
        name: value for name, value in head.items() if name in ("kind", "model", "model_name", "index", "memory")
    }
    entries["search"] = factory or "exact"
    make = None if factory is None else faiss
    written = write_index_files(folder, entries, records_table(records), blocks(), (count, *shape), make_faiss=make)
    return {"output": str(folder), "items": count, "search": written.head["search"]}


__all__ = ["TASKS", "IndexSummary", "build_index", "remove_from_index"]
