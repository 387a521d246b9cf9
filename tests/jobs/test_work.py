"""The worker: batches, failures, memory."""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_lavis.jobs.items import Block, Item, Position, Shard
from modeling_lavis.jobs.tasks import TASKS
from modeling_lavis.jobs.work import Worker, _yield_to_model, is_out_of_memory, read_ahead
from tests.jobs.stubs import StubPipeline


def worker_of(before: Any = lambda rows: None, **options: Any) -> Worker:
    return Worker(StubPipeline(before, opens=False), TASKS["caption"], **{"batch_size": 4, **options})


def block_of(count: int, unit: int = 0) -> Block:
    return Block(Position(unit), [Item(f"i{n}", {"image": "x" * (n + 1)}) for n in range(count)])


def captions(results: list[Any]) -> list[Any]:
    return [None if result.record is None else result.record["caption"] for result in results]


def test_results_are_in_the_order_of_items_with_texts_of_equal_length_together() -> None:
    batches: list[list[int]] = []
    worker = worker_of(lambda rows: batches.append([row["value"] for row in rows]), batch_size=2)
    prompts = ["long prompt", "a", "long prompt", "b"]
    items = [Item(f"i{n}", {"image": "x" * (n + 1), "prompt": prompt}) for n, prompt in enumerate(prompts)]
    results = worker(Block(Position(), items))
    assert batches == [[2, 4], [1, 3]]
    assert captions(results) == ["value 1", "value 2", "value 3", "value 4"]
    assert [result.record["prompt"] for result in results if result.record] == prompts


def test_batches_do_not_cross_blocks_and_random_numbers_depend_on_the_place_alone() -> None:
    blocks = [block_of(5, unit) for unit in range(3)]
    together = [results for _, results in worker_of().stream(blocks)]
    torch.rand(3)
    alone = [worker_of(num_workers=1)(block) for block in blocks]
    assert together == alone
    assert len({result.record["score"] for results in together for result in results if result.record}) == 15
    assert together != [results for _, results in worker_of(seed=1).stream(blocks)]


def test_a_batch_that_does_not_fit_is_halved() -> None:
    sizes: list[int] = []

    def too_large(rows: list[Any]) -> None:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    worker = worker_of(too_large, batch_size=5)
    assert captions(worker(block_of(5))) == [f"value {n}" for n in range(1, 6)]
    assert sizes == [5, 3, 2, 1, 2] and worker.timings.halved_batches == 2


def test_a_row_that_never_fits_is_a_failure() -> None:
    def too_large(rows: list[Any]) -> None:
        if any(row["value"] == 3 for row in rows):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    results = worker_of(too_large)(block_of(6))
    assert captions(results) == ["value 1", "value 2", None, "value 4", "value 5", "value 6"]
    assert "can't allocate memory" in str(results[2].error)


def test_a_row_on_which_the_model_fails_does_not_take_its_batch_along() -> None:
    def fails(rows: list[Any]) -> None:
        if any(row["value"] == 2 for row in rows):
            raise ValueError("no such token")

    results = worker_of(fails)(block_of(4))
    assert captions(results) == ["value 1", None, "value 3", "value 4"] and results[1].error == "no such token"


def test_a_model_that_always_fails_ends_the_job() -> None:
    def fails(rows: list[Any]) -> None:
        raise ValueError("wrong option")

    with pytest.raises(ValueError, match="wrong option"):
        list(worker_of(fails).stream([block_of(20)]))


def test_errors_of_the_reader_are_raised() -> None:
    def blocks() -> Any:
        yield block_of(2)
        raise OSError("the network is gone")

    with pytest.raises(OSError, match="the network is gone"):
        list(worker_of().stream(blocks()))


def test_reading_stops_with_its_reader() -> None:
    read: list[int] = []

    def values() -> Any:
        for number in range(1000):
            read.append(number)
            yield number

    ahead = read_ahead(values())
    assert next(ahead) == 0
    ahead.close()
    assert len(read) < 10


def test_kinds_of_memory_errors() -> None:
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("x"))
    assert not is_out_of_memory(ValueError("out of memory")) and not is_out_of_memory(RuntimeError("shape"))


def test_parts_of_a_collection() -> None:
    assert [unit in Shard.parse("2/3") for unit in range(6)] == [False, True, False, False, True, False]
    assert str(Shard.parse("2/3")) == "2/3"
    for text in ("0/3", "4/3", "3", "a/b", "1/0", "-1/2"):
        with pytest.raises(ValueError, match="part"):
            Shard.parse(text)


def test_records_are_json(tmp_path: Path) -> None:
    record = TASKS["caption"].record([{"generated_text": "a", "score": float("-inf")}], {})
    assert json.loads(json.dumps(record, allow_nan=False)) == {"caption": "a", "score": None}


@pytest.mark.skipif(sys.platform != "linux", reason="priorities belong to processes, not to threads")
def test_decoding_threads_leave_the_cores_to_the_model() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    decoders: list[int] = []
    worker = worker_of(lambda rows: None)
    prepare = worker._prepare_row
    worker._prepare_row = lambda row: (decoders.append(priority()), prepare(row))[1]
    before = priority()
    worker(block_of(5))
    assert decoders == [min(before + 5, 19)] * 5 and priority() == before


@pytest.mark.skipif(sys.platform != "linux", reason="priorities belong to processes, not to threads")
def test_decoding_threads_of_a_process_of_low_priority() -> None:
    """As on a cluster, where jobs are started by `nice`: threads never ask for a higher priority, which is refused."""
    found: list[tuple[int, int]] = []

    def start(niceness: int) -> None:
        thread = threading.get_native_id()
        before = max(niceness, os.getpriority(os.PRIO_PROCESS, thread))
        os.setpriority(os.PRIO_PROCESS, thread, before)
        _yield_to_model()
        found.append((before, os.getpriority(os.PRIO_PROCESS, thread)))

    for niceness in (10, 17, 19):
        thread = threading.Thread(target=start, args=(niceness,))
        thread.start()
        thread.join()
    assert len(found) == 3 and all(after == min(before + 5, 19) for before, after in found), found
