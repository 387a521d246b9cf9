"""Losses that are differentiated in the forward pass: the same gradients, and nothing big waits for the backward."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from modeling_lavis import AlbefForImageTextRetrieval
from modeling_lavis.models.memory import fused_loss_backward
from tests.models.albef_cases import albef_config
from tests.models.lavis_blip_cases import one_image


def compare(rows: Tensor, scale: Tensor, bank: Tensor) -> SimpleNamespace:
    scores = rows @ bank / scale
    return SimpleNamespace(loss=-scores.log_softmax(dim=1)[:, 0].mean(), scores=scores)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 4, generator=generator, requires_grad=True)
    return rows, torch.tensor(0.5, requires_grad=True), torch.randn(4, 7, generator=generator)


def test_gradients_are_the_same_and_the_bank_may_change() -> None:
    rows, scale, bank = inputs()
    direct = compare(rows, scale, bank)
    wanted = torch.autograd.grad(3 * direct.loss + rows.sum(), (rows, scale))
    early = fused_loss_backward(lambda r, s: compare(r, s, bank), (rows, scale))
    assert early.loss == direct.loss and torch.equal(early.scores, direct.scores)
    assert not early.scores.requires_grad
    bank.zero_()
    found = torch.autograd.grad(3 * early.loss + rows.sum(), (rows, scale))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert rows.grad is None and scale.grad is None


def test_inputs_without_gradient() -> None:
    rows, scale, bank = inputs()
    early = fused_loss_backward(lambda r, s: compare(r, s, bank), (rows, scale.detach()))
    early.loss.backward()
    assert rows.grad is not None
    with torch.no_grad():
        assert not fused_loss_backward(lambda r, s: compare(r, s, bank), (rows, scale)).loss.requires_grad
    frozen = fused_loss_backward(lambda r, s: compare(r, s, bank), (rows.detach(), scale.detach()))
    assert not frozen.loss.requires_grad


def test_second_derivatives_are_refused() -> None:
    rows, scale, bank = inputs()
    early = fused_loss_backward(lambda r, s: compare(r, s, bank), (rows, scale))
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(early.loss, rows, create_graph=True)


@pytest.mark.parametrize("update_state", [True, False])
def test_a_step_keeps_nothing_as_long_as_the_queue(update_state: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = 40_000
    model = AlbefForImageTextRetrieval(albef_config(queue_size=queue)).train()

    def largest() -> int:
        call = {"return_loss": True, "image_ids": torch.arange(3), "update_state": update_state}
        loss = model(**one_image(3), **call).loss
        sizes = saved_by(loss)
        if update_state:
            loss.backward()
        return max(sizes)

    assert largest() < queue
    monkeypatch.setattr(
        "modeling_lavis.models.task_retrieval.fused_loss_backward", lambda function, inputs: function(*inputs)
    )
    if not update_state:  # a queue that moves would break the backward pass
        assert largest() >= queue


def saved_by(loss: Tensor) -> list[int]:
    """Sizes of all tensors that the graph of a loss keeps."""
    sizes: list[int] = []
    nodes: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        names = [name for name in dir(node) if name.startswith("_saved_")]
        values = [getattr(node, name) for name in names]
        values += list(getattr(node, "saved_tensors", ()))
        sizes += [value.numel() for value in values if isinstance(value, Tensor)]
        nodes += [following for following, _ in node.next_functions]
    return sizes


def test_mixed_precision_leaves_it_alone() -> None:
    """The gradient exists before a loss scaler could have lifted it out of what half precision cannot hold."""
    left, right = torch.randn(4, 8, requires_grad=True), torch.randn(8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        result = fused_loss_backward(lambda tensor: SimpleNamespace(loss=(tensor @ right).square().mean()), (left,))
    result.loss.backward()
    expected = torch.autograd.grad((left @ right).square().mean(), left)[0]
    assert torch.equal(left.grad, expected)
