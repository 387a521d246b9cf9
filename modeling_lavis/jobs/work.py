# SPDX-License-Identifier: Apache-2.0
"""The work of a job: items in, results out; decoding in threads while the model runs.

[`Worker`] is all that a machine, a GPU or an actor of a cluster needs. It does not know where blocks come from and
where results go.
"""

import contextlib
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeVar

import torch

from modeling_lavis.jobs.items import Block, Item, Position, Result
from modeling_lavis.jobs.media import downloaded, opened_row
from modeling_lavis.jobs.tasks import Task
from modeling_lavis.pipelines.inputs import Failure

_T = TypeVar("_T")
# A model that fails for each of its first rows is not used any more: the rows are not the reason.
_FAILURES_AT_START = 8
_DECODER_NICENESS = 5
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


@dataclass
class _Batch:
    """Some rows of a block: `indices` of its items, with their prepared rows to come."""

    block: Block
    number: int
    indices: list[int]
    results: list[Result | None]  # of the whole block
    is_last: bool
    prepared: list["Future[Any]"] = field(default_factory=list)


@dataclass
class Timings:
    """Seconds that the model ran and that it waited for rows, and batches that did not fit in memory."""

    model: float = 0.0
    waiting: float = 0.0
    halved_batches: int = 0


class Worker:
    """
    Computes the results of blocks.

    A batch has rows of one block only, with texts of similar length; pixel values of different sizes are in different
    batches. So results do not depend on where a job began. A batch that does not fit in memory is halved. A row that
    cannot be opened, or on which the model fails, gives an error.

    Args:
        pipe (`LavisPipeline`): pipeline of the task.
        task (`Task`): what is computed.
        options (`Mapping[str, Any]`, *optional*): options of the pipeline's call.
        batch_size (`int`, *optional*, defaults to 8): rows per batch.
        num_workers (`int`, *optional*, defaults to 2): threads that open and resize images or videos.
        seed (`int`, *optional*, defaults to 0): with the place of a batch it decides about the random numbers of
            sampling.
        draft (`bool`, *optional*, defaults to `False`): decode large JPEG files at reduced size: faster, and pixels
            differ a little from the processor's.
        keep_downloads (`bool`, *optional*, defaults to `False`): put what was downloaded into the items of a block, for
            an output that stores it.
    """

    def __init__(
        self,
        pipe: Any,
        task: Task,
        options: Any = None,
        *,
        batch_size: int = 8,
        num_workers: int = 2,
        seed: int = 0,
        draft: bool = False,
        keep_downloads: bool = False,
    ) -> None:
        self.pipe, self.task = pipe, task
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.timings = Timings()
        self._prepare_row, self._run_rows = pipe.steps(**(options or {}))
        self._draft_size = draft_size(pipe) if draft else None
        self._keep_downloads = keep_downloads
        self._succeeded = self._failed = 0

    def expect_results(self) -> None:
        """
        Assume that the model works: a job that is resumed has results already, and rows on which the model fails are
        failures, even if they are the first.
        """
        self._succeeded = max(self._succeeded, 1)

    def __call__(self, block: Block) -> list[Result]:
        """The results of one block."""
        ((_, results),) = self.stream([block])
        return results

    def stream(self, blocks: Iterable[Block]) -> Iterator[tuple[Block, list[Result]]]:
        """
        Compute blocks one after the other, while the rows of the next ones are prepared.

        Args:
            blocks (`Iterable[Block]`): the blocks; read in a thread.

        Yields:
            `tuple[Block, list[Result]]`: each block, and one result per item, in order.
        """
        ahead = 2 * self.batch_size + self.num_workers  # rows that are ready or being prepared beyond a batch
        planned: deque[_Batch] = deque()
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="decoder", initializer=_yield_to_model)
        try:
            rows = 0
            for batch in self._batches(read_ahead(blocks)):
                batch.prepared = [pool.submit(self._prepare, batch.block.items, index) for index in batch.indices]
                planned.append(batch)
                rows += len(batch.indices)
                while rows - len(planned[0].indices) >= ahead:
                    batch = planned.popleft()
                    rows -= len(batch.indices)
                    yield from self._finish(batch)
            while planned:
                yield from self._finish(planned.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _batches(self, blocks: Iterable[Block]) -> Iterator[_Batch]:
        for block in blocks:
            results: list[Result | None] = [None] * len(block.items)
            order = list(range(len(block.items)))
            if self.task.texts:  # rows without texts keep their order, which reads files in order
                order.sort(key=lambda index: self.task.length(block.items[index].row))
            parts = [order[first : first + self.batch_size] for first in range(0, len(order), self.batch_size)]
            for number, part in enumerate(parts):
                yield _Batch(block, number, part, results, number == len(parts) - 1)

    def _prepare(self, items: list[Item], index: int) -> Any:
        """The prepared row of an item, or a [`Failure`]; runs in a thread."""
        item = items[index]
        if item.error is not None:
            return Failure(item.error)
        try:
            if self._keep_downloads:
                item = items[index] = downloaded(item)
            with opened_row(item, self._draft_size) as row:
                return self._prepare_row(row)
        except Exception as error:  # decoders raise errors of all types on broken files
            return Failure(str(error) or type(error).__name__)

    def _finish(self, batch: _Batch) -> Iterator[tuple[Block, list[Result]]]:
        """Run a batch. Yields its block if that is complete."""
        started = time.perf_counter()
        prepared = [future.result() for future in batch.prepared]
        ready = time.perf_counter()
        batch.prepared = []
        groups: dict[Any, list[int]] = {}
        for place, row in enumerate(prepared):
            if not isinstance(row, Failure):
                groups.setdefault(_shape(row), []).append(place)
        found: dict[int, Any] = {}
        with _seeded(self.seed, batch.block.position, batch.number, self.pipe.device):
            for places in groups.values():
                found.update(zip(places, self._compute([prepared[place] for place in places]), strict=True))
        for place, index in enumerate(batch.indices):
            item, result = batch.block.items[index], found.get(place, prepared[place])
            if isinstance(result, Failure):
                batch.results[index] = Result(item, error=result.message)
            else:
                batch.results[index] = Result(item, {"file": item.name, **self.task.record(result, item.row)})
        self.timings.waiting += ready - started
        self.timings.model += time.perf_counter() - ready
        if batch.is_last:
            yield batch.block, [result for result in batch.results if result is not None]

    def _compute(self, rows: list[Any]) -> list[Any]:
        """Results of prepared rows, or a [`Failure`] for each on which the model fails."""
        try:
            results = self._run_rows(rows)
            self._succeeded += len(rows)
            return results
        except Exception as error:
            is_memory, message = is_out_of_memory(error), str(error) or type(error).__name__
            if not is_memory and self._succeeded == 0 and self._failed + 1 >= _FAILURES_AT_START:
                raise
        # here the frames of the failed call, with their tensors, are gone
        if len(rows) == 1:
            self._failed += 1
            return [Failure(message)]
        if is_memory:
            self.timings.halved_batches += 1
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            middle = (len(rows) + 1) // 2
            return [*self._compute(rows[:middle]), *self._compute(rows[middle:])]
        return [result for row in rows for result in self._compute([row])]


def _yield_to_model() -> None:
    """
    Lower the priority of the calling thread. Where a decoding thread takes a core from one of the model's threads, the
    others wait for that one at the end of each operation.
    """
    if sys.platform == "linux":  # elsewhere priorities belong to processes
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _DECODER_NICENESS)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not enough, on a CPU or an accelerator."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY)


