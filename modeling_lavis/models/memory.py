# SPDX-License-Identifier: Apache-2.0
"""Less memory traffic: in-place inference, selective recompute, fused loss backward, and linear layers that read their
weights as fast as the machine can.

Shapes: R rows, I input features, O output features, S slices of the output features.
"""

import os
import platform
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from huggingface_hub.constants import HF_HOME
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

# ---- in-place operations in inference ----


def is_eager_inference() -> bool:
    """Whether neither autograd nor a compiler records the operations."""
    return not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def has_hooks(*modules: nn.Module) -> bool:
    """Whether a hook, or a replaced `forward`, of a module or a submodule can see the module's inputs and outputs."""
    if not torch.compiler.is_compiling() and torch.nn.modules.module._has_any_global_hook():
        return True
    return any(
        bool(part._forward_hooks) or bool(part._forward_pre_hooks) or "forward" in part.__dict__
        for module in modules
        for part in module.modules()
    )


def may_overwrite_output(*modules: nn.Module) -> bool:
    """
    Whether outputs of the modules can be overwritten in-place, which saves allocations (on a CPU, writing to new memory
    costs as much as the arithmetic): in eager inference, where no hook could keep the tensor.
    """
    return is_eager_inference() and not has_hooks(*modules)


# ---- selective recompute ----


class _Placeholder(NamedTuple):
    """Saved instead of a tensor that the backward pass recomputes."""

    shape: torch.Size
    dtype: torch.dtype


def _has_own_storage(value: Tensor) -> bool:
    # Tensor subclasses (sharded, fake) and torch.func wrappers have no address of their own, so one could be mistaken
    # for another.
    if type(value) not in (Tensor, nn.Parameter):
        return False
    try:
        return value.data_ptr() != 0
    except RuntimeError:
        return False


def _saved_tensors_are_managed() -> bool:
    """Whether an enclosing context decides what is saved for the backward pass: checkpointing or offloading."""
    # Only the innermost hooks run, so hooks of this file would take tensors away from those around them.
    top = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return top is not None and not getattr(top[0], "is_selective_recompute", False)


def selective_recompute(
    value: Tensor, recompute: Callable[[], Tensor], enabled: bool = True
) -> AbstractContextManager[Any]:
    """
    Context in which operations that would save `value` for the backward pass recompute it there instead.

    Meant for activations and norms: their input is saved anyway, and they are cheap beside the matrix product that
    would save their output. The modules called in the context run unchanged, so adapters and quantized layers profit as
    well. Copies of `value` that a module makes first, for instance in another dtype under autocast, are saved as usual.

    Args:
        value (`Tensor`): result of a deterministic function whose input stays in memory.
        recompute (callable): returns the same result again.
        enabled (`bool`, *optional*, defaults to `True`): `False` under activation checkpointing, for instance, which
            saves nothing either. Inside of `torch.utils.checkpoint` and other saved-tensor hooks it is always off.
    """
    if not enabled or not value.requires_grad or torch.compiler.is_compiling() or not _has_own_storage(value):
        return nullcontext()
    if _saved_tensors_are_managed():
        return nullcontext()

    # The autograd graph keeps `pack` alive, which must not keep the value alive.
    reference = weakref.ref(value)

    def pack(tensor: Tensor) -> Tensor | _Placeholder:
        # A saved tensor is another view of the same storage. While the value is alive, no other tensor can have its
        # address.
        original = reference()
        same = (
            original is not None
            and _has_own_storage(tensor)
            and tensor.data_ptr() == original.data_ptr()
            and tensor.dtype == original.dtype
            and tensor.numel() == original.numel()
            and tensor.is_contiguous()
            and original.is_contiguous()
        )
        return _Placeholder(tensor.shape, tensor.dtype) if same else tensor

    pack.is_selective_recompute = True  # type: ignore[attr-defined]

    def unpack(saved: Tensor | _Placeholder) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        with torch.no_grad():  # autograd puts the result at the saved tensor's position in the graph
            return recompute().to(saved.dtype).view(saved.shape)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


# ---- copies that a compiler keeps ----


