"""The commands of docs/distributed.md, with two processes on this machine."""

import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.documentation.examples import find_examples
from tests.training.launching import ROOT, mean_loss, start_together, training_arguments, write_data

PAGE = ROOT / "docs" / "distributed.md"
PROGRAMS = {"torchrun": "torch.distributed.run", "accelerate": "accelerate.commands.accelerate_cli"}


def commands(heading: str) -> list[list[str]]:
    """The words of the commands below a heading, which train."""
    found = []
    for example in find_examples(PAGE):
        if example.language == "sh" and example.heading == heading and not example.code.startswith("#!"):
            lines = example.code.replace("\\\n", " ").splitlines()
            found += [shlex.split(line) for line in lines if "-m modeling_lavis train" in line]
    return found


def runnable(words: list[str], changes: dict[str, str], data: Path, output: Path) -> list[str]:
    """A command of the page with other values of options, and with a small training."""
    end = words.index("train") + 1
    launcher = [sys.executable, "-m", PROGRAMS[words[0]], *words[1:end]]
    for option, value in changes.items():
        launcher[launcher.index(option) + 1] = value
    return [*launcher, *training_arguments(data, output)]


@pytest.mark.slow
def test_launchers_give_the_same_model(tmp_path: Path) -> None:
    """torchrun and accelerate on one node, and torchrun on two."""
    data = write_data(tmp_path)
    by_torchrun, by_accelerate = commands("One node")
    start_together([runnable(by_torchrun, {"--nproc-per-node": "2"}, data, tmp_path / "torchrun")])

    yaml = next(example.code for example in find_examples(PAGE) if example.language == "yaml")
    for published, here in (
        ("num_processes: 8", "num_processes: 2"),
        ("mixed_precision: bf16", "mixed_precision: 'no'"),
    ):
        yaml = yaml.replace(published, here)
    (tmp_path / "node.yaml").write_text(yaml)
    changes = {"--config_file": str(tmp_path / "node.yaml")}
    start_together([runnable(by_accelerate, changes, data, tmp_path / "accelerate")])

    (several,) = commands("Several nodes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    changes = {"--nnodes": "2", "--nproc-per-node": "1", "--rdzv-endpoint": f"127.0.0.1:{port}"}
    start_together([runnable(several, changes, data, tmp_path / "nodes")] * 2, GLOO_SOCKET_IFNAME="lo")

    expected = load_file(tmp_path / "torchrun" / "model.safetensors")
    for name in ("accelerate", "nodes"):
        assert mean_loss(tmp_path / name) == pytest.approx(mean_loss(tmp_path / "torchrun"), rel=1e-6)
        found = load_file(tmp_path / name / "model.safetensors")
        assert found.keys() == expected.keys()
        assert all((found[key] - value).abs().max() < 1e-5 for key, value in expected.items())


def test_scripts_are_valid_and_recipes_exist() -> None:
    """Of the page, also what is not run."""
    from modeling_lavis.training.recipes import list_recipes

    scripts = [example.code for example in find_examples(PAGE) if example.language == "sh"]
    assert len(scripts) == 5
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        recipe = re.search(r"(?:train|launch_ray\.py) ([\w-]+)", script)
        assert recipe and recipe.group(1) in list_recipes()
