"""Jobs that are killed, run out of disk, or are given something else than they began with."""

import errno
import functools
import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from modeling_lavis.jobs import capfilt
from modeling_lavis.jobs.api import FORMATS
from modeling_lavis.jobs.items import Shard
from modeling_lavis.jobs.journal import JobError, Journal
from modeling_lavis.jobs.runner import job_folder, restart_job
from tests.jobs.interrupted import everything, in_child, kill_at_random
from tests.jobs.stubs import SINKS, StubFilter, StubPipeline, run_stub, save_pictures, use_stub_filter
from tests.kills import die_after

COUNT = 61  # images, among them a broken one


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    save_pictures(folder, COUNT - 1)
    (folder / "part1" / "000040b.png").write_bytes(b"\x89PNG no image")
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    save_pictures(folder, 9)
    (folder / "part1" / "000003b.png").write_bytes(b"\x89PNG no image")
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


def run_in(pictures: Path, kind: str, pipe: Any, folder: Path) -> None:
    run_stub(data_of(pictures, folder, kind), output_of(folder, kind), kind, pipe, identity={"output_format": kind})


@pytest.mark.slow
@pytest.mark.parametrize("kind", SINKS)
def test_killed_at_random_moments(pictures: Path, tmp_path: Path, kind: str) -> None:
    """The output is that of an undisturbed run, row for row."""
    run = functools.partial(run_in, pictures, kind, StubPipeline(before=lambda rows: time.sleep(0.003)))
    data_of(pictures, tmp_path / "quiet", kind)
    started = time.perf_counter()
    assert in_child(functools.partial(run, tmp_path / "quiet")) == 0
    seconds = time.perf_counter() - started
    expected = everything(tmp_path / "quiet")
    assert [Path(entry["file"]).name for entry in expected[1]] == ["000040b.png"]

    def compare(folder: Path) -> None:
        assert everything(folder) == expected

    jobs = kill_at_random(
        run, compare, tmp_path / "killed", seconds, kind, lambda folder: data_of(pictures, folder, kind)
    )
    print(f"{kind}: {jobs} jobs, {seconds:.2f} s each undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("kind", SINKS)
def test_killed_before_each_change_of_names(few: Path, tmp_path: Path, kind: str) -> None:
    """Renamed, removed and made files and folders are what a random moment seldom meets."""
    run = functools.partial(run_in, few, kind, StubPipeline())
    assert in_child(functools.partial(run, tmp_path / "quiet")) == 0
    expected = everything(tmp_path / "quiet")
    for count in range(1000):
        folder = tmp_path / str(count)
        data_of(few, folder, kind)

        def work(count: int = count, folder: Path = folder) -> None:
            die_after(count)
            run(folder)

        ended = in_child(work) == 0
        assert ended or in_child(functools.partial(run, folder)) == 0
        assert everything(folder) == expected
        if ended:
            break
    assert 4 < count < 999


@pytest.mark.slow
@pytest.mark.parametrize("kind", SINKS)
def test_killed_while_it_starts_over(few: Path, tmp_path: Path, kind: str) -> None:
    """What is left of a job that was being removed is neither gone on with nor left over."""
    run = functools.partial(run_in, few, kind, StubPipeline())
    quiet = tmp_path / "quiet"
    run(quiet)
    expected = everything(quiet)
    for count in range(1000):
        folder = tmp_path / str(count)
        output = output_of(folder, kind)

        def restart(output: Path = output) -> None:
            folder = job_folder(output, "caption", SINKS[kind])
            restart_job(SINKS[kind](output, folder, text="caption"), FORMATS)

        def work(count: int = count, restart: Any = restart) -> None:
            die_after(count)
            restart()

        run(folder)
        ended = in_child(work) == 0
        try:
            run(folder)
        except JobError as error:
            assert "--restart" in str(error)
            restart()
            run(folder)
        assert everything(folder) == expected
        if ended:
            break
    assert 4 < count < 999


@pytest.mark.slow
def test_capfilt_killed_at_random_moments(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In either of its two jobs; the scores and the data set are those of an undisturbed run."""
    use_stub_filter(monkeypatch, StubFilter(before=lambda rows: time.sleep(0.003)))
    rows = tmp_path / "rows.jsonl"
    records = [
        {"image": path.as_posix(), "text": f"text {n}"} for n, path in enumerate(sorted(pictures.rglob("*.png")))
    ]
    rows.write_text("".join(json.dumps(record) + "\n" for record in records))
    options: dict[str, Any] = {"media_root": "/", "batch_size": 4, "block_size": 8, "score_quantile": 0.5}

    def run(folder: Path) -> None:
        capfilt(rows, None, None, folder / "clean.jsonl", **options)

    (tmp_path / "quiet").mkdir()
    started = time.perf_counter()
    assert in_child(functools.partial(run, tmp_path / "quiet")) == 0
    seconds = time.perf_counter() - started
    expected = everything(tmp_path / "quiet")
    assert set(expected[0]) == {"clean.jsonl", "clean.jsonl.scores.jsonl"} and len(expected[1]) == 1
    assert 20 < expected[0]["clean.jsonl"].count(b"\n") < COUNT - 1

    def compare(folder: Path) -> None:
        assert everything(folder) == expected

    jobs = kill_at_random(run, compare, tmp_path / "killed", seconds, "capfilt")
    print(f"capfilt: {jobs} jobs, {seconds:.2f} s each undisturbed")


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
    assert errno.EFBIG in statuses and set(statuses) <= {0, errno.EFBIG}
    assert in_child(lambda: run_stub(data, output_of(folder, kind), kind)) == 0
    assert everything(folder) == everything(quiet)


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