def _always_save(*args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE


_KEEP_ALL = partial(create_selective_checkpoint_contexts, _always_save)


def _all_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    # inductor takes `clone` for an operation without effect and removes it, although the original changes.
    return tuple(tensor[torch.arange(len(tensor), device=tensor.device)] for tensor in tensors)


def copies_before_update(*tensors: Tensor) -> tuple[Tensor, ...]:
    """
    Values of buffers that are overwritten later in the same forward pass, for a graph that is being compiled.

    A compiler recomputes cheap operations in the backward pass, copies among them, from what the buffer holds then.
    These copies are marked to be saved. Without a compiler the tensors are returned as they are.
    """
    if not torch.compiler.is_compiling():
        return tensors
    kept: tuple[Tensor, ...] = checkpoint(
        _all_rows, *tensors, use_reentrant=False, preserve_rng_state=False, context_fn=_KEEP_ALL
    )
    return kept


# ---- fused loss backward ----


class _HasLoss(Protocol):
    loss: Tensor


Result = TypeVar("Result", bound=_HasLoss)


class _PrecomputedGradient(torch.autograd.Function):
    """A scalar whose gradients are known: `tensors` are the inputs, followed by the gradient of each."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[len(tensors) // 2 :])
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "This loss saves its first derivatives only, so backward(create_graph=True) would miss part of the "
                "second derivatives. Call backward without create_graph."
            )
        gradients = [(grad * known).to(known.dtype) for known in ctx.saved_tensors]
        return None, *gradients, *(None for _ in gradients)


def fused_loss_backward(function: Callable[..., Result], inputs: Sequence[Tensor]) -> Result:
    """
    Call a function that returns an object with a scalar `loss`, and differentiate the loss in the same pass.

    Only the gradients with respect to `inputs` are saved, none of the tensors that the function reads: candidates such
    as a feature queue may be overwritten or freed before the backward pass. Without gradient, and under a compiler,
    which plans both passes itself, the function is called as it is.

    Args:
        function (callable): called with `inputs`; gradient flows to nothing else. Must be deterministic.
        inputs (sequence of `Tensor`): tensors to differentiate with respect to, where they require gradient.

    Returns:
        The function's result with an equal `loss`. Its other tensors carry no gradient.
    """
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    if not wanted or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*inputs)
    leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in inputs]
    # A loss scaler applies later, too late to keep small gradients from underflowing in half precision.
    is_float32 = all(tensor.dtype == torch.float32 for tensor in inputs)
    device = inputs[0].device.type
    with torch.autocast(device, enabled=torch.is_autocast_enabled(device) and not is_float32):
        result = function(*leaves)
        gradients = torch.autograd.grad(result.loss, [leaf for leaf in leaves if leaf.requires_grad])
    for name, value in vars(result).items():
        if isinstance(value, Tensor):
            setattr(result, name, value.detach())
    result.loss = _PrecomputedGradient.apply(result.loss, *wanted, *gradients)
    return result


# ---- linear layers by the fastest product ----

# Smaller weights stay in a cache, where the choice makes no difference.
_MIN_WEIGHT_BYTES = 2**20
# Up to as many rows, reading the weight takes longer than the arithmetic.
_MAX_SKINNY_ROWS = 64
# Weights are measured as a decoder finds them: in no cache.
_COLD_BYTES = 2**26
_SLICE, _TRANSPOSED_SLICE = 32, 64
_MIN_GAIN = 1.05


class TunedLinear(nn.Linear):
    """
    [`torch.nn.Linear`] whose product on a CPU is the fastest one that is known for its shape.

    With the dozen rows of a decoding step (one token per beam), `nn.Linear` reads the weight at a third of the memory
    bandwidth of a CPU, and with thousands of rows its library is not the fastest on every processor. Which product is
    best depends on processor, threads and shape; it is measured when a shape is first met, and remembered in the cache
    folder of the machine, so that later processes round the same way. Gradients, compilation, autocast, other dtypes
    and devices, small weights, and `torch.use_deterministic_algorithms` use `nn.Linear`.
    """

    def forward(self, input: Tensor) -> Tensor:
        # The number of rows is checked last: a compiler may not know it.
        if (
            torch.compiler.is_compiling()
            or torch.jit.is_tracing()
            or torch.is_grad_enabled()
            or input.device.type != "cpu"
            or input.dtype != torch.float32
            or self.weight.dtype != torch.float32
            or type(self.weight) is not nn.Parameter  # quantized or distributed
            or self.weight.nbytes < _MIN_WEIGHT_BYTES
            or torch.is_autocast_enabled("cpu")
            or torch.are_deterministic_algorithms_enabled()
            or input.numel() == 0
        ):
            return super().forward(input)
        rows = input.reshape(-1, self.in_features)
        outputs = _fastest_product(rows, self.weight, self.bias)(rows, self.weight, self.bias)
        return outputs.reshape(*input.shape[:-1], self.out_features)


def _linear_by_slices(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A batch of products, one per slice of the output features: `(R, I)` to `(R, O)`."""
    parts, rest = _slices(weight, _SLICE)  # (S, O / S, I)
    batch = rows.expand(len(parts), -1, -1)
    if bias is None:
        outputs = torch.bmm(batch, parts.transpose(1, 2))
    else:
        outputs = torch.baddbmm(_slices(bias, _SLICE)[0].unsqueeze(1), batch, parts.transpose(1, 2))
    return _with_rest(outputs.transpose(0, 1).flatten(1), rows, weight, bias, rest)


def _linear_by_transposed_slices(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `_linear_by_slices`, with the weight as the left factor."""
    parts, rest = _slices(weight, _TRANSPOSED_SLICE)
    batch = rows.T.expand(len(parts), -1, -1)
    if bias is None:
        outputs = torch.bmm(parts, batch)
    else:
        outputs = torch.baddbmm(_slices(bias, _TRANSPOSED_SLICE)[0].unsqueeze(2), parts, batch)
    return _with_rest(outputs.flatten(0, 1).T, rows, weight, bias, rest)


def _slices(weight: Tensor, size: int) -> tuple[Tensor, int]:
    """Slices of the output features, `(S, size, ...)`, and the number of features that are in none."""
    count, rest = divmod(len(weight), size)
    return weight[: count * size].unflatten(0, (count, size)), rest


def _with_rest(outputs: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None, rest: int) -> Tensor:
    if not rest:
        return outputs
    last = nn.functional.linear(rows, weight[-rest:], None if bias is None else bias[-rest:])
    return torch.cat([outputs, last], dim=1)


def _linear_by_onednn(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


_Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
_LINEAR, _ONEDNN, _SLICES, _TRANSPOSED_SLICES = "linear", "onednn", "slices", "transposed slices"
_PRODUCTS: dict[str, _Product] = {
    _LINEAR: nn.functional.linear,
    _ONEDNN: _linear_by_onednn,
    _SLICES: _linear_by_slices,
    _TRANSPOSED_SLICES: _linear_by_transposed_slices,
}


def _products(count: int) -> dict[str, _Product]:
    """The products that may be the fastest for a number of rows, by name."""
    names = [_LINEAR]
    if torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled:
        if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            names.append(_ONEDNN)
    if count <= _MAX_SKINNY_ROWS and torch.backends.mkl.is_available():  # only MKL runs a batch of products in one call
        names += [_SLICES, _TRANSPOSED_SLICES]
    return {name: _PRODUCTS[name] for name in names}


_fastest: dict[tuple[int, int, int, int], str] = {}


def _fastest_product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> _Product:
    count = len(rows)
    if count > 16:
        count = 2 ** (count - 1).bit_length()
    key = (count, *weight.shape, torch.get_num_threads())
    if key not in _fastest:
        products = _products(len(rows))
        _fastest[key] = _remembered(key, products, lambda: _measure(products, rows, weight, bias))
    name = _fastest[key]
    if name == _ONEDNN and not torch.backends.mkldnn.enabled:
        return nn.functional.linear
    return _PRODUCTS[name]


def _measure(products: Mapping[str, _Product], rows: Tensor, weight: Tensor, bias: Tensor | None) -> str:
    """The name of the fastest product; `"linear"` unless another one is clearly faster."""
    weights = [weight]
    repeats = 2
    if len(rows) <= _MAX_SKINNY_ROWS:
        weights += [weight.clone() for _ in range(_COLD_BYTES // weight.nbytes)]
        repeats = 3
    seconds = {}
    for name, product in products.items():
        durations = []
        for _ in range(1 + repeats):  # the first may have to set up the library
            started = time.perf_counter()
            for each in weights:
                product(rows, each, bias)
            durations.append(time.perf_counter() - started)
        seconds[name] = min(durations[1:])
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[best] * _MIN_GAIN < seconds[_LINEAR] else _LINEAR


def _remembered(key: tuple[int, ...], known: Collection[str], measure: Callable[[], str]) -> str:
    """What an earlier process on this machine has measured; else it is measured and written down."""
    path = os.path.join(_measurements_folder(), "-".join(map(str, key)))
    with suppress(OSError), open(path, encoding="utf-8") as file:
        name = file.read()
        if name in known:
            return name
    name = measure()
    with suppress(OSError):  # without a writable folder, each process measures
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(name)
        except FileExistsError:  # by a process that measured at the same time, and that others may have read
            with open(path, encoding="utf-8") as file:
                found = file.read()
            if found in known:
                return found
            with open(path, "w", encoding="utf-8") as file:
                file.write(name)
    return name


@lru_cache(maxsize=1)
def _measurements_folder() -> str:
    processor = platform.processor() or platform.machine()
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        processor = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), processor)
    capability = torch.backends.cpu.get_cpu_capability()
    machine = f"{processor}, {capability}, {os.cpu_count()} cores, torch {torch.__version__}"
    name = sha256(machine.encode()).hexdigest()[:16]
    return os.path.join(HF_HOME, "modeling_lavis", "linear", name)


__all__ = [
    "TunedLinear",
    "copies_before_update",
    "fused_loss_backward",
    "has_hooks",
    "is_eager_inference",
    "may_overwrite_output",
    "selective_recompute",
]
