"""A run that is killed at random moments, also while it writes a checkpoint, ends with the weights of no kill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.trainer_cases import differing

pytest.importorskip("accelerate", reason="the Trainer needs the extra [train]")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("kills", [3, 30])
def test_killed_at_random_moments(kills: int, goldens: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.training.kill_worker", str(goldens), str(tmp_path), str(kills), "0"]
    process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["killed"] == kills
    assert kills == 3 or report["halves"] > 0, "no kill was in the middle of writing a checkpoint"
    assert [name for name in report["left"] if name.startswith("_")] == []
    assert len([name for name in report["left"] if name.startswith("checkpoint-")]) == 2
    killed, undisturbed = (torch.load(tmp_path / f"{name}.pt") for name in ("killed", "undisturbed"))
    assert differing(killed, undisturbed) == []
