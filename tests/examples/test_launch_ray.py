"""The launcher for Ray Train, with two workers on this machine; where Ray is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.example_scripts import EXAMPLES
from tests.training.launching import mean_loss, start_together, training_arguments, write_data


@pytest.mark.slow
def test_ray_gives_the_model_of_torchrun(tmp_path: Path) -> None:
    pytest.importorskip("ray.train")
    data = write_data(tmp_path)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    start_together([[*run, "modeling_lavis", "train", *training_arguments(data, tmp_path / "torchrun")]])
    script = [sys.executable, str(EXAMPLES / "launch_ray.py"), "small-retrieval", "--train-data", str(data)]
    script += ["--media-root", "/", "--output", str(tmp_path / "ray"), "--workers", "2", "--max-steps", "2", "--cpu"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(EXAMPLES.parent)
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"saved in {tmp_path / 'ray'}" in done.stdout
    assert mean_loss(tmp_path / "ray") == pytest.approx(mean_loss(tmp_path / "torchrun"), rel=1e-5)
