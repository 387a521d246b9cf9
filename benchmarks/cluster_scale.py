# SPDX-License-Identifier: Apache-2.0
"""Time of a job over a collection on many workers: its parts measured, computed up to 10^9 images, and checked here.

    python -m benchmarks.cluster_scale --images 1500 --workers 1 2 4

Captions of JPEG files by the embedded model, one thread per worker. What is measured once: processor seconds per image
to list it, to open it, of the model, to bring a result from a worker to the process that writes, to write it, and to
merge parts; and the seconds until a worker has begun. From these follow the times for any number of workers, with Ray
and as parts (`--shard`) that are merged. Both are run with a few workers on this machine and compared; on fewer
processors than workers, what all do together is divided by the number of processors.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import torch

_ROOT = Path(__file__).resolve().parent.parent
_ALONE = 200  # images of which opening and model are timed
_BATCH, _BLOCK = 8, 64
_STAGES = ("list", "open", "model", "transport", "write", "merge")
_RECORD = {"caption": "a photo of a thing on another thing", "score": -0.5, "beam_score": -0.5}
_DAY = 86400


def save_photos(folder: Path, count: int) -> None:
    """Write JPEG files of 640 x 480 pixels; as many different ones as the embedded images, linked under more names."""
    from modeling_lavis.embedded import embedded_images

    images = embedded_images()
    folder.mkdir()
    noise = np.random.RandomState(0)
    for index in range(count):
        path = folder / f"{index:06d}.jpg"
        if index >= len(images):
            os.link(folder / f"{index % len(images):06d}.jpg", path)
            continue
        with PIL.Image.open(images[index].path) as opened:
            photo = opened.convert("RGB").resize((640, 480), PIL.Image.Resampling.BICUBIC)
        grain = noise.randint(-6, 7, (480, 640, 1), dtype=np.int16)
        pixels = np.clip(np.asarray(photo, dtype=np.int16) + grain, 0, 255).astype(np.uint8)
        content = io.BytesIO()
        PIL.Image.fromarray(pixels).save(content, "JPEG", quality=90)
        path.write_bytes(content.getvalue())


class IdlePipeline:
    """A pipeline that opens and computes nothing, to measure what is around it."""

    device = torch.device("cpu")
    processor = SimpleNamespace()

    def steps(self, **options: Any) -> Any:
        """Functions of a row and of rows."""
        return dict, lambda rows: [[{"generated_text": _RECORD["caption"], "score": -0.5}] for _ in rows]


class KnownResults:
    """In the place of a worker: all results are known."""

    def stream(self, blocks: Iterable[Any]) -> Iterator[Any]:
        """The same result for all items."""
        from modeling_lavis.jobs.items import Result

        for block in blocks:
            yield block, [Result(item, {"file": item.name, **_RECORD}) for item in block.items]


def measure_stages(folder: Path, names: int) -> dict[str, float]:
    """
    Processor seconds per image of each stage, in this process with one thread of the model.

    Args:
        folder (`Path`): folder of the photos.
        names (`int`): number of names with which the stages without images are timed.
    """
    from modeling_lavis.embedded import embedded_model_path
    from modeling_lavis.jobs import merge_shards
    from modeling_lavis.jobs.items import WHOLE, Shard
    from modeling_lavis.jobs.journal import Journal
    from modeling_lavis.jobs.ray_engine import RayOptions, RayWorkers
    from modeling_lavis.jobs.runner import run_job
    from modeling_lavis.jobs.sinks import JsonLines
    from modeling_lavis.jobs.sources import Blocks, FileList, write_file_list
    from modeling_lavis.jobs.tasks import TASKS
    from modeling_lavis.pipelines.loading import load

    torch.set_num_threads(1)
    pipe = load("image-captioning", embedded_model_path(), "cpu")
    prepare, compute = pipe.steps()
    paths = [str(path) for path in sorted(folder.iterdir())[:_ALONE]]
    compute([prepare({"image": paths[0]})] * _BATCH)  # warm
    found = {}
    with _timed(found, "open", len(paths)):
        rows = [prepare({"image": path}) for path in paths]
    with _timed(found, "model", len(paths)):
        for first in range(0, len(rows), _BATCH):
            compute(rows[first : first + _BATCH])
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        with _timed(found, "list", names):
            write_file_list(work / "urls.jsonl", [f"http://host/{index}.jpg" for index in range(names)], "image")
            for _ in FileList(work / "urls.jsonl", "image").blocks(_BLOCK):
                pass
        lines = [json.dumps([f"/photos/{index}.jpg", None]) + "\n" for index in range(names)]  # which are not opened
        (work / "files.jsonl").write_text("".join(lines), encoding="utf-8")
        source = FileList(work / "files.jsonl", "image")
        identity = {"verb": "caption", "output_format": "jsonl", "inputs": [], "keep": []}

        def write(name: str, shard: Shard) -> Path:
            sink = JsonLines(work / name, work / f"{name}.job")
            run_job(
                source=source,
                worker=KnownResults(),
                sink=sink,
                journal=Journal(sink.folder),
                identity=identity,
                block_size=_BLOCK,
                shard=shard,
            )
            return sink.output

        with _timed(found, "write", names):
            write("all.jsonl", WHOLE)
        parts = [write(f"{index}.jsonl", Shard(index, 2)) for index in range(2)]
        with _timed(found, "merge", names):
            merge_shards(parts, work / "merged.jsonl")
        options = {"batch_size": _BATCH, "seed": 0}
        workers = RayWorkers(IdlePipeline, TASKS["caption"], {}, options, RayOptions(replicas=1), 1, "cpu")
        with workers:
            blocks = iter(workers.stream(Blocks(source, _BLOCK)))
            next(blocks)
            started = time.process_time()
            for _ in blocks:
                pass
            found["transport"] = (time.process_time() - started) / (names - _BLOCK)
    return found


class _timed:
    """Context manager that notes the processor seconds per image of a stage."""

    def __init__(self, found: dict[str, float], stage: str, images: int) -> None:
        self._found, self._stage, self._images = found, stage, images

    def __enter__(self) -> None:
        self._started = time.process_time()

    def __exit__(self, *error: object) -> None:
        self._found[self._stage] = (time.process_time() - self._started) / self._images


def seconds_with_ray(stages: Mapping[str, float], images: int, workers: int, cores: int | None = None) -> float:
    """
    Seconds of a job with Ray, without its start: what is slower of the workers and of the process that writes.

    Args:
        stages (`Mapping[str, float]`): seconds per image of each stage.
        images (`int`): number of images.
        workers (`int`): number of replicas, each with a processor of its own.
        cores (`int`, *optional*): processors that all share, if there are fewer.
    """
    on_worker, here = stages["open"] + stages["model"], stages["list"] + stages["transport"] + stages["write"]
    shared = (on_worker + here) / cores if cores is not None else 0.0
    return images * max(on_worker / workers, here, shared)


def seconds_in_parts(stages: Mapping[str, float], images: int, workers: int, cores: int | None = None) -> float:
    """Seconds of as many parts as workers at the same time, and of merging them; see [`seconds_with_ray`]."""
    each = stages["list"] + stages["open"] + stages["model"] + stages["write"]
    return images * (each / min(workers, cores or workers) + (stages["merge"] if workers > 1 else 0.0))


def run_commands(commands: Sequence[Sequence[str]]) -> float:
    """Seconds of commands of `modeling-lavis` that run at the same time."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(_ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    started = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-m", "modeling_lavis"]
    running = [
        subprocess.Popen([*command, *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for words in commands
    ]
    for process in running:
        _, errors = process.communicate()
        if process.returncode:
            raise SystemExit(f"{' '.join(map(str, process.args))} failed:\n{errors.decode()[-2000:]}")
    return time.perf_counter() - started


def measure_job(photos: Path, workers: int, engine: str, work: Path) -> float:
    """Seconds of a whole job in processes of its own, with `engine` `"ray"` or `"parts"`."""
    options = ["--device", "cpu", "--workers", "1", "--block-size", str(_BLOCK), "--batch-size", str(_BATCH)]
    command = ["caption", str(photos), *options]
    name = f"{photos.name}-{engine}-{workers}"
    if engine == "ray":
        words = ["--engine", "ray", "--replicas", str(workers), "--output", str(work / f"{name}.jsonl")]
        return run_commands([[*command, *words]])
    if workers == 1:
        return run_commands([[*command, "--output", str(work / f"{name}.jsonl")]])
    outputs = [str(work / f"{name}-{index}.jsonl") for index in range(1, workers + 1)]
    parts = [[*command, "--output", output, "--shard", f"{index}/{workers}"] for index, output in enumerate(outputs, 1)]
    seconds = run_commands(parts)
    return seconds + run_commands([["merge-shards", *outputs, "--output", str(work / f"{name}.jsonl")]])


def check_here(stages: Mapping[str, float], images: int, workers: Sequence[int]) -> list[dict[str, float]]:
    """Measured and computed seconds of whole jobs on this machine; the start is measured with one image per worker."""
    cores = len(os.sched_getaffinity(0))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        save_photos(work / "photos", images)
        for count in workers:
            save_photos(work / f"few-{count}", count)
            row: dict[str, float] = {"workers": count}
            for engine, seconds in (("ray", seconds_with_ray), ("parts", seconds_in_parts)):
                row[f"{engine} start"] = measure_job(work / f"few-{count}", count, engine, work)
                row[f"{engine} measured"] = measure_job(work / "photos", count, engine, work)
                row[f"{engine} computed"] = row[f"{engine} start"] + seconds(stages, images - count, count, cores)
            rows.append(row)
    return rows


def stages_table(stages: Mapping[str, float]) -> str:
    """Markdown: milliseconds per image of each stage."""
    heads = [f"{stage} ms" for stage in _STAGES]
    return _table(heads, [[f"{1000 * stages[stage]:.3f}" for stage in _STAGES]])


def check_table(rows: Sequence[Mapping[str, float]]) -> str:
    """Markdown: measured and computed seconds by number of workers."""
    heads = [f"{engine} {name}" for engine in ("ray", "parts") for name in ("start", "measured", "computed")]
    cells = [[f"{row['workers']:.0f}", *(f"{row[head]:.1f}" for head in heads)] for row in rows]
    return _table(["workers", *(f"{head} s" for head in heads)], cells)


def scale_table(stages: Mapping[str, float], images: int, workers: Sequence[int]) -> str:
    """Markdown: days for many images by number of workers, each with a processor of its own."""
    rows = []
    for count in workers:
        times = [seconds(stages, images, count) / _DAY for seconds in (seconds_with_ray, seconds_in_parts)]
        rows.append([str(count), *(f"{days:.2f}" for days in times), f"{images * stages['merge'] / _DAY:.2f}"])
    return _table(["workers", "ray days", "parts days", "of which merging"], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{' ---: |' * len(heads)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, compute, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster_scale", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1500, help="images of the jobs that are run here (%(default)s)")
    parser.add_argument("--names", type=int, default=50_000, help="names to list, transport, write and merge")
    parser.add_argument(
        "--workers", type=int, nargs="*", default=[1, 2, 4], help="workers of the jobs that are run here"
    )
    parser.add_argument("--compute", type=int, default=10**9, help="images to compute the time for (10^9)")
    parser.add_argument("--compute-workers", type=int, nargs="+", default=[1, 8, 64, 512, 4096])
    parser.add_argument("--open", type=float, metavar="S", help="seconds per image to open it, for other images")
    parser.add_argument("--model", type=float, metavar="S", help="seconds per image of another model")
    parser.add_argument("--run", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run is not None:
        print(json.dumps(measure_stages(options.run, options.names)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        photos = Path(temporary) / "photos"
        save_photos(photos, _ALONE)
        stages = measure_in_fresh_process(photos, options.names)
    print(stages_table(stages))
    if options.workers:
        print(f"\n{options.images} images on {len(os.sched_getaffinity(0))} processors:\n")
        print(check_table(check_here(stages, options.images, options.workers)))
    other = {name: value for name in ("open", "model") if (value := getattr(options, name)) is not None}
    print(f"\n{options.compute:,} images:\n")
    print(scale_table({**stages, **other}, options.compute, options.compute_workers))
    return 0


def measure_in_fresh_process(photos: Path, names: int) -> dict[str, float]:
    """[`measure_stages`] in a process of its own, with one thread."""
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.cluster_scale"]
    done = subprocess.run(
        [*command, "--run", str(photos), "--names", str(names)], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"The stages could not be measured:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
