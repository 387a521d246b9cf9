# SPDX-License-Identifier: Apache-2.0
"""The outputs of the parts of a job (`shard="i/n"`) as the output of the whole.

Merging is a job itself, whose results are read instead of computed: it has a journal, resumes after an interruption,
and its folder is that of the job over everything, which then counts as finished.
"""

import heapq
import itertools
import json
import os
import shutil
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_lavis.data.records import kind_of, shard_samples
from modeling_lavis.files import whole_file
from modeling_lavis.import_utils import require
from modeling_lavis.jobs.api import FORMATS, JobOptions, make_sink, output_identity
from modeling_lavis.jobs.items import START, WHOLE, Block, Item, Position, Result, Shard
from modeling_lavis.jobs.journal import FILES, JOB, JobError, Journal, differences
from modeling_lavis.jobs.runner import SUMMARY, Summary, job_folder, restart_job, run_job
from modeling_lavis.jobs.shards import WebDataset, shards_in
from modeling_lavis.jobs.sinks import RECORDS, Sink
from modeling_lavis.jobs.sources import Source
from modeling_lavis.jobs.tasks import task_of_job
from modeling_lavis.progress import Shown

_OWN_FOLDERS = ("txt", "webdataset")  # forms that a merged folder has by default, if the parts have it


def merge_shards(
    parts: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    output_format: str | None = None,
    samples_per_shard: int | None = None,
    restart: bool = False,
    progress: Shown = None,
) -> Summary:
    """
    Merge the outputs of all parts of a job: the rows and failures of one job over everything, in its order.

    Args:
        parts (`Sequence[str]`): outputs of jobs that differ in `shard` alone, each finished, in any order.
        output (`str` or `os.PathLike`): the file or folder to write. A job over everything with this output then is
            finished.
        output_format (`str`, *optional*): one of `modeling_lavis.jobs.api.FORMATS`, also another than that of the
            parts; WebDataset shards are merged of WebDataset shards. By default by the suffix of the output, or that
            of the parts.
        samples_per_shard (`int`, *optional*): samples per shard of WebDataset output; by default that of the parts.
        restart (`bool`, *optional*, defaults to `False`): remove what an earlier call wrote, and begin again.
        progress (`bool` or `TextIO`, *optional*): see `modeling_lavis.progress.Progress`.

    Returns:
        [`Summary`]: what was merged.

    Raises:
        JobError: a part is missing, given twice, not finished, or of another job; the message names it. OSError: a file
            cannot be read or written.
    """
    target = Path(output)
    found = _check([open_part(Path(part)) for part in parts])
    if any(part.output.absolute() == target.absolute() for part in found):
        raise JobError(f"{target} is one of the parts. Choose another output.")
    job = found[0].job
    sink = _sink(target, job, output_format, samples_per_shard)
    if restart:
        restart_job(sink, FORMATS)
    if not (sink.folder / JOB).exists():
        sink.check()  # before anything is written
    journal = Journal(sink.folder)
    try:
        if (found[0].folder / FILES).exists():
            with whole_file(sink.folder / FILES) as partial:
                shutil.copyfile(found[0].folder / FILES, partial)
        source = _Parts(found, with_samples=isinstance(sink, WebDataset))
    except BaseException:
        journal.close()
        raise
    names = ("version", "input", "block_size", "shard", "output_format", "samples_per_shard")
    identity = {name: value for name, value in job.items() if name not in names}
    return run_job(
        source=source,
        worker=_Passing(),
        sink=sink,
        journal=journal,
        identity={**identity, **output_identity(sink, getattr(sink, "samples_per_shard", 0))},
        block_size=job["block_size"],
        progress=progress,
    )


