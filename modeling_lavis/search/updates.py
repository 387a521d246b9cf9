# SPDX-License-Identifier: Apache-2.0
"""Updates of an index: what is new or has changed is computed, and the next version of the index written with it.

Features are computed by a job in the hidden folder `.update-N` of the index. The head of an index counts its updates.
So after a process was killed, the folder tells how far it had come: the next run resumes the job of the next number,
and removes those that are in the index already.
"""

import functools
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modeling_lavis.evaluation.index_files import HEAD, IndexFiles
from modeling_lavis.evaluation.index_rows import file_state, iterate_rows, local_path
from modeling_lavis.evaluation.index_writing import FAILURES, remove_other_files
from modeling_lavis.files import whole_file
from modeling_lavis.jobs.api import JobOptions, open_job_source, run_task
from modeling_lavis.jobs.columns import ItemMaker
from modeling_lavis.jobs.sources import FileList, Source
from modeling_lavis.pipelines.retrieval import ImageTextRetrievalPipeline
from modeling_lavis.search.features import FeatureFiles, ItemEncoder, features_identity, read_features
from modeling_lavis.search.merging import merged_parts, write_version
from modeling_lavis.search.summary import IndexSummary

_JOB = ".update-"


class Update:
    """
    An update of an index.

    Args:
        folder (`Path`): folder of the index.
        pipe (`ImageTextRetrievalPipeline`): pipeline of the model.
        maker (`ItemMaker`): makes items of records.
        job ([`JobOptions`]): options of the job.
        given (`Mapping[str, Any]`): settings of the index, as far as they are given.

    Attributes:
        went_on (`bool`): whether an earlier process had begun the update.
        of_files (`bool`): whether the collection is a list of files.

    Raises:
        ValueError: the index is of another model.
    """

    def __init__(
        self,
        folder: Path,
        pipe: ImageTextRetrievalPipeline,
        maker: ItemMaker,
        job: JobOptions,
        given: Mapping[str, Any],
    ) -> None:
        self.folder, self.pipe, self.maker, self.job = folder, pipe, maker, job
        self.known = open_for_change(folder)
        identity = features_identity(pipe)
        had: Mapping[str, Any] = {"index": "auto", "disk_budget": 0}
        if self.known is not None:
            had = self.known.head
            _check_model(self.known, identity)
        self.settings: dict[str, Any] = {
            "kind": pipe.modality,
            "model": identity,
            "model_name": _model_name(pipe),
            **{name: had.get(name) if value is None else value for name, value in given.items()},
            "updates": had.get("updates", 0) + 1,
        }
        self.job_folder = folder / f"{_JOB}{self.settings['updates']}"
        self.went_on = self.job_folder.exists() and not job.restart
        self.of_files = False

    def run(self, data: Any) -> IndexSummary:
        """Compute what is new, and write the index with it."""
        states_bytes = self.settings["disk_budget"]
        if self.known is not None and self.known.states is not None:
            states_bytes -= self.known.states.values.nbytes
        encoder = ItemEncoder(self.pipe, keep_states=states_bytes > 0)
        sink = FeatureFiles(self.folder, self.job_folder, states_bytes)
        source = functools.partial(self._source, data)
        made = run_task(
            encoder.task(), encoder, {}, data, self.folder, self.job, source, f"{self.pipe.modality}s", sink
        )
        with whole_file(self.folder / FAILURES) as partial:
            listed = Path(made.failures)
            partial.write_bytes(listed.read_bytes() if listed.exists() else b"")
        new = read_features(self.job_folder)
        parts = merged_parts(self.known, new)
        if not parts:
            _remove_job(self.job_folder)
            raise ValueError(f"The collection has nothing that can be read; see {self.folder / FAILURES}.")
        files, added = self.known, 0
        if new is not None or files is None or self._has_new_settings(files):
            files = write_version(self.folder, self.settings, parts, self.known)
            added = len(parts[-1].rows) if new is not None else 0
        _remove_job(self.job_folder)
        return IndexSummary.of(
            files,
            added=added,
            failed=made.failed,
            failures=str(self.folder / FAILURES),
            missing=_missing(files),
            seconds=made.seconds,
        )

    def _has_new_settings(self, known: IndexFiles) -> bool:
        return any(known.head.get(name) != self.settings[name] for name in ("index", "memory", "disk_budget"))

    def _source(self, data: Any, list_path: Path) -> Source:
        """The source of the collection; of files those that the index does not have as they are."""
        is_begun = list_path.exists()
        source = open_job_source(data, self.maker, list_path, self.job)
        self.of_files = isinstance(source, FileList)
        if not self.of_files or is_begun or self.known is None:
            return source
        had = {}
        for row in iterate_rows(self.known.rows, ["file", "path", "bytes", "modified_ns", "start", "end"]):
            if row["start"] is None and row["end"] is None:
                had[row["path"] or row["file"]] = (row["bytes"], row["modified_ns"])
        with list_path.open(encoding="ascii") as listed, whole_file(list_path) as partial:
            with partial.open("x", encoding="ascii") as remaining:
                for line in listed:
                    name, error = json.loads(line)
                    if error is not None or not _is_unchanged(name, had):
                        remaining.write(line)
        return FileList(list_path, self.maker.modality)


def _is_unchanged(name: str, had: Mapping[str, Any]) -> bool:
    """Whether an index has a file as it is, or a URL."""
    path = local_path(name)
    return name in had if path is None else path in had and file_state(path) == had[path]


def _remove_job(folder: Path) -> None:
    """Remove the folder of a job, which has another name before it is incomplete."""
    done = folder.with_name(f"{folder.name}.done")
    os.rename(folder, done)
    shutil.rmtree(done)


def open_for_change(folder: Path) -> IndexFiles | None:
    """
    Open an index that will be changed, and remove what processes that were killed have left in its folder.

    Args:
        folder (`Path`): its folder.

    Returns:
        `IndexFiles` or `None`: the index, if there is one.
    """
    known = IndexFiles.open(folder) if (folder / HEAD).exists() else None
    remove_other_files(folder, None if known is None else known.head)
    updates = 0 if known is None else known.head.get("updates", 0)
    for path in folder.glob(f"{_JOB}*"):
        if path.name != f"{_JOB}{updates + 1}":
            shutil.rmtree(path)
    return known


def _check_model(known: IndexFiles, identity: Mapping[str, Any]) -> None:
    had = known.head.get("model")
    if had is None:
        raise ValueError(f"{known.folder} does not say which model its features are from. Give another folder.")
    if different := [name for name, value in identity.items() if had.get(name) != value]:
        raise ValueError(
            f"The index {known.folder} is of another model: its {', '.join(different)} differ. Give that model, or"
            " another folder."
        )


def _model_name(pipe: Any) -> str | None:
    name = getattr(pipe.model.config, "_name_or_path", None) or getattr(pipe.model, "name_or_path", None)
    return os.path.abspath(name) if name and os.path.isdir(name) else name or None


def _missing(files: IndexFiles) -> int:
    """Number of items whose files are gone."""
    paths = (row["path"] for row in iterate_rows(files.rows, ["path"]))
    return sum(path is not None and file_state(path) is None for path in paths)


__all__ = ["Update", "open_for_change"]
