"""Distributed training: two and four processes against one process with the rows of all, in float64."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_lavis.models.distributed import (
    exchange_numbers,
    gather,
    gather_ragged,
    gather_with_grad,
    rank,
    world_size,
)
from tests.models.distributed_worker import EQUAL, REFUSED, RUNS, UNEVEN, deterministic, train_alone

FOUR = pytest.param(4, marks=pytest.mark.slow)
#: labels whose negatives come from all processes
GATHERED = [label for label, (_, _, whole) in RUNS.items() if "loss_itm" in whole]


@pytest.fixture(scope="module")
def results(tmp_path_factory: Any) -> Any:
    """What each of some processes found, by number of processes; they run once."""
    known: dict[int, list[dict[str, Any]]] = {}

    def start(processes: int) -> list[dict[str, Any]]:
        if processes not in known:
            folder = tmp_path_factory.mktemp(f"processes-{processes}")
            known[processes] = []  # a failure is not tried again in every test
            command = [sys.executable, "-m", "tests.models.distributed_worker", str(processes), str(folder)]
            subprocess.run(
                command, cwd=Path(__file__).parents[2], check=True, timeout=300, capture_output=True, text=True
            )
            known[processes] = [torch.load(folder / f"{number}.pt") for number in range(processes)]
        assert known[processes], "the processes failed, see the first error"
        return known[processes]

    return start


def test_gather_in_a_single_process() -> None:
    value = torch.randn(2, 3)
    assert (world_size(), rank()) == (1, 0)
    assert exchange_numbers(2, True, device=value.device) == [(2, True)]
    assert gather(value, (2,)) is value and gather_with_grad(value, (2,)) is value
    assert gather_ragged(value, (2,)) is value


@pytest.mark.parametrize("processes", [2, FOUR])
def test_gather_different_numbers_of_rows(results: Any, processes: int) -> None:
    counts = tuple(range(1, processes + 1))
    expected = torch.cat([torch.arange(2.0 * count).view(count, 2) + 10 * n for n, count in enumerate(counts)])
    # The sum over the processes, which weight the rows by w, 2 w, ...
    gradients = sum(counts) * torch.arange(2.0 * sum(counts)).view(-1, 2)
    length = 2 + processes
    ragged = [[n + 1] * (3 + n) + [9] * (length - 3 - n) for n, count in enumerate(counts) for _ in range(count)]
    for number, result in enumerate(results(processes)):
        found = result["gathering"]
        assert found["world"] == processes
        assert found["facts"] == [(n + 1, 7 * n) for n in range(processes)]
        assert found["first"] == sum(counts[:number])
        assert torch.equal(found["all"], expected) and torch.equal(found["plain"], expected)
        assert torch.equal(found["grad"], gradients.split(counts)[number])
        assert found["ragged"].tolist() == ragged


def assert_equals_one_process(found: list[dict[str, Any]], label: str, counts: tuple[int, ...]) -> None:
    """Losses (weighted by rows), gradients, weights, momentum weights, queue and pointer; the same in all processes."""
    with deterministic():
        expected = train_alone(label, counts)
    kinds = {key.split(".")[0] for key in expected}
    assert {"0", "1", "grad", "state"} <= kinds
    has_queue = "state.queue_ptr" in expected
    assert has_queue == any(key.endswith("queue") for key in expected)
    assert has_queue == any("_m." in key for key in expected)
    for key, value in expected.items():
        if key[0] in "01":
            parts = [result[key] * count for result, count in zip(found, counts, strict=True)]
            torch.testing.assert_close(sum(parts) / sum(counts), value, atol=1e-12, rtol=1e-10, msg=key)
            continue
        for result in found:
            torch.testing.assert_close(
                result[key], value, atol=1e-11, rtol=1e-9, msg=lambda m, n=key: f"{label}, {n}: {m}"
            )
    assert {key for key in found[0] if "." in key} == expected.keys()
    assert expected["0.loss_itm" if "0.loss_itm" in expected else "0.loss_vtm"].dtype == torch.float64


@pytest.mark.parametrize("processes", [2, FOUR])
@pytest.mark.parametrize("label", RUNS)
def test_ddp_equals_one_process(results: Any, label: str, processes: int) -> None:
    found = [result[f"equal: {label}"] for result in results(processes)]
    assert_equals_one_process(found, label, EQUAL[processes])


@pytest.mark.parametrize(
    ("processes", "label"),
    [pytest.param(n, label, marks=[pytest.mark.slow] * (n > 2)) for n, labels in UNEVEN.items() for label in labels],
)
def test_different_numbers_of_rows(results: Any, processes: int, label: str) -> None:
    found = [result[f"uneven: {label}"] for result in results(processes)]
    assert_equals_one_process(found, label, UNEVEN[processes][label])


@pytest.mark.parametrize("processes", [2, FOUR])
@pytest.mark.parametrize("label", GATHERED)
def test_only_images_that_are_used_are_projected(results: Any, label: str, processes: int) -> None:
    found = [result[f"equal: {label}"] for result in results(processes)]
    used = [result["used"] for result in found]
    assert [result["projected"] for result in found] == used
    assert min(used) >= EQUAL[processes][0] and max(used) <= 2 * EQUAL[processes][0]
    assert min(used) < sum(EQUAL[processes]), "otherwise all images are used, and nothing is tested"


@pytest.mark.parametrize("label", REFUSED)
def test_a_batch_that_one_process_cannot_train_on_raises_in_all(results: Any, label: str) -> None:
    for result in results(2):
        message = result[f"refused: {label}"]
        assert message.endswith("unchanged=True"), "the step must not have begun"
        assert ("image_ids in the processes [0]" if label == "ids in one process" else "drop_last=True") in message


@pytest.mark.parametrize("name", ["AlbefForImageTextRetrieval", "AlproForVideoTextRetrieval"])
def test_fsdp1_is_refused(results: Any, name: str) -> None:
    for result in results(2):
        assert "FSDP1. Use DDP or FSDP2" in result[f"FSDP1: {name}"]


def test_negatives_of_all_processes_differ_from_local_ones(results: Any) -> None:
    for result in results(2):
        everywhere, local = result["equal: BLIP retrieval"], result["equal: BLIP, local negatives"]
        torch.testing.assert_close(everywhere["0.loss_itc"], local["0.loss_itc"])
    differences = [
        result["equal: BLIP retrieval"]["0.loss_itm"] - result["equal: BLIP, local negatives"]["0.loss_itm"]
        for result in results(2)
    ]
    assert max(abs(float(difference)) for difference in differences) > 1e-6
