"""Values that are worked out again in the backward pass: the same gradients, and the value is not kept."""

import weakref

import pytest
import torch
from torch import Tensor, nn

from modeling_lavis import LavisViTConfig, LavisViTModel
from modeling_lavis.models.memory import selective_recompute


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_the_tower_do_not_change(
    dropout: float, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LavisViTConfig(
        image_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, hidden_dropout_prob=dropout
    )
    model = LavisViTModel(config).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    pixels = torch.randn(2, 3, 32, 32)

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)
        model.zero_grad()
        model(pixels).last_hidden_state.square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    lean = gradients()
    monkeypatch.setattr(
        "modeling_lavis.models.vision_vit.selective_recompute",
        lambda value, again, enabled=True: selective_recompute(value, again, False),
    )
    for one, other in zip(lean, gradients(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_value_is_kept_only_when_it_is_switched_off(enabled: bool) -> None:
    linear = torch.nn.Linear(8, 4)
    inner = torch.randn(5, 8, requires_grad=True)
    outer = torch.nn.functional.gelu(inner)
    calls: list[int] = []

    def again() -> torch.Tensor:
        calls.append(1)
        return torch.nn.functional.gelu(inner)

    with selective_recompute(outer, again, enabled):
        result = linear(outer)
    del outer
    (gradient,) = torch.autograd.grad(result.sum(), linear.weight)
    assert len(calls) == int(enabled)
    assert torch.allclose(gradient, torch.nn.functional.gelu(inner).sum(dim=0).expand(4, 8))


def test_the_graph_does_not_keep_the_value() -> None:
    linear, inner = nn.Linear(8, 4), torch.randn(5, 8, requires_grad=True)
    outer = nn.functional.gelu(inner)
    with selective_recompute(outer, lambda: nn.functional.gelu(inner)):
        result = linear(outer)
    gone = weakref.ref(outer)
    del outer
    assert gone() is None
    result.sum().backward()
    assert inner.grad is not None


def test_only_the_whole_value_is_replaced() -> None:
    """Parts of it, and its elements in another order, are kept as they are."""
    inner = torch.randn(4, 4, requires_grad=True)
    outer = inner.exp()
    with selective_recompute(outer, lambda: torch.full_like(outer, torch.nan)):
        half, turned = outer[:2].square(), outer.T.square()
    (half.sum() + turned.sum()).backward()
    assert bool(inner.grad.isfinite().all())


def block(norm: nn.Module, linear: nn.Module, states: Tensor) -> Tensor:
    normed = norm(states)
    with selective_recompute(normed, lambda: norm(states)):
        return linear(normed).tanh()


def test_second_derivatives() -> None:
    norm, linear = nn.LayerNorm(4).double(), nn.Linear(4, 3).double()
    states = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, w: block(norm, lambda y: y @ w.T, x), (states, linear.weight))


def test_function_transforms_still_work() -> None:
    norm, linear, states = nn.LayerNorm(4), nn.Linear(4, 3), torch.randn(2, 4)
    found = torch.func.grad(lambda x: block(norm, linear, x).square().sum())(states)
    states.requires_grad_()
    block(norm, linear, states).square().sum().backward()
    torch.testing.assert_close(found, states.grad)


def test_mixed_precision_gives_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LavisViTConfig(image_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    model, pixels = LavisViTModel(config).train(), torch.randn(2, 3, 32, 32)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(pixels).last_hidden_state.square().mean()
        loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    lean = gradients()
    monkeypatch.setattr(
        "modeling_lavis.models.vision_vit.selective_recompute",
        lambda value, again, enabled=True: selective_recompute(value, again, False),
    )
    assert all(torch.equal(one, other) for one, other in zip(lean, gradients(), strict=True))
