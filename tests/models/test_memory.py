"""Memory helpers: linear layers for few rows, selective recompute, fused loss backward."""

import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modeling_lavis import AlbefForImageTextRetrieval, LavisViTConfig, LavisViTModel
from modeling_lavis.models import memory
from modeling_lavis.models.memory import SkinnyLinear, fused_loss_backward, selective_recompute
from tests.models.albef_cases import albef_config
from tests.models.lavis_blip_cases import one_image

# ---- selective recompute ----


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_those_without_recompute(
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

    with_recompute = gradients()
    monkeypatch.setattr(
        "modeling_lavis.models.vision_vit.selective_recompute",
        lambda value, recompute, enabled=True: selective_recompute(value, recompute, False),
    )
    for one, other in zip(with_recompute, gradients(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("enabled", [True, False])
def test_value_is_recomputed_only_when_enabled(enabled: bool) -> None:
    linear = torch.nn.Linear(8, 4)
    inner = torch.randn(5, 8, requires_grad=True)
    outer = torch.nn.functional.gelu(inner)
    calls: list[int] = []

    def recompute() -> torch.Tensor:
        calls.append(1)
        return torch.nn.functional.gelu(inner)

    with selective_recompute(outer, recompute, enabled):
        result = linear(outer)
    del outer
    (gradient,) = torch.autograd.grad(result.sum(), linear.weight)
    assert len(calls) == int(enabled)
    assert torch.allclose(gradient, torch.nn.functional.gelu(inner).sum(dim=0).expand(4, 8))


def test_graph_does_not_keep_the_value() -> None:
    linear, inner = nn.Linear(8, 4), torch.randn(5, 8, requires_grad=True)
    outer = nn.functional.gelu(inner)
    with selective_recompute(outer, lambda: nn.functional.gelu(inner)):
        result = linear(outer)
    reference = weakref.ref(outer)
    del outer
    assert reference() is None
    result.sum().backward()
    assert inner.grad is not None


def test_partial_and_transposed_views_are_saved_as_usual() -> None:
    inner = torch.randn(4, 4, requires_grad=True)
    outer = inner.exp()
    with selective_recompute(outer, lambda: torch.full_like(outer, torch.nan)):
        part, transposed = outer[:2].square(), outer.T.square()
    (part.sum() + transposed.sum()).backward()
    assert bool(inner.grad.isfinite().all())


def norm_then_linear(norm: nn.Module, linear: nn.Module, states: Tensor) -> Tensor:
    normed = norm(states)
    with selective_recompute(normed, lambda: norm(states)):
        return linear(normed).tanh()


def test_second_derivatives_with_recompute() -> None:
    norm, linear = nn.LayerNorm(4).double(), nn.Linear(4, 3).double()
    states = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda x, w: norm_then_linear(norm, lambda y: y @ w.T, x), (states, linear.weight)
    )


def test_function_transforms() -> None:
    norm, linear, states = nn.LayerNorm(4), nn.Linear(4, 3), torch.randn(2, 4)
    found = torch.func.grad(lambda x: norm_then_linear(norm, linear, x).square().sum())(states)
    states.requires_grad_()
    norm_then_linear(norm, linear, states).square().sum().backward()
    torch.testing.assert_close(found, states.grad)


def test_autocast_gradients_equal_those_without_recompute(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LavisViTConfig(image_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    model, pixels = LavisViTModel(config).train(), torch.randn(2, 3, 32, 32)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(pixels).last_hidden_state.square().mean()
        loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    with_recompute = gradients()
    monkeypatch.setattr(
        "modeling_lavis.models.vision_vit.selective_recompute",
        lambda value, recompute, enabled=True: selective_recompute(value, recompute, False),
    )
    assert all(torch.equal(one, other) for one, other in zip(with_recompute, gradients(), strict=True))


# ---- fused loss backward ----


def contrastive_loss(rows: Tensor, scale: Tensor, candidates: Tensor) -> SimpleNamespace:
    scores = rows @ candidates / scale
    return SimpleNamespace(loss=-scores.log_softmax(dim=1)[:, 0].mean(), scores=scores)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 4, generator=generator, requires_grad=True)
    return rows, torch.tensor(0.5, requires_grad=True), torch.randn(4, 7, generator=generator)


def test_gradients_equal_and_candidates_may_be_overwritten() -> None:
    rows, scale, candidates = inputs()
    direct = contrastive_loss(rows, scale, candidates)
    expected = torch.autograd.grad(3 * direct.loss + rows.sum(), (rows, scale))
    fused = fused_loss_backward(lambda r, s: contrastive_loss(r, s, candidates), (rows, scale))
    assert fused.loss == direct.loss and torch.equal(fused.scores, direct.scores)
    assert not fused.scores.requires_grad
    candidates.zero_()
    found = torch.autograd.grad(3 * fused.loss + rows.sum(), (rows, scale))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert rows.grad is None and scale.grad is None


def test_fused_loss_with_inputs_without_gradient() -> None:
    rows, scale, candidates = inputs()
    fused = fused_loss_backward(lambda r, s: contrastive_loss(r, s, candidates), (rows, scale.detach()))
    fused.loss.backward()
    assert rows.grad is not None
    with torch.no_grad():
        assert not fused_loss_backward(
            lambda r, s: contrastive_loss(r, s, candidates), (rows, scale)
        ).loss.requires_grad
    frozen = fused_loss_backward(lambda r, s: contrastive_loss(r, s, candidates), (rows.detach(), scale.detach()))
    assert not frozen.loss.requires_grad


def test_second_derivatives_raise() -> None:
    rows, scale, candidates = inputs()
    fused = fused_loss_backward(lambda r, s: contrastive_loss(r, s, candidates), (rows, scale))
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(fused.loss, rows, create_graph=True)


@pytest.mark.parametrize("update_state", [True, False])
def test_training_step_saves_no_tensor_of_queue_size(update_state: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = 40_000
    model = AlbefForImageTextRetrieval(albef_config(queue_size=queue)).train()

    def largest_saved_tensor() -> int:
        call = {"return_loss": True, "image_ids": torch.arange(3), "update_state": update_state}
        loss = model(**one_image(3), **call).loss
        sizes = saved_tensor_sizes(loss)
        if update_state:
            loss.backward()
        return max(sizes)

    assert largest_saved_tensor() < queue
    monkeypatch.setattr(
        "modeling_lavis.models.task_retrieval.fused_loss_backward", lambda function, inputs: function(*inputs)
    )
    if not update_state:  # without the fused backward, updating the queue invalidates saved tensors
        assert largest_saved_tensor() >= queue


def saved_tensor_sizes(loss: Tensor) -> list[int]:
    """Sizes of all tensors that the autograd graph of a loss saves."""
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


def test_float32_inputs_ignore_autocast() -> None:
    """The loss scaler runs after the gradient is computed, too late to prevent underflow in half precision."""
    left, right = torch.randn(4, 8, requires_grad=True), torch.randn(8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        result = fused_loss_backward(lambda tensor: SimpleNamespace(loss=(tensor @ right).square().mean()), (left,))
    result.loss.backward()
    expected = torch.autograd.grad((left @ right).square().mean(), left)[0]
    assert torch.equal(left.grad, expected)


# ---- skinny linear ----


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (2, 4), (3, 3), (12, 1), (40, 1), (41, 1), (5, 20), (0, 3)])
@pytest.mark.parametrize("outputs", [18, 64, 75])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_skinny_linear_equals_linear(shape: tuple[int, ...], bias: bool, outputs: int, dtype: torch.dtype) -> None:
    linear = SkinnyLinear(24, outputs, bias=bias, dtype=dtype)
    inputs = torch.randn(*shape, 24, dtype=dtype)
    with torch.no_grad():
        found = linear(inputs)
        expected = torch.nn.functional.linear(inputs, linear.weight, linear.bias)
    assert found.shape == expected.shape
    assert found.dtype == dtype
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the products that `SkinnyLinear` uses instead of `nn.Linear`'s, in order."""
    used: list[str] = []
    for name in ("_linear_by_slices", "_linear_transposed"):
        original = getattr(memory, name)
        monkeypatch.setattr(memory, name, lambda *given, n=name, f=original: (used.append(n), f(*given))[1])
    return used


@pytest.mark.parametrize("bias", [True, False])
def test_few_rows_use_another_product(products: list[str], bias: bool) -> None:
    linear = SkinnyLinear(6, 21, bias=bias)
    sliced = "_linear_by_slices" if torch.backends.mkl.is_available() else "_linear_transposed"
    expected = {
        memory._MIN_ROWS - 1: [],
        memory._MIN_ROWS: [sliced],
        memory._MAX_SLICED_ROWS: [sliced],
        memory._MAX_SLICED_ROWS + 1: ["_linear_transposed"],
        memory._MAX_ROWS: ["_linear_transposed"],
        memory._MAX_ROWS + 1: [],
    }
    for rows, names in expected.items():
        products.clear()
        inputs = torch.randn(rows, 6)
        with torch.no_grad():
            found = linear(inputs)
        assert products == names, rows
        torch.testing.assert_close(found, torch.nn.functional.linear(inputs, linear.weight, linear.bias))


def test_skinny_linear_gradients(products: list[str]) -> None:
    linear = SkinnyLinear(6, 5)
    inputs = torch.randn(12, 6, requires_grad=True)
    upstream = torch.randn(12, 5)
    linear(inputs).backward(upstream)
    assert products == []
    torch.testing.assert_close(inputs.grad, upstream @ linear.weight)
    torch.testing.assert_close(linear.weight.grad, upstream.T @ inputs)
    torch.testing.assert_close(linear.bias.grad, upstream.sum(dim=0))


@pytest.mark.parametrize("rows", [12, 40])
def test_skinny_linear_under_autocast(products: list[str], rows: int) -> None:
    linear = SkinnyLinear(6, 5)
    inputs = torch.randn(rows, 6)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear(inputs)
    assert len(products) == 1
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), linear(inputs), atol=3e-2, rtol=3e-2)
