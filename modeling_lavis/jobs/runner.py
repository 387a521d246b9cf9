# SPDX-License-Identifier: Apache-2.0
"""Runs a job: reads blocks, computes them, and writes them down, each exactly once."""

import contextlib
import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from modeling_lavis.files import whole_file
from modeling_lavis.jobs.items import WHOLE, Block, Position, Result, Shard
from modeling_lavis.jobs.journal import JOB, JobError, Journal
from modeling_lavis.jobs.sinks import Sink
from modeling_lavis.jobs.sources import Blocks, Source
from modeling_lavis.progress import Progress, Shown

SUMMARY = "summary.json"


class BlockStream(Protocol):
    """What computes blocks: a [`Worker`], or something that has others do it, with results in the order of blocks."""

    def stream(self, blocks: Blocks) -> Iterator[tuple[Block, list[Result]]]:
        """Yield each block with one result per item."""


@dataclass(frozen=True)
class Summary:
    """
    What a job did.

    Args:
        output (`str`): the output.
        inputs (`int`): number of inputs.
        written (`int`): how many have a result.
        failed (`int`): how many are in the list of failures.
        failures (`str`): the list of failures.
        seconds (`float`): working time, over all runs.
        model_seconds (`float`): seconds that the model ran, in the last run.
        inputs_per_second (`float`): inputs per second of the last run that computed any.
        halved_batches (`int`): batches of the last run that did not fit in memory.
        was_finished (`bool`): whether there was nothing left to do.
    """

    output: str
    inputs: int
    written: int
    failed: int
    failures: str
    seconds: float
    model_seconds: float = 0.0
    inputs_per_second: float = 0.0
    halved_batches: int = 0
    was_finished: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


def job_folder(output: Path, verb: str, form: type[Sink]) -> Path:
    """
    The folder of a job: `OUTPUT.job` beside a file, and the hidden folder `.VERB.job` in a folder.

    Args:
        output (`Path`): the output.
        verb (`str`): name of the task.
        form (`type[Sink]`): form of the output.
    """
    return output / f".{verb}.job" if form.is_folder else output.with_name(f"{output.name}.job")


def run_job(
    *,
    source: Source,
    worker: BlockStream,
    sink: Sink,
    journal: Journal,
    identity: Mapping[str, Any],
    block_size: int,
    shard: Shard = WHOLE,
    progress: Shown = None,
    unit: str = "items",
) -> Summary:
    """
    Run a job, or resume it.

    Args:
        source (`Source`): where items come from.
        worker (`BlockStream`): computes them.
        sink (`Sink`): writes them.
        journal (`Journal`): progress so far; closed at the end.
        identity (`Mapping[str, Any]`): what identifies the job.
        block_size (`int`): items per block.
        shard (`Shard`, *optional*): the part of the source.
        progress (`bool` or `TextIO`, *optional*): see `modeling_lavis.progress.Progress`.
        unit (`str`, *optional*): what items are called there.

    Returns:
        [`Summary`]: what was done.

    Raises:
        JobError: the job was begun differently, or its output is in the way. OSError: the disk is full, or an input
            list cannot be read. In any case the same call resumes the job later.
    """
    try:
        if not (journal.folder / JOB).exists():
            sink.check()
        journal.check({**identity, "input": source.describe(), "block_size": block_size, "shard": str(shard)})
        path = journal.folder / SUMMARY
        if path.exists():
            _check_present(sink)
            return Summary(**{**json.loads(path.read_text(encoding="utf-8")), "was_finished": True})
        before, started = journal.rows, time.perf_counter()
        if not journal.is_complete:
            total = source.count(block_size, shard) if progress is not False else None
            shown = Progress(total, "", unit, journal.rows, journal.failed, progress)
            if journal.rows > journal.failed and (known := getattr(worker, "expect_results", None)):
                known()
            _compute(source, worker, sink, journal, block_size, shard, shown)
            journal.complete()
        sink.finish(journal.sizes, journal.note)
        _check_present(sink)  # it may have been finished before, without a summary, and removed since
        seconds = time.perf_counter() - started
        timings = getattr(worker, "timings", None)
        summary = Summary(
            output=str(sink.output),
            inputs=journal.rows,
            written=journal.rows - journal.failed,
            failed=journal.failed,
            failures=str(journal.folder / "failures.jsonl"),
            seconds=round(journal.seconds, 3),
            model_seconds=round(getattr(timings, "model", 0.0), 3),
            inputs_per_second=round((journal.rows - before) / seconds, 3),
            halved_batches=getattr(timings, "halved_batches", 0),
        )
        with whole_file(path) as partial:
            partial.write_text(json.dumps(summary.as_dict(), indent=2) + "\n", encoding="utf-8")
        return summary
    finally:
        journal.close()


