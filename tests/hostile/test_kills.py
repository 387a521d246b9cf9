"""Processes that are killed while they write, or whose disk is full, leave nothing that loads and is wrong."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_lavis.hub.convert import convert
from modeling_lavis.hub.writing import atomic_folder
from modeling_lavis.models.modeling_base import remove_abandoned, saved_together, unfinished_folder
from tests.conversion.golden_sets import arguments
from tests.hostile.kill_worker import OPERATIONS, files_of
from tests.kills import die_after, fork, status_of
from tests.models.lavis_blip_cases import CASES

ROOT = Path(__file__).resolve().parents[2]
#: moments at which each operation is killed
KILLS = int(os.environ.get("HOSTILE_KILLS", "50"))
CASE = next(case for case in CASES if case.name == "LavisBlipForConditionalGeneration")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_at_random_moments(operation: str, goldens: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.hostile.kill_worker", operation, str(KILLS), str(tmp_path), str(goldens)]
    process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    print(operation, report)
    assert report["killed"] == KILLS


# ---- killed after each operation of the file system ----


def in_child(run: Callable[[], Any], count: int) -> bool:
    """Run in a child process that dies after so many changes; whether it ended by itself."""

    def work() -> None:
        die_after(count)
        run()

    status = status_of(fork(work))
    assert status in (0, None)
    return status == 0


def models() -> list[Any]:
    """Two models with other weights and configurations."""
    made = []
    for number in (1, 2):
        model = CASE.model()
        model.config.label_smoothing = number / 10
        with torch.no_grad():
            for value in model.parameters():
                value.fill_(number)
        made.append(model)
    return made


def loaded(folder: Path) -> int | None:
    """Which of the models a folder has, `None` if it does not load."""
    try:
        model = CASE.model_class.from_pretrained(folder)
    except OSError:
        return None
    values = {float(value) for weight in model.state_dict().values() for value in (weight.min(), weight.max())}
    assert len(values) == 1, f"weights of two models: {values}"
    number = int(values.pop())
    assert model.config.label_smoothing == number / 10, "the configuration of the other model"
    return number


@pytest.mark.parametrize("shards", [("5GB", "20KB"), ("20KB", "5GB"), ("20KB", "20KB")], ids=" ".join)
@pytest.mark.parametrize("exists", [True, False])
def test_saving_dies_at_every_step(shards: tuple[str, str], exists: bool, tmp_path: Path) -> None:
    first, second = models()
    states, count = [], 0
    folder = tmp_path / "saved"
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        if exists:
            first.save_pretrained(folder, max_shard_size=shards[0])
            (folder / "README.md").write_text("x")
        ended = in_child(lambda: second.save_pretrained(folder, max_shard_size=shards[1]), count)
        states.append(loaded(folder))
        if ended:
            break
        assert not exists or (folder / "README.md").exists()
        # the next save completes what this one left
        second.save_pretrained(folder, max_shard_size=shards[1])
        assert loaded(folder) == 2 and not any("partial" in path.name for path in folder.iterdir())
        count += 1
    assert states[-1] == 2 and count > 1
    # before the first change of the folder the old model, then none, then the new one
    assert states == sorted(states, key=lambda state: {1: 0, None: 1 if exists else 0, 2: 2}[state])


@pytest.mark.parametrize("exists", [True, False])
def test_folders_are_replaced_at_every_step(exists: bool, tmp_path: Path) -> None:
    output, count = tmp_path / "output", 0

    def write(text: str) -> None:
        with atomic_folder(output, overwrite=True) as work:
            for name in ("config.json", "a", "b"):
                (work / name).write_text(text)

    if exists:
        write("old")
    whole = [{}, *(dict.fromkeys(("config.json", "a", "b"), text) for text in ("old", "new"))]
    while not in_child(lambda: write("new"), count):
        found = {path.name: path.read_text() for path in output.iterdir()} if output.exists() else {}
        assert found in whole
        write("old") if exists else shutil.rmtree(output, ignore_errors=True)
        count += 1
    assert count > 1
    write("new")
    assert {path.name for path in tmp_path.iterdir()} == {"output"}


# ---- unfinished folders ----


def test_unfinished_folders_of_killed_processes_are_removed(tmp_path: Path) -> None:
    def stop_in_the_middle() -> None:
        with unfinished_folder(tmp_path, ".x-") as folder:
            (folder / "file").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)

    assert not in_child(stop_in_the_middle, 100)
    assert len(list(tmp_path.iterdir())) == 1
    with unfinished_folder(tmp_path, ".x-") as folder:
        assert list(tmp_path.iterdir()) == [folder]
        remove_abandoned(tmp_path, ".x-")  # of another process that starts meanwhile
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("old")
    with pytest.raises(RuntimeError), saved_together(tmp_path) as work:
        (work / "config.json").write_text("new")
        raise RuntimeError
    assert files_of(tmp_path).keys() == {"config.json"} and (tmp_path / "config.json").read_text() == "old"
    with pytest.raises(RuntimeError), saved_together(tmp_path / "a" / "b") as work:
        raise RuntimeError
    assert not (tmp_path / "a" / "b").exists()


def test_shards_do_not_stay_beside_a_single_file(tmp_path: Path) -> None:
    """transformers leaves a single file beside new shards, and loads it."""
    first, second = models()
    first.save_pretrained(tmp_path)
    second.save_pretrained(tmp_path, max_shard_size="20KB")
    assert loaded(tmp_path) == 2 and not (tmp_path / "model.safetensors").exists()
    first.save_pretrained(tmp_path)
    assert loaded(tmp_path) == 1 and len(list(tmp_path.glob("model*"))) == 1


# ---- a full disk ----


@pytest.fixture(params=["limit", "tmpfs"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder with room for less than a model, and what a child process has to do first."""
    if request.param == "limit":
        limit = 30_000
        yield tmp_path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield place, lambda: None
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def failure(run: Callable[[], Any], first: Callable[[], None]) -> str:
    """The error that something ends with in a child process."""
    reading, writing = os.pipe()

    def work() -> None:
        try:
            first()
            run()
        except Exception as error:
            os.write(writing, f"{type(error).__name__}: {error}"[:2000].encode())

    child = fork(work)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        message = pipe.read().decode()
    assert status_of(child) == 0
    return message


def test_a_conversion_to_a_full_disk(small: tuple[Path, Callable[[], None]]) -> None:
    place, first = small
    message = failure(lambda: convert(**arguments("blip_caption", place / "output")), first)
    assert "OSError" in message and str(place) in message
    assert [path.name for path in place.iterdir() if path.name != "disk"] == []


def test_saving_to_a_full_disk(small: tuple[Path, Callable[[], None]]) -> None:
    place, first = small
    model = CASE.model()
    message = failure(lambda: model.save_pretrained(place / "saved"), first)
    assert os.strerror(errno.ENOSPC) in message or os.strerror(errno.EFBIG) in message
    assert not (place / "saved").exists()


def test_saving_over_a_model_on_a_full_disk(tmp_path: Path) -> None:
    old, new = models()
    old.save_pretrained(tmp_path)
    before = files_of(tmp_path)
    message = failure(
        lambda: new.save_pretrained(tmp_path), lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    )
    assert os.strerror(errno.EFBIG) in message
    assert files_of(tmp_path) == before and loaded(tmp_path) == 1
