"""`modeling-lavis train`: every task on a handful of tiny images or clips, flags of the Trainer, several processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_lavis.cli.main import main
from modeling_lavis.training.recipes import load_recipe
from tests.training.run_cases import tiny_values, write_data

ROOT = Path(__file__).resolve().parents[2]
TASKS = {
    "retrieval": "recall_mean",
    "captioning": "cider",
    "vqa": "accuracy",
    "classification": "accuracy",
    "nlvr": "accuracy",
    "video-qa": "accuracy",
}


def command(recipe: str, folder: Path, *flags: str) -> list[str]:
    data = str(write_data(folder / "data", load_recipe(recipe).task))
    values = [f"{name}={json.dumps(value)}" for name, value in tiny_values(recipe).items()]
    return [
        *("train", recipe, "--train-data", data, "--eval-data", data, "--output", str(folder / "run"), "--use_cpu"),
        *("--num_train_epochs", "1", "--per-device-train-batch-size", "2", "--disable_tqdm", "true"),
        *flags,
        "--set",
        *values,
    ]


@pytest.mark.parametrize(
    "task", [task if task == "retrieval" else pytest.param(task, marks=pytest.mark.slow) for task in TASKS]
)
def test_tasks(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(f"small-{task}", tmp_path, "--check-data", "--json", "--gradient-accumulation-steps", "1")
    assert main(arguments) == 0
    written = capsys.readouterr()
    record = json.loads(written.out)  # and nothing else
    assert "'train_loss': " in written.err
    assert record["output"] == str(tmp_path / "run") and TASKS[task] in record["metrics"]
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["global_step"] == (4 if task == "nlvr" else 2)


@pytest.mark.slow
def test_flags_and_resuming(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--gradient_accumulation_steps", "1", "--learning_rate", "5e-4", "--save_strategy", "no")
    arguments = command(
        "small-retrieval", tmp_path, *flags, "--eval_strategy", "no", "--load_best_model_at_end", "false"
    )
    assert main(arguments) == 0
    assert "saved in" in capsys.readouterr().out
    recipe = load_recipe(tmp_path / "run" / "recipe.json")
    assert recipe.optimizer.learning_rate == 5e-4 and recipe.model.image_size == 32
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert main([*arguments[:-20], *arguments[-20:], "--resume"]) == 0  # nothing to resume from: from the start


@pytest.mark.slow
def test_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path, "captioning")
    required = ["--train-data", str(data), "--output", str(tmp_path / "run")]
    for arguments, status, message in (
        (["nothing", *required], 1, "There is no recipe 'nothing'"),
        (["small-captioning", "--output", "x"], 2, "--train-data"),
        (["small-captioning", *required, "--learning-rate", "fast"], 2, "invalid float value: 'fast'"),
        (["small-captioning", *required, "--output_dir", "x"], 2, "unrecognized arguments: --output_dir"),
        (["small-captioning", *required, "--set", "epochs"], 2, "--set is 'epochs'; expected NAME=VALUE"),
        (["small-captioning", *required, "--set", "run.epoch=3"], 1, "run.epoch is not a field of a recipe"),
        (["small-captioning", *required, "--model", str(tmp_path / "m.pth")], 1, "modeling-lavis convert"),
    ):
        assert main(["train", *arguments]) == status, arguments
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_bad_rows_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path, "captioning")
    rows = [*json.loads(data.read_text()), *({"image": f"none\n{number}.png", "caption": "c"} for number in range(2))]
    data.write_text(json.dumps(rows))
    given = ["train", "small-captioning", "--train-data", str(data), "--output", str(tmp_path / "run")]
    assert main([*given, "--check-data"]) == 1
    first, *others = capsys.readouterr().err.splitlines()
    assert first == f"error: 2 of {len(rows)} rows for captioning cannot be used (2 media):"
    assert len(others) == 2  # a line for each row, whatever its name is
    for number, line in enumerate(others):
        assert f"{data.name}, row {len(rows) - 2 + number}: No such image: " in line and "To do: " in line
    assert main([*given, "--columns", "text=caption"]) == 1
    assert "no column 'text'; it has image, caption" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """Two gloo processes train as one does with twice the batch; the task is one without random negatives."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    steps = ("--gradient_accumulation_steps", "1", "--ddp_backend", "gloo", "--max_grad_norm", "0")
    own = {"model.config.text_config": {**tiny_values("small-classification")["model.config.text_config"]}}
    own["model.config.text_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    arguments = command("small-classification", tmp_path, *steps)
    arguments += [f"{name}={json.dumps(value)}" for name, value in own.items()]
    arguments += ["data.transform=null", "data.transform_options={}"]
    arguments[arguments.index("--num_train_epochs") + 1] = "2"
    start = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *start, "-m", "modeling_lavis", *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("saved in") == 1  # one process prints
    single = [value if value != str(tmp_path / "run") else str(tmp_path / "single") for value in arguments]
    single[single.index("--per-device-train-batch-size") + 1] = "4"
    backend = single.index("--ddp_backend")
    assert main([*single[:backend], *single[backend + 2 :]]) == 0
    both = [load_file(tmp_path / name / "model.safetensors") for name in ("run", "single")]
    for name, value in both[0].items():
        torch.testing.assert_close(value, both[1][name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_accelerate_launch(tmp_path: Path) -> None:
    """accelerate starts the command, too; several processes on CPUs would need MPI there."""
    start = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    start += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "modeling_lavis"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *start, *command("small-retrieval", tmp_path)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "saved in" in done.stdout and (tmp_path / "run" / "model.safetensors").is_file()