def _check_present(sink: Sink) -> None:
    if not sink.is_present():
        raise JobError(f"The job in {sink.folder} was finished, but {sink.output} is gone. Start over with --restart.")


def _compute(
    source: Source,
    worker: BlockStream,
    sink: Sink,
    journal: Journal,
    block_size: int,
    shard: Shard,
    shown: Progress,
) -> None:
    """Compute and write the blocks that the journal does not have."""
    writer = _Writer(sink, journal, shown)
    results = worker.stream(Blocks(source, block_size, journal.next, shard))
    try:
        sink.open(journal.sizes, journal.note)
        writer.start()
        for block, rows in results:
            writer.put(block.position, rows)
        writer.end()
    finally:
        writer.stop()
        if close := getattr(results, "close", None):
            close()
        sink.close()
        shown.close()


class _Writer(threading.Thread):
    """Writes blocks in the order in which they come, while the next ones are computed."""

    def __init__(self, sink: Sink, journal: Journal, shown: Progress) -> None:
        super().__init__(name="writer", daemon=True)
        self._sink, self._journal, self._shown = sink, journal, shown
        self._blocks: queue.Queue[tuple[Position, list[Result]] | None] = queue.Queue(2)
        self._error: BaseException | None = None
        self._written = time.perf_counter()

    def put(self, position: Position, rows: list[Result]) -> None:
        """Hand over a block; raises what went wrong with an earlier one."""
        while self._error is None:
            try:
                return self._blocks.put((position, rows), timeout=0.1)
            except queue.Full:
                continue
        raise self._error

    def end(self) -> None:
        """Wait until everything is written; raises what went wrong."""
        self._blocks.put(None)
        self.join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Stop after the block that is being written."""
        if self.is_alive():
            with contextlib.suppress(queue.Empty):  # the thread may take the last one in between
                while True:
                    self._blocks.get_nowait()
            self._blocks.put(None)
            self.join()

    def run(self) -> None:
        try:
            while (entry := self._blocks.get()) is not None:
                self._write(*entry)
        except BaseException as error:
            self._error = error
            with contextlib.suppress(queue.Empty):  # a producer that waits for a free slot then raises the error
                while True:
                    self._blocks.get_nowait()

    def _write(self, position: Position, rows: list[Result]) -> None:
        failed = self._sink.write(rows)
        sizes = self._sink.sizes()
        if self._journal.is_sync_due():
            self._sink.sync()
        now = time.perf_counter()
        self._journal.add(position, len(rows), failed, now - self._written, sizes, self._sink.note())
        self._written = now
        self._shown.update(len(rows), failed)


def restart_job(sink: Sink, forms: Mapping[str, type[Sink]], check: Callable[[], None] = lambda: None) -> None:
    """
    Remove what an earlier run of a job wrote, if there was one: its output, in the form that it had, and its folder.

    Args:
        sink (`Sink`): output of the new run.
        forms (`Mapping[str, type[Sink]]`): forms of output by name.
        check (`Callable`, *optional*): called before anything is removed; an error of it leaves all as it is.

    Raises:
        JobError: another process works on the job. OSError: something cannot be removed.
    """
    if not sink.folder.exists():
        return
    with Journal(sink.folder).held() as journal:
        check()
        path = sink.folder / JOB
        if path.exists():
            found = journal.begin_removal()
            form = forms.get(found.get("output_format", "")) if isinstance(found, Mapping) else None
            (sink if form is None else form(sink.output, sink.folder)).discard()
            path.unlink()
        shutil.rmtree(sink.folder, ignore_errors=True)  # without job.json nothing that is left of it counts


__all__ = ["SUMMARY", "BlockStream", "Summary", "job_folder", "restart_job", "run_job"]
