"""Values that are worked out again in the backward pass: the same gradients, and the value is not kept."""

import pytest
import torch

from modeling_lavis import LavisViTConfig, LavisViTModel
from modeling_lavis.models.recompute import recomputed


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
        model.gradient_checkpointing_enable()
    pixels = torch.randn(2, 3, 32, 32)

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)
        model.zero_grad()
        model(pixels).last_hidden_state.square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    lean = gradients()
    monkeypatch.setattr(
        "modeling_lavis.models.vision_vit.recomputed",
        lambda value, again, enabled=True: recomputed(value, again, False),
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

    with recomputed(outer, again, enabled):
        result = linear(outer)
    del outer
    (gradient,) = torch.autograd.grad(result.sum(), linear.weight)
    assert len(calls) == int(enabled)
    assert torch.allclose(gradient, torch.nn.functional.gelu(inner).sum(dim=0).expand(4, 8))
