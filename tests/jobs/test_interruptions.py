"""Jobs that are killed, run out of disk, or are given something else than they began with."""

import functools
import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeling_lavis.jobs.items import Shard
from modeling_lavis.jobs.journal import JobError, Journal
from tests.jobs.stubs import SINKS, StubPipeline, content_of, run_stub, save_pictures

COUNT = 61  # images, among them a broken one


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    save_pictures(folder, COUNT - 1)
    (folder / "part1" / "000040b.png").write_bytes(b"\x89PNG no image")
    return folder


def output_of(folder: Path, kind: str) -> Path:
    return folder / {"jsonl": "captions.jsonl", "parquet": "captions.parquet"}.get(kind, "out")


def data_of(pictures: Path, folder: Path, kind: str) -> Path:
    """The images, for `metadata.jsonl` in a folder of the output that they are in."""
    if kind != "metadata":
        return pictures
    inside = folder / "out"
    if not inside.exists():
        inside.mkdir(parents=True)
        for path in sorted(pictures.rglob("*.png")):
            target = inside / path.relative_to(pictures)
            target.parent.mkdir(exist_ok=True)
            os.link(path, target)
    return inside


def everything(folder: Path, kind: str) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Output and failures, with the folder of the test left out of names."""
    (failures,) = folder.rglob("failures.jsonl")
    listed = [json.loads(line) for line in failures.read_text().splitlines()]
    found = {name: content.replace(str(folder).encode(), b"") for name, content in content_of(folder).items()}
    if kind == "parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(folder / "captions.parquet")
        found["captions.parquet"] = json.dumps(table.to_pylist()).encode()
    return found, [{"file": Path(entry["file"]).name, "error": "no image" in entry["error"]} for entry in listed]


def in_child(work: Callable[[], Any], limit: float | None = None) -> int | None:
    """Run in a forked process, which is killed after `limit` seconds. Its exit status, `None` if it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except OSError:
            os._exit(28)
        except BaseException:
            os._exit(1)
    if limit is not None:
        time.sleep(limit)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SINKS)
def test_killed_at_random_moments(pictures: Path, tmp_path: Path, kind: str) -> None:
    """30 times for the log that all forms have, and some times for each form; the output is that of a quiet run."""
    wanted = 30 if kind == "jsonl" else 6
    slow = StubPipeline(before=lambda rows: time.sleep(0.004))
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    started = time.perf_counter()
    assert in_child(lambda: run_stub(data_of(pictures, quiet, kind), output_of(quiet, kind), kind, slow)) == 0
    whole = time.perf_counter() - started
    expected = everything(quiet, kind)
    assert len(expected[1]) == 1 and expected[1][0]["file"] == "000040b.png"
    draws, kills, rounds = random.Random(kind), 0, 0
    while kills < wanted:
        rounds += 1
        folder = killed / str(rounds)
        work = functools.partial(run_stub, data_of(pictures, folder, kind), output_of(folder, kind), kind, slow)
        while True:
            status = in_child(work, draws.uniform(0, whole))
            if status is not None:
                assert status == 0
                break
            kills += 1
            if draws.random() < 0.2:  # let it end now and then
                assert in_child(work) == 0
                break
        assert everything(folder, kind) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", SINKS)
