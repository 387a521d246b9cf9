"""Jobs on a Ray cluster of this machine: the output of one process, whichever process is killed on the way."""

import functools
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modeling_lavis import import_utils, jobs
from modeling_lavis.cli.jobs import given_job_options
from modeling_lavis.cli.main import build_parser, main
from modeling_lavis.cli.output import UsageError
from modeling_lavis.embedded import embedded_images, embedded_model_path
from modeling_lavis.jobs import ray_engine
from modeling_lavis.jobs.ray_engine import Node, Plan, RayOptions, RayWorkers, plan
from modeling_lavis.jobs.tasks import TASKS
from tests.data.data_files import write_shard
from tests.documentation.examples import find_examples
from tests.jobs.ray_stubs import FailsFor, Kills, Rows
from tests.jobs.stubs import StubPipeline, content_of, run_stub, save_pictures

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {"batch_size": 4, "seed": 0}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Four processors, and a GPU that does not exist."""
    pytest.importorskip("ray.data")
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=4,
            num_gpus=1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=2**28,
        )
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    save_pictures(folder, 60)
    (folder / "part1" / "000040b.png").write_bytes(b"\x89PNG no image")
    return folder


def run_on_ray(data: Any, output: Path, kind: str = "jsonl", before: Any = None, replicas: int = 2) -> Any:
    """[`run_stub`] on a cluster."""
    open_pipe = StubPipeline if before is None else functools.partial(StubPipeline, before)
    worker = RayWorkers(
        open_pipe,
        TASKS["caption"],
        {},
        {**OPTIONS, "keep_downloads": kind == "webdataset"},
        RayOptions(replicas),
        1,
        "cpu",
    )
    with worker:
        return run_stub(data, output, kind, worker=worker)


def failures(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.rglob("failures.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_replicas_are_distributed_over_nodes() -> None:
    cpus = [Node(16, 0), Node(6, 0)]
    assert plan(cpus, None, None, None) == Plan(3, 6, False)
    assert plan(cpus, None, 4, "cpu") == Plan(5, 4, False)
    assert plan(cpus, 2, None, None) == Plan(2, 6, False)
    assert plan(cpus, 22, None, None) == Plan(22, 1, False)
    gpus = [Node(64, 8), Node(8, 4), Node(32, 0)]
    assert plan(gpus, None, None, None) == Plan(12, 2, True)
    assert plan(gpus, 3, 5, "cuda") == Plan(3, 5, True)
    assert plan(gpus, None, 8, "cpu") == Plan(13, 8, False)
    with pytest.raises(ValueError, match="has 12 GPUs; 13 replicas need one each"):
        plan(gpus, 13, None, None)
    with pytest.raises(ValueError, match="has 0 GPUs; 1 replicas"):
        plan(cpus, None, None, "cuda")
    with pytest.raises(ValueError, match="room for 2 replicas with 8 processors each, not for 3"):
        plan(cpus, 3, 8, None)
    with pytest.raises(ValueError, match="The device is cuda:1; expected cpu or cuda"):
        plan(gpus, None, None, "cuda:1")


def test_options_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "captions.jsonl"
    with pytest.raises(ValueError, match="engine is 'spark'; expected ray"):
        jobs.caption([], "model", output, engine="spark")
    with pytest.raises(ValueError, match="engine_options has replicas, but there is no engine"):
        jobs.caption([], "model", output, engine_options={"replicas": 2})
    with pytest.raises(ValueError, match="engine_options has nodes; the engine ray has replicas, address"):
        jobs.caption([], "model", output, engine="ray", engine_options={"nodes": 2})
    with pytest.raises(ValueError, match="replicas is 0; expected a positive integer"):
        jobs.caption([], "model", output, engine="ray", engine_options={"replicas": 0})
    with pytest.raises(ValueError, match="engine cannot be used without an output"):
        jobs.caption([], "model", engine="ray")
    with pytest.raises(ValueError, match="CapFilt does not run on ray"):
        jobs.capfilt([], "a", "b", output, engine="ray")
    with pytest.raises(TypeError, match="StubPipeline, which is not sent to workers"):
        jobs.caption([], StubPipeline(), output, engine="ray")
    monkeypatch.setattr(import_utils, "is_available", lambda module: False)
    with pytest.raises(ImportError, match=r"modeling-lavis\[ray\]"):
        RayWorkers(StubPipeline, TASKS["caption"], {}, OPTIONS, RayOptions()).__enter__()


def test_the_command_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    page = find_examples(ROOT / "docs" / "collections.md")
    (command,) = (example.code for example in page if example.heading == "Ray" and example.language == "sh")
    words = shlex.split(command)[1:]
    options = given_job_options(build_parser(words[0], words[1:]).parse_args(words))
    assert options["engine"] == "ray" and options["engine_options"] == {"address": "auto"}
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    del words[words.index("--address") : words.index("--address") + 2]
    options = given_job_options(build_parser(words[0], words[1:]).parse_args([*words, "--replicas", "3"]))
    assert options["engine_options"] == {"address": "10.0.0.1:6379", "replicas": 3}
    words = ["caption", "photos", "--output", "x.jsonl", "--replicas", "3"]
    with pytest.raises(UsageError, match="--replicas cannot be used without --engine"):
        given_job_options(build_parser(words[0], words[1:]).parse_args(words))


@pytest.mark.slow
def test_shards_are_written_as_by_one_process(cluster: Any, pictures: Path, tmp_path: Path) -> None:
    """With all that samples carry."""
    shards = tmp_path / "shards"
    shards.mkdir()
    contents = [path.read_bytes() for path in sorted(pictures.rglob("*.png"))]
    for number in range(3):
        samples = {
            f"{number}-{index}": {"png": content, "json": b'{"id": %d}' % index, "cls": b"7"}
            for index, content in enumerate(contents[20 * number : 20 * number + 20])
        }
        write_shard(shards / f"{number}.tar", samples)
    for folder, run in (("one", run_stub), ("ray", run_on_ray)):
        summary = run(shards, tmp_path / folder, "webdataset")
        assert (summary.inputs, summary.failed) == (60, 1)
    assert content_of(tmp_path / "ray") == content_of(tmp_path / "one")
    assert failures(tmp_path / "ray") == failures(tmp_path / "one")


@pytest.mark.slow
def test_killed_workers_lose_nothing(cluster: Any, pictures: Path, tmp_path: Path) -> None:
    """An actor is killed while it computes, and a task while it reads."""
    rows = [{"image": str(path), "id": index} for index, path in enumerate(sorted(pictures.rglob("*.png")))]
    run_stub(rows, tmp_path / "one.jsonl")
    run_on_ray(Rows(rows, tmp_path / "reader died", os.getpid()), tmp_path / "ray.jsonl", before=Kills(tmp_path, 1))
    assert (tmp_path / "reader died").exists() and (tmp_path / "died 0").exists()
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert failures(tmp_path / "ray.jsonl.job") == failures(tmp_path / "one.jsonl.job")


@pytest.mark.slow
def test_a_block_that_kills_its_process(
    cluster: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_ATTEMPTS", 2)
    with pytest.raises(RuntimeError, match=r"died 2 times. The block begins with .*\.png"):
        run_on_ray(pictures, tmp_path / "captions.jsonl", before=Kills(tmp_path, 9), replicas=1)
    assert sorted(path.name for path in tmp_path.glob("died *"))[:2] == ["died 0", "died 1"]


@pytest.mark.slow
def test_a_model_that_fails(cluster: Any, pictures: Path, tmp_path: Path) -> None:
    """For some rows: they are failures, also where a replica sees no others. For the first rows: the job ends."""
    some, every = FailsFor(100, 10_000), FailsFor(0, 10_000)
    run_stub(pictures, tmp_path / "one", "txt", StubPipeline(some))
    run_on_ray(pictures, tmp_path / "ray", "txt", some)
    assert content_of(tmp_path / "ray") == content_of(tmp_path / "one")
    assert failures(tmp_path / "ray") == failures(tmp_path / "one") and len(failures(tmp_path / "ray")) > 20
    with pytest.raises(RuntimeError, match="the model cannot do this"):
        run_on_ray(pictures, tmp_path / "none.jsonl", before=every, replicas=1)
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.slow
def test_a_gpu_for_each_replica(cluster: Any, tmp_path: Path) -> None:
    """The model is identified where replicas have it: on a GPU, which here is the processor in disguise."""
    photos = [str(image.path) for image in embedded_images()[:6]]
    options: dict[str, Any] = {"engine": "ray", "batch_size": 2, "block_size": 2, "num_beams": 1}
    summary = jobs.caption(photos, embedded_model_path(), tmp_path / "ray.jsonl", **options)
    assert (summary.inputs, summary.failed) == (6, 0)
    jobs.caption(photos, embedded_model_path(), tmp_path / "one.jsonl", device="cpu", **{**options, "engine": None})
    found, expected = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in ("ray.jsonl", "one.jsonl")
    )
    assert [row["caption"] for row in found] == [row["caption"] for row in expected]
    models = [json.loads((tmp_path / f"{name}.jsonl.job" / "job.json").read_text())["model"] for name in ("ray", "one")]
    assert models[0] == models[1]


@pytest.mark.slow
def test_a_killed_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """The process that writes is killed; the same command ends the job, and the command of one process agrees."""
    pytest.importorskip("ray.data")
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for index, image in enumerate(embedded_images()[:1] * 600):
        Path("photos", f"{index:04d}.png").symlink_to(image.path)
    Path("photos", "0500b.png").write_bytes(b"no image")
    options = ["--num-beams", "1", "--block-size", "8", "--device", "cpu", "--workers", "1"]
    words = ["caption", "photos", "--output", "ray.jsonl", *options]
    command = [sys.executable, "-m", "modeling_lavis", *words, "--engine", "ray", "--replicas", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = Path("ray.jsonl.job", "journal.jsonl")
    while not journal.exists() or not journal.read_bytes():
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    assert not Path("ray.jsonl").exists()
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 1, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["inputs"], summary["written"], summary["failed"]) == (601, 600, 1)
    assert main(["caption", "photos", "--output", "one.jsonl", *options]) == 1
    assert Path("ray.jsonl").read_bytes() == Path("one.jsonl").read_bytes()
    assert failures(Path("ray.jsonl.job")) == failures(Path("one.jsonl.job"))
    capfd.readouterr()
    assert main(words) == 1 and "finished before" in capfd.readouterr().out