@dataclass(frozen=True)
class Part:
    """A finished job: its output, the folder of its job, what identifies it, and which part of another it is."""

    output: Path
    folder: Path
    job: Mapping[str, Any]
    shard: Shard

    def __str__(self) -> str:
        return f"{self.shard} ({self.output})"

    @property
    def form(self) -> str:
        return str(self.job["output_format"])

    def entries(self) -> Iterator[tuple[Position, int, int]]:
        """Place, number of rows and number of failures of each block, in order."""
        with (self.folder / "journal.jsonl").open("rb") as file:
            for line in file:
                entry = json.loads(line)
                if "unit" in entry:
                    yield Position(entry["unit"], entry["block"]), entry["rows"], entry["failed"]

    def failures(self) -> Iterator[dict[str, Any]]:
        return _lines(self.folder / "failures.jsonl")

    @property
    def records_path(self) -> Path:
        """The file with the records: the output, or the log of them for an output of another form."""
        if self.form == "metadata":
            return self.output / "metadata.jsonl"
        return self.output if self.form in ("jsonl", "parquet") else self.folder / RECORDS

    def records(self) -> Iterator[dict[str, Any]]:
        if self.form != "parquet":
            yield from _lines(self.records_path)
            return
        parquet: Any = require("pyarrow.parquet", extra="train", purpose="Parquet files")
        with parquet.ParquetFile(self.records_path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()

    def count_records(self) -> int:
        if self.form != "parquet":
            return _count_lines(self.records_path)
        parquet: Any = require("pyarrow.parquet", extra="train", purpose="Parquet files")
        return int(parquet.read_metadata(self.records_path).num_rows)

    def samples(self) -> Iterator[dict[str, bytes]]:
        """The files of the samples of WebDataset shards, in order."""
        for path in sorted(shards_in(self.output), key=lambda path: int(path.stem)):
            for _, members in shard_samples(str(path)):
                yield members


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def open_part(output: Path, verb: str = "*") -> Part:
    """The job that wrote an output, of several in a folder that of a verb; [`JobError`] if there is none."""
    if output.is_dir():
        folders = sorted(path.parent for path in output.glob(f".{verb}.job/job.json"))
        if len(folders) > 1:
            raise JobError(f"{output} has the outputs of several jobs: {', '.join(path.name for path in folders)}.")
    else:
        folders = [path.parent for path in (output.with_name(f"{output.name}.job") / JOB,) if path.exists()]
    if not folders:
        raise JobError(f"{output} is not the output of a job: there is no folder of a job beside or in it.")
    try:
        job = json.loads((folders[0] / JOB).read_text(encoding="utf-8"))
        shard = Shard.parse(job["shard"])
    except (ValueError, TypeError, KeyError) as error:
        raise JobError(f"{folders[0] / 'job.json'} is broken ({error}). Run the part again with --restart.") from error
    return Part(output, folders[0], job, shard)


def _check(parts: Sequence[Part]) -> list[Part]:
    """The parts in order; [`JobError`] if they are not all parts of one job, complete and finished."""
    if not parts:
        raise JobError("There are no parts. Give the outputs of all of them.")
    first = parts[0]
    count = first.shard.count
    for part in parts:
        if part.shard == WHOLE:
            raise JobError(f"{part.output} is not a part: it was not written with --shard (shard=).")
        if changes := list(differences({**first.job, "shard": count}, {**part.job, "shard": part.shard.count})):
            raise JobError(f"{part.output} is of another job than {first.output}: {'; '.join(changes)}.")
    ordered = sorted(parts, key=lambda part: part.shard.index)
    for one, other in itertools.pairwise(ordered):
        if one.shard == other.shard:
            raise JobError(f"The part {one.shard} is given twice: {one.output} and {other.output}.")
    present = {part.shard.index for part in parts}
    if missing := [str(Shard(index, count)) for index in range(count) if index not in present]:
        raise JobError(f"There are {len(parts)} of {count} parts; missing: {', '.join(missing)}.")
    for part in ordered:
        check_part(part)
    return ordered


def check_part(part: Part) -> None:
    """Raise [`JobError`] unless a job is finished and its output has all rows that its journal has."""
    if not (part.folder / SUMMARY).exists():
        raise JobError(f"The part {part} is not finished. Repeat the command that it was begun with.")
    for path in (part.records_path, part.folder / "journal.jsonl", part.folder / "failures.jsonl"):
        if not path.is_file():
            raise FileNotFoundError(f"{path} of the part {part} is missing. Run the part again with --restart.")
    rows = failed = 0
    for _, block_rows, block_failed in part.entries():
        rows += block_rows
        failed += block_failed
    counts = (
        ("rows", part.count_records(), rows - failed),
        ("failures", _count_lines(part.folder / "failures.jsonl"), failed),
    )
    for name, present, expected in counts:
        if present != expected:
            raise JobError(
                f"The part {part} has {present} {name}, but its journal has {expected}: it was changed. Run the part"
                " again with --restart."
            )


def _sink(output: Path, job: Mapping[str, Any], output_format: str | None, samples_per_shard: int | None) -> Sink:
    task = task_of_job(job["verb"])
    if output_format is None and job["output_format"] in _OWN_FOLDERS and not output.suffix:
        output_format = job["output_format"]
    size = samples_per_shard or job.get("samples_per_shard", JobOptions.samples_per_shard)
    if output_format != "webdataset":
        size = samples_per_shard or JobOptions.samples_per_shard
    inputs = job["inputs"] if isinstance(job["inputs"], list) else []
    sink = make_sink(output, task, inputs, JobOptions(output_format=output_format, samples_per_shard=size))
    if not isinstance(sink, WebDataset):
        return sink
    if job["output_format"] != "webdataset":
        raise JobError(f"The parts are {job['output_format']}; WebDataset shards are merged of WebDataset shards.")
    files = job["input"].get("files", [])
    names = {os.path.basename(path) for path, _ in files if kind_of(path) == "webdataset"}
    folder = job_folder(output, task.verb, WebDataset)
    return _MergedShards(output, folder, text=task.text, samples_per_shard=size, inputs=names)


class _MergedShards(WebDataset):
    """Shards of samples that have all their files. `inputs` are the names of shards whose samples keep their keys."""

    def __init__(self, *args: Any, inputs: set[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._inputs = inputs

    def _key(self, result: Result) -> str:
        return self._key_of(result.item.name if result.item.name.partition("/")[0] in self._inputs else None)

    def _files(self, result: Result) -> dict[str, bytes]:
        return dict(result.item.members or {})


class _Parts(Source):
    """The parts of a job as a source of its blocks, with records in place of what the model takes."""

    def __init__(self, parts: Sequence[Part], with_samples: bool) -> None:
        self.parts, self.with_samples = parts, with_samples

    def describe(self) -> dict[str, Any]:
        return dict(self.parts[0].job["input"])

    def count(self, size: int, shard: Shard = WHOLE) -> int:
        return sum(rows for part in self.parts for _, rows, _ in part.entries())

    def blocks(self, size: int, start: Position = START, shard: Container[int] = WHOLE) -> Iterator[Block]:
        """The blocks in the order of the whole; those before `start` are read, too."""
        readers = [self._items(part) for part in self.parts]
        entries = (zip(part.entries(), itertools.repeat(number)) for number, part in enumerate(self.parts))
        for (position, rows, failed), number in heapq.merge(*entries):
            results, failures = readers[number]
            items = [*itertools.islice(results, rows - failed), *itertools.islice(failures, failed)]
            if len(items) < rows:
                raise JobError(f"The part {self.parts[number]} has fewer rows than its journal. Run it again.")
            if position >= start:
                yield Block(position, items)

    def _items(self, part: Part) -> tuple[Iterator[Item], Iterator[Item]]:
        samples: Iterable[dict[str, bytes] | None] = part.samples() if self.with_samples else itertools.repeat(None)
        results = (_item(record, members) for record, members in zip(part.records(), samples))
        failures = (Item(entry["file"], error=str(entry["error"])) for entry in part.failures())
        return results, failures


def _item(record: dict[str, Any], members: dict[str, bytes] | None) -> Item:
    name = record["file"]
    # a place in a table or a shard is not a file, beside which a text could be written
    row = {"image": name} if members is None and os.path.isfile(name) else {}
    return Item(name, row, record, members)


class _Passing:
    """In place of a worker: results are those that the parts have."""

    def stream(self, blocks: Iterable[Block]) -> Iterator[tuple[Block, list[Result]]]:
        for block in blocks:
            yield (
                block,
                [
                    Result(item, error=item.error) if item.error is not None else Result(item, dict(item.fields))
                    for item in block.items
                ],
            )


__all__ = ["Part", "check_part", "merge_shards", "open_part"]
