"""A process of a distributed or an interrupted retrieval run: `python -m tests.evaluation.engine_worker`.

distributed PROCESSES FOLDER   forks processes, each of which saves what it found for all heads
alone NAME WORK_DIR RESULT     one run of a head in a work folder, slow enough to be killed
"""

import os
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


def alone(name: str, work_dir: str, result: str) -> None:
    model = CASES[name].model()
    for method in ("encode_images", "score_pairs"):
        setattr(model, method, _slow(getattr(model, method)))
    partial = f"{result}.partial"
    torch.save(as_tensors(run(name, model, work_dir=work_dir, memory_budget=0, disk_budget=4000)), partial)
    os.replace(partial, result)


def _slow(method: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.05)
        return method(*args, **kwargs)

    return call


if __name__ == "__main__":
    if sys.argv[1] == "distributed":
        mp.start_processes(process, (int(sys.argv[2]), sys.argv[3]), int(sys.argv[2]), start_method="fork")
    else:
        alone(*sys.argv[2:])
