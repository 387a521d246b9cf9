"""Folders that cannot be written to or read, links in circles, long paths, files that are named twice."""

import errno
import functools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modeling_lavis.data.media_files import find_inputs, matching_paths
from tests.jobs.interrupted import in_child
from tests.jobs.stubs import SINKS, run_stub, save_pictures

pytestmark = pytest.mark.slow

NOBODY = 65534


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user can reach; those of `tmp_path` are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def as_user(work: Any) -> int | None:
    """Run in a process for which permissions count; status as that of [`in_child`]."""
    return in_child(work, user=NOBODY if os.geteuid() == 0 else None)


@pytest.mark.parametrize("kind", SINKS)
def test_read_only_folders_are_read_and_nothing_is_written_to_them(shared: Path, kind: str) -> None:
    save_pictures(shared / "in", 4)
    name = f"out.{kind}" if kind in ("jsonl", "parquet") else "out"
    (shared / "open").mkdir()
    os.chmod(shared / "open", 0o777)
    run_stub(shared / "in", shared / "open" / "warm", "webdataset")  # imports what is loaded at the first use
    folders = [shared / "in" / "part0", shared / "in" / "part1", shared / "in"]
    for folder in folders:
        folder.chmod(0o555)
    try:
        # beside the images, and in a folder that would have to be made
        assert as_user(functools.partial(run_stub, shared / "in", shared / "in" / name, kind)) in (1, errno.EACCES)
        assert sorted(path.name for path in (shared / "in").iterdir()) == ["part0", "part1"]
        if kind == "metadata":  # its place is beside the images
            return
        assert as_user(functools.partial(run_stub, shared / "in", shared / "open" / name, kind)) == 0
        (failures,) = (
            (shared / "open").rglob("out*/**/failures.jsonl")
            if name == "out"
            else [shared / "open" / f"{name}.job" / "failures.jsonl"]
        )
        assert failures.read_bytes() == b""
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_texts_that_cannot_be_written_are_failures(shared: Path) -> None:
    """One folder of several is read-only."""
    save_pictures(shared, 6)
    for folder, mode in ((shared, 0o777), (shared / "part0", 0o777), (shared / "part1", 0o555)):
        folder.chmod(mode)
    try:
        assert as_user(functools.partial(run_stub, shared, shared, "txt")) == 0
    finally:
        (shared / "part1").chmod(0o755)
    failures = lines(shared / ".caption.job" / "failures.jsonl")
    assert [Path(row["file"]).parent.name for row in failures] == ["part1"] * 3
    assert all("ermission denied" in row["error"] for row in failures)
    assert len(list(shared.rglob("*.txt"))) == 3


def test_files_and_folders_that_cannot_be_read_are_failures(shared: Path) -> None:
    paths = save_pictures(shared / "in", 6)
    (shared / "open").mkdir()
    os.chmod(shared / "open", 0o777)
    paths[0].chmod(0)
    (shared / "in" / "part1").chmod(0)
    try:
        assert as_user(functools.partial(run_stub, shared / "in", shared / "open" / "out.jsonl")) == 0
    finally:
        (shared / "in" / "part1").chmod(0o755)
    failures = lines(shared / "open" / "out.jsonl.job" / "failures.jsonl")
    assert {row["file"] for row in failures} == {str(paths[0]), str(shared / "in" / "part1")}
    assert len(lines(shared / "open" / "out.jsonl")) == 2


def test_links_in_circles(tmp_path: Path) -> None:
    (first, second) = save_pictures(tmp_path / "in", 2)
    for name in ("a", "b", "part0/c"):  # of each folder there would be exponentially many
        (tmp_path / "in" / name).symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in" / "self.png").symlink_to("self.png")
    (tmp_path / "in" / "ping.png").symlink_to("pong.png")
    (tmp_path / "in" / "pong.png").symlink_to("ping.png")
    (tmp_path / "in" / "same.png").symlink_to(first)
    started = time.monotonic()
    for data in (tmp_path / "in", f"{tmp_path}/in/**/*.png", f"{tmp_path}/in/**"):
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        summary = run_stub(data, output)
        names = [os.path.relpath(row["file"], tmp_path / "in") for row in lines(output)]
        assert sorted(names) == ["part0/000000.png", "part1/000001.png", "same.png"]
        failures = lines(output.with_name(f"{output.name}.job") / "failures.jsonl")
        assert [Path(row["file"]).name for row in failures] == ["ping.png", "pong.png", "self.png"]
        assert summary.inputs == 6
    assert time.monotonic() - started < 10


