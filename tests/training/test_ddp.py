"""Several processes under transformers' Trainer, with default flags, against one with the batches of all, in float64.

`ddp_worker` says with which options and draws they are the same by definition.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.ddp_worker import ACCUMULATION, LABELS, STEPS, WITH_QUEUE


@pytest.fixture(scope="module")
def results(tmp_path_factory: Any) -> Any:
    """What every process found, by their number: first the one process, then the others. They run once."""
    known: dict[int, tuple[Any, list[Any]]] = {}

    def start(processes: int) -> tuple[Any, list[Any]]:
        if processes not in known:
            folder = tmp_path_factory.mktemp(f"ddp-{processes}")
            command = [sys.executable, "-m", "tests.training.ddp_worker", str(folder), str(processes), *LABELS]
            done = subprocess.run(command, cwd=Path(__file__).parents[2], timeout=600, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            several = [torch.load(folder / f"{processes}.{number}.pt") for number in range(processes)]
            known[processes] = torch.load(folder / "1.0.pt"), several
        return known[processes]

    return start


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", ACCUMULATION)
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("processes", [2, 4])
def test_trainer_gives_the_losses_and_weights_of_one_process(
    results: Any, processes: int, label: str, accumulation: int
) -> None:
    """Also gradient norms, momentum weights, queues and their pointer; the same in all processes."""
    alone, several = results(processes)
    expected = alone[label, accumulation]
    assert expected["world"] == 1 and len(expected["losses"]) == STEPS
    moved = [name for name, value in expected["state"].items() if not torch.equal(value, expected["start"][name])]
    assert len(moved) > len(expected["state"]) / 3
    assert ("image_queue" in moved) == (label in WITH_QUEUE) == any("_m." in name for name in moved)
    for process in several:
        found = process[label, accumulation]
        assert (found["wrapper"], found["world"]) == ("DistributedDataParallel", processes)
        # The Trainer adds up losses in float32.
        torch.testing.assert_close(torch.tensor(found["losses"]), torch.tensor(expected["losses"]), atol=0, rtol=1e-6)
        torch.testing.assert_close(torch.tensor(found["norms"]), torch.tensor(expected["norms"]), atol=0, rtol=1e-6)
        assert found["state"].keys() == expected["state"].keys()
        for name, value in expected["state"].items():
            torch.testing.assert_close(
                found["state"][name], value, atol=1e-9, rtol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
            )
