"""A process of a distributed or an interrupted retrieval run: `python -m tests.evaluation.engine_worker`.

distributed PROCESSES FOLDER   forks processes, each of which saves what it found for all heads
alone NAME WORK_DIR RESULT     one run of a head in a work folder, slow enough to be killed
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing as mp

from modeling_lavis.evaluation.engine import RetrievalEngine, RetrievalResult
from tests.evaluation.collections_of_pairs import ALBEF, ALPRO, BLIP, BLIP_2, images_of, varied_texts

CASES = {case.name: case for case in (ALBEF, ALPRO, BLIP, BLIP_2)}
NUM_IMAGES, NUM_TEXTS = 7, 19
OPTIONS: dict[str, Any] = {"k": 3, "batch_size": 2, "text_batch_size": 4, "progress": False}
#: room for a few images, and none for the texts of models that fuse them
SMALL_BUDGETS = {"memory_budget": 0, "disk_budget": 4000}
#: options of the runs of several processes
RUNS: dict[str, dict[str, Any]] = {
    "memory": {},
    "recomputed": {"memory_budget": 0},
    "disk": {"memory_budget": 0, "disk_budget": 2**30},
    "faiss": {"index": "faiss"},
}


def run(name: str, model: Any = None, **options: Any) -> RetrievalResult:
    case = CASES[name]
    engine = RetrievalEngine(case.model() if model is None else model, **{**OPTIONS, **options})
    return engine.run(images_of(case, NUM_IMAGES), varied_texts(NUM_TEXTS))


def as_tensors(result: RetrievalResult) -> dict[str, torch.Tensor]:
    return {
        f"{direction}.{name}": values
        for direction in ("image_to_text", "text_to_image")
        for name, values in getattr(result, direction)._asdict().items()
    }


def process(number: int, processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), processes)
    dist.init_process_group("gloo", store=store, rank=number, world_size=processes)
    found: dict[str, Any] = {}
    for name in CASES:
        for label, options in RUNS.items():
            if label == "memory" or name in (ALBEF.name, BLIP_2.name):
                found[f"{name}, {label}"] = as_tensors(run(name, **options))
    work = Path(folder) / "work"
    found["work folder"] = as_tensors(run(ALBEF.name, work_dir=work))
    try:
        run(ALBEF.name, work_dir=work, k=4)
    except ValueError as error:
        found["refused"] = str(error)
    torch.save(found, Path(folder) / f"{number}.pt")
    dist.destroy_process_group()


def killed(name: str, folder: str) -> None:
    """Kill every run soon after it has written something, and save the result of the one that ends, and the kills."""
    work, result = Path(folder) / "work", Path(folder) / "result.pt"
    context, kills = mp.get_context("fork"), 0
    while not result.exists():
        before = names_in(work)
        run_once = context.Process(target=alone, args=(name, work, result))
        run_once.start()
        while run_once.is_alive() and not names_in(work) - before:
            time.sleep(0.001)
        time.sleep(0.004 * (kills % 5))
        if run_once.is_alive():
            run_once.kill()
            kills += 1
        run_once.join()
        if run_once.exitcode not in (0, -signal.SIGKILL):
            raise SystemExit(f"a run failed after {kills} kills")
    (Path(folder) / "kills").write_text(str(kills))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def alone(name: str, work_dir: Path, result: Path) -> None:
    torch.set_num_threads(1)
    model = CASES[name].model()
    for method in ("encode_images", "score_pairs"):
        setattr(model, method, _slow(getattr(model, method)))
    partial = result.with_name("partial")
    torch.save(as_tensors(run(name, model, work_dir=work_dir, **SMALL_BUDGETS)), partial)
    os.replace(partial, result)


def _slow(method: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.02)
        return method(*args, **kwargs)

    return call


if __name__ == "__main__":
    if sys.argv[1] == "distributed":
        mp.start_processes(process, (int(sys.argv[2]), sys.argv[3]), int(sys.argv[2]), start_method="fork")
    else:
        killed(*sys.argv[2:])