def test_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of `glob`, without the folders."""
    for name in ("x.png", "[1]/x.png", "a/x.png", "a/b/x.png", "a/b/y.jpg", ".hidden/x.png", "a/.x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    everything = ["[1]/x.png", "a/b/x.png", "a/x.png", "x.png"]
    for pattern, expected in (
        ("**/*.png", everything),
        ("./**/*.png", [f"./{name}" for name in everything]),
        ("a/**/*.png", ["a/b/x.png", "a/x.png"]),
        ("a/**", ["a/b/x.png", "a/b/y.jpg", "a/x.png"]),
        ("**/b/**/*.*", ["a/b/x.png", "a/b/y.jpg"]),
        ("*/**/x.png", everything[:3]),
        ("*/*.png", ["[1]/x.png", "a/x.png"]),
        ("a**/x.png", ["a/x.png"]),
        ("missing/**/*.png", []),
    ):
        assert sorted(set(matching_paths(pattern))) == expected, pattern
    assert [entry.name for entry in find_inputs(["**/*.png"])] == everything


def test_paths_that_are_longer_than_paths_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files in such folders have no path; the folder is a failure, and what is above it is read."""
    monkeypatch.chdir(tmp_path)
    (path,) = save_pictures(tmp_path, 1)
    for _ in range(20):
        os.mkdir("n" * 240)
        os.chdir("n" * 240)
    os.link(path, "x" * 240 + ".png")
    os.chdir(tmp_path)
    summary = run_stub(tmp_path, tmp_path / "out.jsonl")
    (failure,) = lines(tmp_path / "out.jsonl.job" / "failures.jsonl")
    assert (summary.written, summary.failed) == (1, 1) and "cannot be read" in failure["error"]


@pytest.mark.parametrize("kind", SINKS)
def test_names_of_255_bytes(tmp_path: Path, kind: str) -> None:
    (path,) = save_pictures(tmp_path, 1)
    names = ["n" * 251 + ".png", "雪" * 83 + "n.png", "n" * 250 + ".jpeg"]
    for name in names:
        os.link(path, tmp_path / "part0" / name)
    output = tmp_path / {"jsonl": "out.jsonl", "parquet": "out.parquet", "metadata": "part0"}.get(kind, "out")
    summary = run_stub(tmp_path / "part0", output, kind)
    assert (summary.inputs, summary.failed) == (4, 0)


def test_a_file_that_is_named_in_several_ways_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (os.path.relpath(path) for path in save_pictures(tmp_path / "in", 2))
    data = [f"./{first}", first, str(tmp_path / first), "in", "in/**/*.png", f"in//{second.removeprefix('in/')}"]
    assert run_stub(data, tmp_path / "out.jsonl").inputs == 2
    os.symlink("in", "link")  # another name, and not compared with what it leads to
    assert run_stub(["in", "link"], tmp_path / "links.jsonl").inputs == 4


def test_names_that_are_not_unicode_have_no_place_in_metadata(tmp_path: Path) -> None:
    """One of them would make the whole file unreadable for `datasets`."""
    datasets = pytest.importorskip("datasets")
    (path,) = save_pictures(tmp_path / "in", 1)
    os.link(path, os.path.join(path.parent, os.fsdecode(b"latin-\xe9.png")))
    assert run_stub(tmp_path / "in", tmp_path / "in", "metadata").written == 1
    (failure,) = lines(tmp_path / "in" / ".caption.job" / "failures.jsonl")
    assert "not valid Unicode" in failure["error"]
    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "in"), **options)
    assert len(loaded.filter(lambda row: row["caption"] is not None)) == 1
