"""Evaluation inside training in two processes: every task shares the rows, and no process waits for the other."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_lavis.training.recipes import load_recipe
from tests.training.run_cases import tiny_values, write_data

ROOT = Path(__file__).resolve().parents[2]
#: a script for both processes: every recipe in turn, with its data in a folder of its name
SCRIPT = """
import json, sys
from pathlib import Path
from modeling_lavis import train

folder, names, values = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
for name in names:
    data = next((folder / name).glob("*.json"))
    result = train(
        name, train_data=data, eval_data=data, output_dir=folder / f"{name}-run", values=values[name], use_cpu=True,
        ddp_backend="gloo", num_train_epochs=1, per_device_train_batch_size=2, gradient_accumulation_steps=1,
        per_device_eval_batch_size=1, disable_tqdm=True,
    )
    rank = result.trainer.args.process_index
    (folder / f"{name}-{rank}.json").write_text(json.dumps([result.trainer.args.world_size, result.metrics]))
"""


@pytest.mark.slow
def test_evaluation_is_shared(tmp_path: Path) -> None:
    names = ["small-captioning", "small-retrieval", "small-vqa", "small-nlvr", "small-classification", "small-video-qa"]
    for name in names:
        write_data(tmp_path / name, load_recipe(name).task)
    values = {name: tiny_values(name) for name in names}
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    (tmp_path / "script.py").write_text(SCRIPT)
    start = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port, str(tmp_path / "script.py")]
    done = subprocess.run(
        [sys.executable, *start, str(tmp_path), json.dumps(names), json.dumps(values)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in names:
        (size, first), (_, second) = (json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in (0, 1))
        assert size == 2 and first and first == second
