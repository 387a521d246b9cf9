"""Starts training by launchers, with a small recipe and the embedded images."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from modeling_lavis.embedded import embedded_images

ROOT = Path(__file__).resolve().parents[2]


def write_data(folder: Path) -> Path:
    """A file with all embedded images and their captions."""
    images = enumerate(embedded_images())
    rows = [{"image": str(image.path), "caption": image.caption, "image_id": number} for number, image in images]
    (folder / "train.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "train.json"


def training_arguments(data: Path, output: Path) -> list[str]:
    """Two steps of a small recipe on CPUs."""
    small = ["small-retrieval", "--train-data", str(data), "--media-root", "/", "--output", str(output)]
    return [*small, "--use-cpu", "--max-steps", "2"]


def start_together(commands: list[list[str]], **environment: str) -> None:
    """Run commands at the same time, and wait for all; without CUDA and network."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    variables["CUDA_VISIBLE_DEVICES"] = ""
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = [subprocess.Popen(command, env=variables, cwd=ROOT, **pipes) for command in commands]
    try:
        printed = [process.communicate(timeout=400)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, text in zip(started, printed):
        assert process.returncode == 0, text[-4000:]


def mean_loss(output: Path) -> float:
    """Mean loss of a run over its steps, on its first process."""
    history = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return float(next(entry["train_loss"] for entry in history if "train_loss" in entry))
