# SPDX-License-Identifier: Apache-2.0
"""CapFilt: captions for the images of a collection, and a filter that removes texts that do not match.

Section 3.2 of "BLIP: Bootstrapping Language-Image Pre-training" (https://arxiv.org/abs/2201.12086). Two jobs, one after
the other: all texts are scored, and a selection of them is written as a data set. The scores are a file of their own,
so that another selection needs no model.
"""

import functools
import heapq
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from modeling_lavis.files import whole_file
from modeling_lavis.jobs.api import (
    FORMATS,
    JobOptions,
    check_inputs,
    make_sink,
    open_job_source,
    output_identity,
    own_files,
    run_task,
)
from modeling_lavis.jobs.caption_filter import open_caption_filter, web_texts
from modeling_lavis.jobs.columns import ItemMaker
from modeling_lavis.jobs.items import Block, Item, Result
from modeling_lavis.jobs.journal import FILES, JOB, JobError, Journal, differences
from modeling_lavis.jobs.merging import Part, check_part, open_part
from modeling_lavis.jobs.runner import Summary, restart_job, run_job
from modeling_lavis.jobs.selection import Selection, Statistics, Thresholds
from modeling_lavis.jobs.sinks import JsonLines, Parquet, Sink
from modeling_lavis.jobs.sources import Source
from modeling_lavis.jobs.tasks import CAPFILT_SCORES, Task

_OPTIONS = tuple(JobOptions.__dataclass_fields__)
_DECODING: Mapping[str, Mapping[str, Any]] = {
    "nucleus": {"do_sample": True, "top_p": 0.9, "top_k": 0, "num_beams": 1},
    "beam": {"num_beams": 3},
}
DECODING = tuple(_DECODING)
STATISTICS = "statistics.json"
_SELECTION = Task("capfilt", {}, (), lambda result, row: dict(result))
_FORMATS = ("jsonl", "parquet", "metadata", "webdataset")


@dataclass(frozen=True)
class CapFiltSummary:
    """
    What [`capfilt`] did.

    Args:
        scoring (`Summary`): the job that scored all texts; its output are the scores.
        selection (`Summary`, *optional*): the job that wrote the data set; its inputs are the images that are kept.
        statistics (`Statistics`, *optional*): what was kept.
        examples (`tuple[dict[str, Any], ...]`): texts next to the thresholds: `file`, `item`, `text`, `source`,
            `score`, `similarity` and `kept`.
    """

    scoring: Summary
    selection: Summary | None = None
    statistics: Statistics | None = None
    examples: tuple[dict[str, Any], ...] = ()

    @property
    def failed(self) -> int:
        """Number of inputs in the lists of failures."""
        return self.scoring.failed + (0 if self.selection is None else self.selection.failed)

    def as_dict(self) -> dict[str, Any]:
        """Both summaries and the statistics."""
        selected = None if self.selection is None else self.selection.as_dict()
        statistics = None if self.statistics is None else self.statistics.as_dict()
        return {"scoring": self.scoring.as_dict(), "selection": selected, "statistics": statistics}