def test_full_disk(pictures: Path, tmp_path: Path, kind: str) -> None:
    """A file cannot grow beyond a limit: the job stops with an error, and goes on when there is room."""

    def limited(size: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        run_stub(data, output_of(folder, kind), kind)

    quiet, folder = tmp_path / "quiet", tmp_path / "full"
    assert in_child(lambda: run_stub(data_of(pictures, quiet, kind), output_of(quiet, kind), kind)) == 0
    data = data_of(pictures, folder, kind)
    list_size = len(json.dumps([str(data / "part0" / "000000.png"), None])) * (COUNT + 2)
    statuses = [
        in_child(functools.partial(limited, size)) for size in (1, 300, list_size, list_size + 300, list_size + 900)
    ]
    assert 28 in statuses and set(statuses) <= {0, 28}
    assert in_child(lambda: run_stub(data, output_of(folder, kind), kind)) == 0
    assert everything(folder, kind) == everything(quiet, kind)


def test_what_was_written_after_the_journal_is_cut_off(pictures: Path, tmp_path: Path) -> None:
    """As after `kill -9` between writing a block and noting it, with a torn line in the journal."""
    whole = run_stub(pictures, tmp_path / "whole.jsonl")
    expected = (tmp_path / "whole.jsonl").read_bytes()
    output = tmp_path / "part.jsonl"

    def stop(rows: list[Any]) -> None:
        if len(seen := calls) == 7:
            raise KeyboardInterrupt
        seen.append(len(rows))

    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run_stub(pictures, output, pipe=StubPipeline(before=stop))
    folder = tmp_path / "part.jsonl.job"
    assert not output.exists()
    with (folder / "records.jsonl").open("ab") as records, (folder / "journal.jsonl").open("ab") as journal:
        records.write(b'{"file": "tw')
        journal.write(b'{"unit": 5, "block": 0, "ro')
    summary = run_stub(pictures, output)
    assert output.read_bytes() == expected
    assert (summary.inputs, summary.written, summary.failed) == (COUNT, COUNT - 1, 1)
    assert (whole.inputs, whole.failed) == (COUNT, 1)
    again = run_stub(pictures, output)
    assert again.was_finished and again.inputs == COUNT and output.read_bytes() == expected


@pytest.mark.slow
def test_bytes_that_a_power_failure_lost_are_computed_again(pictures: Path, tmp_path: Path) -> None:
    run_stub(pictures, tmp_path / "whole.jsonl")
    output = tmp_path / "part.jsonl"
    calls: list[int] = []

    def stop(rows: list[Any]) -> None:
        calls.append(len(rows))
        if len(calls) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stub(pictures, output, pipe=StubPipeline(before=stop))
    records = tmp_path / "part.jsonl.job" / "records.jsonl"
    os.truncate(records, records.stat().st_size - 50)
    run_stub(pictures, output)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_other_options_are_refused_by_name(pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "captions.jsonl"
    run_stub(pictures, output, identity={"verb": "caption", "options": {"num_beams": 3, "prompt": "a"}})
    with pytest.raises(JobError, match=r'options.prompt was "a", now it is "b"') as caught:
        run_stub(pictures, output, identity={"verb": "caption", "options": {"num_beams": 3, "prompt": "b"}})
    assert "num_beams" not in str(caught.value)
    with pytest.raises(JobError, match="block_size was 8, now it is 4"):
        run_stub(
            pictures, output, block_size=4, identity={"verb": "caption", "options": {"num_beams": 3, "prompt": "a"}}
        )


@pytest.mark.slow
def test_two_processes_do_not_work_on_one_job(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "one.job")
    try:
        with pytest.raises(JobError, match="Another process"):
            Journal(tmp_path / "one.job")
    finally:
        journal.close()
    Journal(tmp_path / "one.job").close()


@pytest.mark.slow
def test_an_output_of_something_else_is_left_alone(pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "captions.jsonl"
    output.write_text("mine")
    with pytest.raises(JobError, match="exists already"):
        run_stub(pictures, output)
    assert output.read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_parts_have_the_rows_of_the_whole(pictures: Path, tmp_path: Path, count: int) -> None:
    run_stub(pictures, tmp_path / "whole.jsonl")
    parts = []
    for index in range(count):
        run_stub(pictures, tmp_path / f"{index}.jsonl", shard=Shard(index, count))
        parts.append((tmp_path / f"{index}.jsonl").read_bytes().splitlines())
    whole = (tmp_path / "whole.jsonl").read_bytes().splitlines()
    assert sorted(line for part in parts for line in part) == sorted(whole)
