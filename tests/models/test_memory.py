"""Memory helpers: linear layers by the fastest product, selective recompute, fused loss backward."""

import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modeling_lavis import AlbefForImageTextRetrieval, LavisViTConfig, LavisViTModel
from modeling_lavis.models import memory
from modeling_lavis.models.memory import TunedLinear, fused_loss_backward, selective_recompute
from tests.models.albef_cases import albef_config
from tests.models.contract import checkpoint_activations
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
        checkpoint_activations(model)
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


# ---- linear layers by the fastest product ----

PRODUCTS = ("_linear_by_onednn", "_linear_by_slices", "_linear_by_transposed_slices")


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 12, 41])
@pytest.mark.parametrize("outputs", [18, 64, 75])
def test_products_equal_linear(name: str, bias: bool, rows: int, outputs: int) -> None:
    if name == "_linear_by_onednn" and "onednn" not in memory._products(rows):
        pytest.skip("this build of torch has no oneDNN")
    linear = torch.nn.Linear(24, outputs, bias=bias)
    inputs = torch.randn(rows, 24)
    with torch.no_grad():
        found = getattr(memory, name)(inputs, linear.weight, linear.bias)
        torch.testing.assert_close(found, linear(inputs))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of measurements, and layers of any size that choose."""
    monkeypatch.setattr(memory, "_measurements_folder", lambda: str(tmp_path / "linear"))
    monkeypatch.setattr(memory, "_fastest", {})
    monkeypatch.setattr(memory, "_MIN_WEIGHT_BYTES", 0)
    monkeypatch.setattr(memory, "_COLD_BYTES", 2**12)
    return tmp_path / "linear"


@pytest.fixture
def measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The products that were measured, in order; the last one wins."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        memory, "_measure", lambda products, *_: (calls.append(tuple(products)), tuple(products)[-1])[1]
    )
    return calls


@pytest.mark.parametrize("shape", [(24,), (2, 4, 24), (12, 1, 24), (70, 24), (0, 3, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_tuned_linear_equals_linear(folder: Path, shape: tuple[int, ...], bias: bool) -> None:
    linear = TunedLinear(24, 75, bias=bias)
    inputs = torch.randn(*shape)
    with torch.no_grad():
        found = linear(inputs)
        expected = torch.nn.functional.linear(inputs, linear.weight, linear.bias)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    torch.testing.assert_close(found, expected)
    assert len(list(folder.glob("*"))) == (0 not in shape)


def test_shapes_are_measured_once_in_all_processes(
    measured: list[tuple[str, ...]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = TunedLinear(24, 75)
    with torch.no_grad():
        for rows in (12, 12, 40, 64, 33, 1000):  # 33 to 64 rows are one shape
            linear(torch.randn(rows, 24))
    assert len(measured) == 3 and measured[2] == tuple(memory._products(1000))
    assert "transposed slices" in measured[0] or not torch.backends.mkl.is_available()
    monkeypatch.setattr(memory, "_fastest", {})  # another process
    with torch.no_grad():
        linear(torch.randn(12, 24))
    assert len(measured) == 3
    monkeypatch.setattr(memory, "_fastest", {})
    for path in folder.iterdir():
        path.write_text("")  # of a process that was killed
    with torch.no_grad():
        linear(torch.randn(12, 24))
    assert len(measured) == 4
    assert sorted(path.read_text() for path in folder.iterdir()) == ["", "", measured[0][-1]]


def test_the_first_of_two_processes_decides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_slowly() -> str:
        folder.mkdir()
        (folder / "1-2").write_text("slices")
        return "linear"

    assert memory._remembered((1, 2), ("linear", "slices"), measure_slowly) == "slices"


def test_measurements_without_a_folder_are_those_of_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(memory, "_measurements_folder", lambda: str(tmp_path / "file"))
    assert memory._remembered((1, 2), ("linear",), lambda: "linear") == "linear"


def test_the_fastest_product_is_found() -> None:
    def product(seconds: float) -> Callable[..., None]:
        return lambda *given: time.sleep(seconds)

    rows, weight = torch.randn(100, 24), torch.randn(75, 24)
    products: dict[str, Any] = {"linear": product(0.03), "other": product(0.001), "third": product(0.05)}
    assert memory._measure(products, rows, weight, None) == "other"
    products["other"] = product(0.0299)
    assert memory._measure(products, rows, weight, None) == "linear"


def test_tuned_linear_gradients(measured: list[tuple[str, ...]]) -> None:
    linear = TunedLinear(6, 5)
    inputs = torch.randn(12, 6, requires_grad=True)
    upstream = torch.randn(12, 5)
    linear(inputs).backward(upstream)
    assert measured == []
    torch.testing.assert_close(inputs.grad, upstream @ linear.weight)
    torch.testing.assert_close(linear.weight.grad, upstream.T @ inputs)
    torch.testing.assert_close(linear.bias.grad, upstream.sum(dim=0))


@torch.no_grad()
def test_other_circumstances_use_linear(measured: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    linear, inputs = TunedLinear(6, 5), torch.randn(12, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(inputs).dtype == torch.bfloat16
    for dtype in (torch.bfloat16, torch.float64):
        assert TunedLinear(6, 5, dtype=dtype)(inputs.to(dtype)).dtype == dtype
    torch.use_deterministic_algorithms(True)
    try:
        linear(inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.jit.trace(linear, inputs, check_trace=False)
    torch.export.export(torch.nn.Sequential(linear), (inputs,), strict=False)
    assert TunedLinear(6, 5, device="meta")(inputs.to("meta")).shape == (12, 5)
    monkeypatch.setattr(memory, "_MIN_WEIGHT_BYTES", 2**20)
    linear(inputs)
    assert measured == []


@torch.no_grad()
def test_written_weights_count(folder: Path) -> None:
    linear, inputs = TunedLinear(24, 75), torch.randn(12, 24)
    before = linear(inputs)
    linear.weight.data.mul_(2)
    linear.bias.data.mul_(2)
    torch.testing.assert_close(linear(inputs), 2 * before)
