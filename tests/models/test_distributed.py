"""Distributed training: two processes against one process with the whole batch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_lavis.models import task_retrieval
from modeling_lavis.models.distributed import gather, gather_ragged, gather_with_grad, rank, world_size
from tests.models.distributed_worker import RUNS, argmax_negatives, train_two_steps


@pytest.fixture(scope="module")
def two(tmp_path_factory: Any) -> list[dict[str, Any]]:
    """Results of each of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.models.distributed_worker",
                str(number),
                str(folder / "store"),
                str(folder / "out"),
            ],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"out.{number}") for number in range(2)]


def test_gather_in_a_single_process() -> None:
    value = torch.randn(2, 3)
    assert (world_size(), rank()) == (1, 0)
    assert gather(value) is value and gather_with_grad(value) is value and gather_ragged(value) is value


@pytest.mark.slow
def test_gather(two: list[dict[str, Any]]) -> None:
    for number, results in enumerate(two):
        found = results["gathering"]
        assert results["world"] == 2
        assert found["all"].tolist() == [[0, 1], [2, 3], [10, 11], [12, 13]]
        assert torch.equal(found["plain"], found["all"])
        # The sum over both processes, which weight the features by w and 2 w.
        assert torch.equal(found["grad"], 3 * torch.arange(8.0).view(4, 2)[2 * number : 2 * number + 2])
        assert found["ragged"].tolist() == [[1, 1, 1, 9]] * 2 + [[2] * 4] * 2


@pytest.mark.slow
@pytest.mark.parametrize(("label", "name", "options"), RUNS, ids=[label for label, _, _ in RUNS])
def test_training_equals_one_process_with_the_whole_batch(
    two: list[dict[str, Any]], label: str, name: str, options: dict[str, Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr(task_retrieval, "draw_negatives", argmax_negatives)
    first, second = (results[label] for results in two)
    assert first.keys() == second.keys()
    for key, value in first.items():  # both processes have the same model and queue
        if key.startswith("state."):
            torch.testing.assert_close(value, second[key], msg=lambda m, n=key: f"{n}: {m}")
    whole = train_two_steps(name, options, slice(0, 4), ddp=False)
    itc = [(first[key] + second[key]) / 2 for key in ("0.loss_itc",)]
    if options.get("use_momentum", True):
        # parity: the original's momentum loss contrasts the local batch with the queue, not with other processes. The
        # queue is shared, the contrastive loss differs from the one of the whole batch.
        for key in ("queue_ptr", "idx_queue"):
            if f"state.{key}" in whole:
                assert torch.equal(first[f"state.{key}"], whole[f"state.{key}"])
        return
    torch.testing.assert_close(itc[0], whole["0.loss_itc"])
    for key in ("0.loss", "0.loss_itm", "1.loss"):
        torch.testing.assert_close((first[key] + second[key]) / 2, whole[key], atol=1e-5, rtol=1e-4)
    for key, value in whole.items():
        if key.startswith("state."):
            torch.testing.assert_close(first[key], value, atol=1e-5, rtol=1e-3, msg=lambda m, n=key: f"{n}: {m}")


@pytest.mark.slow
def test_negatives_of_all_ranks_differ_from_local_negatives(two: list[dict[str, Any]]) -> None:
    all_ranks, local = two[0]["retrieval"], two[0]["local negatives"]
    torch.testing.assert_close(all_ranks["0.loss_itc"], local["0.loss_itc"])
    assert not torch.allclose(all_ranks["0.loss_itm"], local["0.loss_itm"])


@pytest.mark.slow
def test_video_text_contrastive_loss_uses_all_processes(two: list[dict[str, Any]], monkeypatch: Any) -> None:
    monkeypatch.setattr(task_retrieval, "draw_negatives", argmax_negatives)
    first, second = (results["video"] for results in two)
    whole = train_two_steps("AlproForVideoTextRetrieval", {}, slice(0, 4), ddp=False, loss_name="loss_vtc")
    for key in ("0.loss_vtc", "1.loss_vtc"):
        torch.testing.assert_close((first[key] + second[key]) / 2, whole[key], atol=1e-5, rtol=1e-4)
    assert any(key.startswith("state.") for key in whole)
    for key, value in whole.items():
        if key.startswith("state."):
            torch.testing.assert_close(first[key], second[key], msg=lambda m, n=key: f"{n}: {m}")
            torch.testing.assert_close(first[key], value, atol=1e-5, rtol=1e-3, msg=lambda m, n=key: f"{n}: {m}")
