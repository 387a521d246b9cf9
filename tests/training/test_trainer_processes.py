"""LavisTrainer in two processes: means of losses, evaluation in one of them or in both, whole checkpoints, resuming."""

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
def test_two_processes(goldens: Path, tmp_path: Path) -> None:
    names = ["whole", "resumed whole", "shared", "failing"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.training.processes_worker", str(goldens), str(tmp_path), *names]
    process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr[-4000:]
    found = {name: [torch.load(tmp_path / f"{name}.{number}.pt") for number in (0, 1)] for name in names}
    whole = found["whole"]
    assert differing(whole[0]["state"], whole[1]["state"]) == []

    for step in range(6):  # means over two processes and two accumulated batches
        (logged,) = [entry for entry in whole[0]["log"] if entry["step"] == step + 1 and "loss" in entry]
        parts = [value for result in whole for at, value in result["own"] if at == step]
        assert len(parts) == 4 and len(set(parts)) > 1
        assert logged["loss_itm"] == pytest.approx(sum(parts) / 4, rel=1e-5)

    assert [result["calls"] for result in whole] == [3, 0]
    recalls = [[e["eval_recall"] for e in result["log"] if "eval_recall" in e] for result in whole]
    assert recalls == [[0.1, 0.2, 0.3]] * 2
    assert [result["calls"] for result in found["shared"]] == [3, 3]
    assert differing(found["shared"][1]["state"], whole[0]["state"]) == [], "evaluation does not change the training"

    run = tmp_path / "whole"
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-4", "checkpoint-6"]
    generators = {path.name for path in (run / "checkpoint-6").glob("rng_state*")}
    assert generators == {"rng_state_0.pth", "rng_state_1.pth"}
    assert {result["best"] for result in whole} == {str(run / "checkpoint-6")}
    assert differing(found["resumed whole"][0]["state"], whole[0]["state"]) == []

    first, second = (result["error"] for result in found["failing"])
    assert first == "ArithmeticError: no captions"
    assert second == "RuntimeError: The evaluation failed in the first process: ArithmeticError: no captions"