def capfilt(
    data: Any,
    captioner: Any,
    filter_model: Any,
    output: str | os.PathLike | None = None,
    *,
    scores: str | os.PathLike | None = None,
    decoding: str = "nucleus",
    texts: str = "both",
    min_score: float | None = None,
    min_similarity: float | None = None,
    score_quantile: float | None = None,
    similarity_quantile: float | None = None,
    examples: int = 0,
    **options: Any,
) -> CapFiltSummary:
    """
    Caption the images of a collection, score these captions and the texts from the web with a filter, and write those
    that match as a data set for training, which `load_data` reads (CapFilt, https://arxiv.org/abs/2201.12086).

    The same call resumes jobs that were interrupted.

    Args:
        data: as for [`caption`], but nothing that can be read only once. Texts from the web are in the column `text` or
            `caption`, one or a list for each image; files without records have none.
        captioner: folder or Hub id of the model that captions, or a pipeline.
        filter_model: the same for the model that matches.
        output (`str` or `os.PathLike`, *optional*): the data set, with the column `caption`, a list of the texts that
            are kept of an image, and `caption_source`, `score` and `similarity` of each. An image without any is left
            out. Images that are not in the folder of a file are named by absolute paths, which `load_data(...,
            media_root="/")` reads. Without an output, texts are scored only.
        scores (`str` or `os.PathLike`, *optional*): the scores, JSON Lines; by default `OUTPUT.scores.jsonl`. Scores of
            the same data, models and options are not computed again.
        decoding (`str`, *optional*, defaults to `"nucleus"`): `"nucleus"` for captions that are sampled from the most
            likely tokens up to 0.9, as in the paper, or `"beam"` for three beams.
        texts, min_score, min_similarity, score_quantile, similarity_quantile: see
            `modeling_lavis.jobs.selection.Selection`.
        examples (`int`, *optional*, defaults to 0): how many texts above and below the thresholds are returned.
        options: options of `generate` for the captioner, such as `num_return_sequences`, and those of [`JobOptions`].
            The form of the output is JSON Lines, Parquet, `metadata` or WebDataset. `restart` removes the scores, too,
            unless `scores` is given. `shard` is for scores without an output, which [`merge_shards`] merges.

    Returns:
        [`CapFiltSummary`]: what was done.

    Raises:
        JobError: a job was begun differently. ValueError: an option has a wrong value. OSError: the disk is full, or
            there is no such model.
    """
    if decoding not in DECODING:
        raise ValueError(f"decoding is {decoding!r}; expected {' or '.join(DECODING)}.")
    selection = Selection(texts, min_score, min_similarity, score_quantile, similarity_quantile)
    job = JobOptions(**{name: options.pop(name) for name in _OPTIONS if name in options})
    if job.engine is not None:
        raise ValueError(f"CapFilt does not run on {job.engine}. On several machines, score parts with shard=.")
    given = {**_DECODING[decoding], **{name: value for name, value in options.items() if value is not None}}
    if isinstance(data, Iterator):
        raise ValueError("The data can be read only once, but are read twice. Give files, a list or a data set.")
    sink = None
    if output is not None:
        sink = _open_sink(Path(output), data, job)
    elif scores is None:
        raise ValueError("There is neither an output nor scores. Give one of them.")
    elif selection != Selection() or job.keep or examples:
        raise ValueError("Options of a selection cannot be used without an output.")
    path = Path(scores) if scores is not None else Path(f"{os.fspath(output or '')}.scores.jsonl")
    if path.suffix.lower() != ".jsonl":
        raise ValueError(f"The scores are {path}; they are JSON Lines, so give a name that ends in .jsonl.")
    if sink is not None and path.absolute() == sink.output.absolute():
        raise ValueError(f"The output and the scores are one file, {path}. Give two.")
    known = ("image", *CAPFILT_SCORES.texts)
    if unknown := [name for name in job.columns if name not in known]:
        raise ValueError(f"columns has {', '.join(unknown)}; capfilt reads the columns {', '.join(known)}.")
    pipe = open_caption_filter(captioner, filter_model, job)
    root = None if job.media_root is None else os.path.abspath(job.media_root)
    maker = ItemMaker("image", CAPFILT_SCORES.texts, dict(job.columns), root)
    scoring_job = replace(
        job,
        output_format="jsonl",
        samples_per_shard=JobOptions.samples_per_shard,
        keep=(),
        restart=job.restart and (scores is None or output is None),
    )
    own = [path, *(own_files(sink.output, job) if sink is not None else [])]
    optional = CAPFILT_SCORES.optional
    make_source = functools.partial(open_job_source, data, maker, job=scoring_job, optional=optional, own=own)
    if sink is not None:
        _prepare_output(sink, job, functools.partial(check_inputs, data, make_source))
    scoring = run_task(CAPFILT_SCORES, pipe, given, data, path, scoring_job, make_source)
    if sink is None:
        return CapFiltSummary(scoring)
    part = open_part(path)
    check_part(part)
    source = make_source(part.folder / FILES, job=job)
    thresholds = selection.thresholds(part.records())
    selected = _select(sink, source, part, selection, thresholds, job)
    statistics = Statistics.of(part.records(), selection, thresholds)
    with whole_file(sink.folder / STATISTICS) as partial:
        partial.write_text(json.dumps(statistics.as_dict(), indent=2) + "\n", encoding="utf-8")
    found = find_examples(source, part, selection, thresholds, examples) if examples else ()
    return CapFiltSummary(scoring, selected, statistics, tuple(found))


def _open_sink(output: Path, data: Any, job: JobOptions) -> Sink:
    if job.shard is not None:
        raise ValueError(
            "shard cannot be used with an output, because quantiles are those of all parts. Score the parts without an"
            " output (scores=), merge the scores, and select from them."
        )
    if job.output_format is not None and job.output_format not in _FORMATS:
        raise ValueError(f"output_format is {job.output_format!r}; expected one of {', '.join(_FORMATS)}.")
    return make_sink(output, _SELECTION, data, job)


def _prepare_output(sink: Sink, job: JobOptions, check: Callable[[], None]) -> None:
    """Before hours of scoring: remove what an earlier run wrote, if that is wanted, and see that there is a place."""
    if job.restart:
        restart_job(sink, FORMATS, check)
    if not (sink.folder / JOB).exists():
        sink.check()


def _select(
    sink: Sink, source: Source, part: Part, selection: Selection, thresholds: Thresholds, job: JobOptions
) -> Summary:
    digest = sha256(json.dumps(part.job, sort_keys=True).encode()).hexdigest()[:16]
    identity = {
        "verb": _SELECTION.verb,
        "scores": digest,
        "selection": selection.as_dict(),
        **output_identity(sink, job.samples_per_shard),
        "keep": list(job.keep),
    }
    if (described := json.loads(json.dumps(source.describe()))) != part.job["input"]:
        raise JobError(f"The data are others than those of the scores in {part.output}: {_changes(part, described)}.")
    return run_job(
        source=source,
        worker=_Selecting(part, selection, thresholds, sink),
        sink=sink,
        journal=Journal(sink.folder),
        identity=identity,
        block_size=part.job["block_size"],
        progress=job.progress,
        unit="images",
    )