def read_ahead(values: Iterable[_T], size: int = 1) -> Iterator[_T]:
    """
    Iterate in a thread, so that reading continues while a value is used.

    Args:
        values (`Iterable`): the values. Errors are raised where the value would have been.
        size (`int`, *optional*, defaults to 1): number of values that are kept ready.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(size)
    stopped = threading.Event()

    def put(entry: tuple[str, Any]) -> None:
        while not stopped.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for value in values:
                put(("value", value))
                if stopped.is_set():
                    return
            put(("end", None))
        except BaseException as error:
            put(("error", error))

    thread = threading.Thread(target=read, name="reader", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "value":
                yield value
            elif kind == "error":
                raise value
            else:
                return
    finally:
        stopped.set()
        thread.join(timeout=5)  # a reader that waits for the network ends with the process


def _shape(row: Any) -> Any:
    pixel_values = row.get("pixel_values")
    return None if pixel_values is None else tuple(pixel_values.shape[1:])


def draft_size(pipe: Any) -> int | None:
    """
    Smallest side to which JPEG files may be reduced before they are resized: twice the side of the model's images, so
    that the bicubic filter still averages over all pixels that it keeps. `None` if images are not resized.
    """
    processor = getattr(pipe.processor, "image_processor", None)
    size = getattr(processor, "size", None)
    if not getattr(processor, "do_resize", False) or size is None:
        return None
    sides = [size[name] for name in ("height", "width") if name in size]
    return 2 * max(sides) if sides else None


@contextlib.contextmanager
def _seeded(seed: int, position: Position, number: int, device: torch.device) -> Iterator[None]:
    """Draw random numbers that depend on the place of a batch alone, and restore the generator of the caller."""
    digest = sha256(f"{seed}:{position.unit}:{position.block}:{number}".encode()).digest()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        yield


__all__ = ["Timings", "Worker", "draft_size", "is_out_of_memory", "read_ahead"]
