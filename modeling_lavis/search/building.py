# SPDX-License-Identifier: Apache-2.0
"""Making an index of a collection, and keeping it up to date."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from modeling_lavis.evaluation.faiss_indexes import check_kind
from modeling_lavis.evaluation.index_writing import check_index_folder, index_lock
from modeling_lavis.jobs.api import JobOptions
from modeling_lavis.jobs.columns import ItemMaker
from modeling_lavis.pipelines.loading import load
from modeling_lavis.pipelines.retrieval import ImageTextRetrievalPipeline
from modeling_lavis.search.features import TASKS
from modeling_lavis.search.summary import IndexSummary
from modeling_lavis.search.updates import Update

_NOT_FOR_INDEXES = ("output_format", "samples_per_shard", "keep", "shard", "seed", "engine", "engine_options")


def build_index(
    data: Any,
    model: Any,
    output: str | os.PathLike,
    *,
    index: str | None = None,
    memory: int | None = None,
    disk_budget: int | None = None,
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
        disk_budget (`int`, *optional*): bytes of hidden states to store, of the first items that fit. The matching head
            then ranks them without their files. About 1.8 MB per image for a ViT-B at 384 pixels. By default what the
            index was made with, or 0. Items that are in the index already keep what they have.
        options: of `modeling_lavis.jobs.JobOptions`, without those of its outputs.

    Returns:
        [`IndexSummary`].

    Raises:
        ValueError: an option has a wrong value, or the index is of another model. JobError: an earlier run, which was
            interrupted, was begun differently. OSError: the disk is full, there is no such model, or another process is
            changing the index.
    """
    if unused := [name for name in _NOT_FOR_INDEXES if name in options]:
        raise ValueError(f"{', '.join(unused)} cannot be used for an index.")
    job, folder = JobOptions(**options), Path(output)
    given = {"index": index, "memory": memory, "disk_budget": disk_budget}
    if index is not None:
        check_kind(index)
    check_index_folder(folder)
    pipe = load(TASKS, model, job.device, job.dtype) if isinstance(model, (str, os.PathLike)) else model
    if not isinstance(pipe, ImageTextRetrievalPipeline):
        raise TypeError(f"The model is {type(model).__name__}; expected a folder, a Hub id or a retrieval pipeline.")
    maker = _item_maker(pipe.modality, job)
    with index_lock(folder):
        update = Update(folder, pipe, maker, job, given)
        summary = update.run(data)
        if update.went_on and update.of_files:  # with a list of files that was made before the interruption
            later = Update(folder, pipe, maker, job, given).run(data)
            summary = replace(later, added=summary.added + later.added, seconds=summary.seconds + later.seconds)
    return summary


def _item_maker(modality: str, job: JobOptions) -> ItemMaker:
    if unknown := set(job.columns) - {modality, "start", "end"}:
        raise ValueError(f"columns has {sorted(unknown)[0]}; an index reads the columns {modality}, start, end.")
    root = None if job.media_root is None else os.path.abspath(job.media_root)
    return ItemMaker(modality, (), dict(job.columns), root)


__all__ = ["build_index"]