def _changes(part: Part, described: Mapping[str, Any]) -> str:
    return "; ".join(differences(part.job["input"], described))


def _blocks_with_scores(part: Part, blocks: Iterable[Block]) -> Iterator[tuple[Block, list[dict[str, Any] | None]]]:
    """Blocks with the record of each item, `None` for those that could not be scored."""
    entries, records = part.entries(), part.records()
    for block in blocks:
        for position, rows, failed in entries:
            known = list(itertools.islice(records, rows - failed))
            if position == block.position:
                break
        else:
            raise JobError(f"The scores in {part.output} end before the data. Score them again with --restart.")
        yield block, _aligned(block.items, known)


def _aligned(items: list[Item], records: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """Records are in the order of the items, without those that failed."""
    found: list[dict[str, Any] | None] = []
    rest = iter(records)
    following = next(rest, None)
    for item in items:
        is_own = following is not None and _is_of(following, item)
        found.append(following if is_own else None)
        if is_own:
            following = next(rest, None)
    if following is not None:
        raise JobError(f"There are scores of {following['file']}, which is not among the data.")
    return found


def _is_of(record: Mapping[str, Any], item: Item) -> bool:
    """Whether a record is that of an item, and not of another with the same image."""
    if item.error is not None or record["file"] != item.name:
        return False
    try:
        return [entry["text"] for entry in record["web"]] == web_texts(item.row.get("text"))
    except ValueError:
        return False


class _Selecting:
    """In place of a worker: results are the texts that are kept, and images without any have none."""

    def __init__(self, part: Part, selection: Selection, thresholds: Thresholds, sink: Sink) -> None:
        self.part, self.selection, self.thresholds, self.sink = part, selection, thresholds, sink

    def stream(self, blocks: Iterable[Block]) -> Iterator[tuple[Block, list[Result]]]:
        for block, records in _blocks_with_scores(self.part, blocks):
            results = []
            for item, record in zip(block.items, records):
                entries = [] if record is None else self.selection.candidates(record)
                if kept := [entry for entry in entries if self.thresholds.keeps(entry)]:
                    results.append(self._result(item, kept))
            yield block, results

    def _result(self, item: Item, kept: list[dict[str, Any]]) -> Result:
        values = {
            "caption": [entry["text"] for entry in kept],
            "caption_source": [entry["source"] for entry in kept],
            "score": [entry["score"] for entry in kept],
            "similarity": [entry["similarity"] for entry in kept],
        }
        if not isinstance(self.sink, (JsonLines, Parquet)):
            return Result(_without_text_file(item), {"file": item.name, **values})
        try:
            return Result(item, {"image": _path(item, self.sink.output), **values})
        except ValueError as error:
            return Result(item, error=str(error))


def _without_text_file(item: Item) -> Item:
    """The item, with the text of a sample called as a column that is not the caption."""
    if item.members is None or "txt" not in item.members:
        return item
    return replace(item, members={"web.txt" if name == "txt" else name: value for name, value in item.members.items()})


def _path(item: Item, output: Path) -> str:
    """Path of an image in the folder of an output, absolute if it is elsewhere."""
    medium = item.row["image"]
    path = medium.get("path") if isinstance(medium, Mapping) and medium.get("bytes") is None else medium
    if not isinstance(path, (str, os.PathLike)) or "://" in os.fspath(path) or os.fspath(path).startswith("data:"):
        raise ValueError(f"{item.name} is not a file that a row could name; write WebDataset shards.")
    relative = Path(os.path.relpath(path, output.absolute().parent)).as_posix()
    return os.path.abspath(path) if relative.startswith("../") else relative


def find_examples(
    source: Source, part: Part, selection: Selection, thresholds: Thresholds, count: int
) -> list[dict[str, Any]]:
    """
    The texts next to the thresholds.

    Args:
        source (`Source`): the data.
        part (`Part`): the job that scored them.
        selection (`Selection`), thresholds (`Thresholds`): what is kept.
        count (`int`): how many above and how many below.

    Returns:
        `list[dict[str, Any]]`: those that are kept, from the best, then the others; `item` is the item of the image.
    """
    above: list[Any] = []
    below: list[Any] = []
    numbers = itertools.count()
    for block, records in _blocks_with_scores(part, source.blocks(part.job["block_size"])):
        for item, record in zip(block.items, records):
            for entry in [] if record is None else selection.candidates(record):
                margin = thresholds.margin(entry)
                nearest = above if margin >= 0 else below
                example = {"file": item.name, **entry, "kept": margin >= 0, "item": item}
                heapq.heappush(nearest, (-abs(margin), next(numbers), example))
                if len(nearest) > count:
                    heapq.heappop(nearest)
    return [
        *(example for _, _, example in sorted(above, key=lambda entry: entry[:2])),
        *(example for _, _, example in sorted(below, key=lambda entry: entry[:2], reverse=True)),
    ]


__all__ = ["DECODING", "CapFiltSummary", "capfilt", "find_examples"]
