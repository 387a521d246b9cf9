"""The profile of a training step."""

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import step_profile


def event(name: str, caller: Any = None) -> Any:
    return SimpleNamespace(name=name, cpu_parent=caller)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("aten::addmm", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::gelu_backward", "GELU"),
        ("aten::copy_", "copies"),
        ("aten::add_", "element-wise"),
        ("Optimizer.zero_grad#AdamW.zero_grad", "between operations"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert step_profile.kind_of(event(name, event("AddmmBackward0"))) == kind


def test_operations_of_the_optimizer_are_one_kind() -> None:
    assert step_profile.kind_of(event("aten::mul_", event("Optimizer.step#AdamW.step"))) == "optimizer"


@pytest.mark.slow
def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    step_profile.main(["train_retrieval", "--size", "tiny", "--threads", "1"])
    heading, *table = capsys.readouterr().out.splitlines()
    seconds = {row.split("|")[1].strip(): float(row.split("|")[2]) for row in table[3:]}
    assert {"matrix products", "attention", "GELU", "layer norms", "optimizer", "momentum update"} <= set(seconds)
    assert sum(seconds.values()) == pytest.approx(float(heading.split()[0]), abs=0.02)
