"""Indexes whose process is killed, runs out of disk, or meets another one."""

import errno
import functools
import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_lavis.evaluation.faiss_indexes import build_faiss, write_faiss
from modeling_lavis.evaluation.index_files import IndexFiles
from modeling_lavis.evaluation.index_writing import index_lock
from modeling_lavis.jobs.journal import JobError
from modeling_lavis.pipelines.retrieval import RetrievalIndex
from modeling_lavis.search import SearchIndex, build_index, remove_from_index
from tests.kills import die_after, fork, status_of
from tests.search.stubs import StubRetriever, content_of, save_pictures

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")]

KILLS = 30
STATES_BYTES = 7 * 48 * 4  # of seven images
SETTINGS: dict[str, Any] = {"index": "flat", "disk_budget": STATES_BYTES}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("faiss")
    folder = tmp_path_factory.mktemp("pictures")
    save_pictures(folder / "some", range(9))
    (folder / "some" / "broken.png").write_bytes(b"\x89PNG no image")
    shutil.copytree(folder / "some", folder / "more")
    save_pictures(folder / "more", (3, 20, 21, 22, 23))
    os.utime(folder / "more" / "003.png", ns=(1, 1))  # has changed
    return folder


def build(data: Path, index: Path, before: Callable[[Any], None] = lambda rows: None, **options: Any) -> None:
    build_index(data, StubRetriever(before), index, batch_size=2, block_size=2, num_workers=1, **SETTINGS, **options)


class Case:
    """
    A change of an index.

    Args:
        kind (`str`): `"fresh"`, `"add"` or `"remove"`.
        pictures (`Path`): folders of images.
        folder (`Path`): an empty folder.
    """

    def __init__(self, kind: str, pictures: Path, folder: Path) -> None:
        self.kind, self.index, self.start = kind, folder / "index", folder / "start"
        self.data = folder / "data"
        shutil.copytree(pictures / "some", self.data)
        if kind != "fresh":
            build(self.data, self.index)
            shutil.copytree(self.index, self.start)
        if kind == "add":
            shutil.copytree(pictures / "more", self.data, dirs_exist_ok=True)
            self.old = content_of(self.index)
        self.run()
        self.new = content_of(self.index)
        self.reset()
        self.old = None if kind == "fresh" else content_of(self.index)
        assert self.old != self.new

    def reset(self) -> None:
        """Before the change."""
        shutil.rmtree(self.index, ignore_errors=True)
        if self.kind != "fresh":
            shutil.copytree(self.start, self.index)

    def run(self, before: Callable[[Any], None] = lambda rows: None) -> None:
        """The change."""
        if self.kind != "remove":
            build(self.data, self.index, before)
        elif any(row["file"].endswith("004.png") for row in IndexFiles.open(self.index).rows.to_pylist()):
            remove_from_index(self.index, [str(self.data / "004.png"), str(self.data / "000.png")])

    def check(self) -> None:
        """What a process that was killed has left is the old or the new index, or none if there was none."""
        if not (self.index / "index.json").exists():
            assert self.old is None
            return
        files = IndexFiles.open(self.index)
        found = (files.rows.to_pylist(), files.vectors.tobytes(), files.path("faiss").read_bytes())  # type: ignore
        states = [] if self.old is None else [self.old]
        assert any(found == (state["rows"], state["vectors"], state["faiss"]) for state in [*states, self.new])

    def finish(self) -> None:
        """The same command makes of it what it would have been."""
        self.run()
        if self.kind == "remove":  # it has nothing left to do if only old files were to be removed
            remove_from_index(self.index, missing=True)
        assert content_of(self.index) == self.new


@pytest.fixture(params=["fresh", "add", "remove"])
def case(request: pytest.FixtureRequest, pictures: Path, tmp_path: Path) -> Case:
    return Case(request.param, pictures, tmp_path)


def test_killed_at_random_moments(case: Case) -> None:
    started = time.perf_counter()
    slow = functools.partial(case.run, lambda rows: time.sleep(0.003))
    assert status_of(fork(slow)) == 0
    whole = time.perf_counter() - started
    case.reset()
    draws, kills = random.Random(case.kind), 0
    while kills < KILLS // 3:
        child = fork(slow)
        time.sleep(draws.uniform(0, whole))
        os.kill(child, signal.SIGKILL)
        if status_of(child) is None:
            kills += 1
            case.check()
        if draws.random() < 0.4:  # otherwise it is killed again where it goes on
            case.finish()
            case.reset()
    case.finish()


def test_killed_before_every_change_of_the_file_system(case: Case) -> None:
    def dying(change: int) -> None:
        die_after(change)
        case.run()

    change = 0
    while (status := status_of(fork(functools.partial(dying, change)))) is None:
        case.check()
        case.finish()
        case.reset()
        change += 1
    assert status == 0 and change > 5


def test_full_disk(case: Case) -> None:
    """No file can grow beyond a limit: an error, and the index as it was; with room the same command ends."""

    def limited(size: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        case.run()

    statuses = []
    for size in (0, 1, 300, 800, 1300, 1700, 2100, 2600, 3500):
        statuses.append(status_of(fork(functools.partial(limited, size))))
        if statuses[-1] != 0:
            case.check()
            case.finish()
        case.reset()
    assert set(statuses) <= {0, errno.EFBIG} and statuses.count(errno.EFBIG) > 4


def test_a_disk_that_is_full_at_the_last_bytes_of_a_faiss_index(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    made = build_faiss(np.eye(64, dtype=np.float32), "Flat")
    write_faiss(made, tmp_path / "whole")
    size = (tmp_path / "whole").stat().st_size

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, size - 1))
        write_faiss(made, tmp_path / "part")

    assert status_of(fork(limited)) == errno.EFBIG


def test_one_process_at_a_time(pictures: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    build(pictures / "some", index)
    with index_lock(index):
        for change in (
            lambda: build(pictures / "more", index),
            lambda: remove_from_index(index, missing=True),
            lambda: RetrievalIndex("text", ["a"], torch.ones(1, 2)).save(index),
        ):
            with pytest.raises(BlockingIOError, match=f"Another process is changing the index {index}"):
                change()
        assert len(SearchIndex(index)) == 9, "reading needs no lock"
    build(pictures / "some", index)


def test_the_second_of_two_processes_gives_up(pictures: Path, tmp_path: Path) -> None:
    index, reading, writing = tmp_path / "index", *os.pipe()

    def first() -> None:
        os.write(writing, b"x")
        time.sleep(0.4)

    child = fork(lambda: build(pictures / "some", index, lambda rows: first()))
    os.read(reading, 1)
    second = status_of(fork(lambda: build(pictures / "some", index)))
    assert second not in (0, None) and status_of(child) == 0
    assert len(SearchIndex(index)) == 9


def test_readers_meet_whole_indexes_while_it_changes(pictures: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    build(pictures / "some", index)

    def change() -> None:
        for _ in range(12):
            build(pictures / "more", index)
            remove_from_index(index, [str(pictures / "more" / f"0{number}.png") for number in ("20", "21", "22", "23")])

    child, sizes = fork(change), set()
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        files = IndexFiles.open(index)
        assert len(files.rows) == len(files.vectors)
        sizes.add(len(files.rows))
    assert len(sizes) > 1


def test_files_that_came_during_the_interruption_are_indexed(pictures: Path, tmp_path: Path) -> None:
    data, index = tmp_path / "data", tmp_path / "index"
    shutil.copytree(pictures / "some", data)

    def stop(rows: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(data, index, stop)
    with pytest.raises(FileNotFoundError, match="is not an index"):
        SearchIndex(index)
    save_pictures(data, [50])
    made = build_index(data, StubRetriever(), index, batch_size=2, block_size=2, num_workers=1, **SETTINGS)
    assert (made.items, made.added, made.failed, made.with_states) == (10, 10, 1, 7)


def test_another_command_does_not_go_on(pictures: Path, tmp_path: Path) -> None:
    def stop(rows: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(pictures / "some", tmp_path / "index", stop)
    with pytest.raises(JobError, match="batch_size was 2, now it is 3"):
        build_index(pictures / "some", StubRetriever(), tmp_path / "index", batch_size=3, block_size=2)
    build(pictures / "more", tmp_path / "index", restart=True)
    assert len(SearchIndex(tmp_path / "index")) == 13


def test_records_are_not_computed_twice_after_an_interruption(tmp_path: Path) -> None:
    """A process was killed when it had computed all, before the index was written."""
    save_pictures(tmp_path, range(4))
    records = tmp_path / "records.jsonl"
    records.write_text("".join(json.dumps({"image": f"{number:03d}.png"}) + "\n" for number in range(4)))
    calls: list[int] = []

    def dying(data: Path, index: Path) -> None:
        import modeling_lavis.search.updates as updates

        updates.write_version = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        build(data, index)

    assert status_of(fork(lambda: dying(records, tmp_path / "index"))) is None
    build(records, tmp_path / "index", lambda rows: calls.append(len(rows)))
    assert len(SearchIndex(tmp_path / "index")) == 4 and calls == []
