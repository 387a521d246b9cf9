# SPDX-License-Identifier: Apache-2.0
"""Less memory traffic: in-place inference, selective recompute, fused loss backward, linear layers for few rows.

Shapes: R rows, I input features, O output features, S slices of the output features.
"""

import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
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
        bool(part._forward_hooks) or bool(part._forward_pre_hooks) or "forward" in vars(part)
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


# ---- skinny linear ----

# A single row is fastest as the library's matrix-vector product; from _MAX_ROWS on its blocks are large enough.
_MIN_ROWS, _MAX_SLICED_ROWS, _MAX_ROWS = 2, 15, 40
_SLICE = 32


class SkinnyLinear(nn.Linear):
    """
    [`torch.nn.Linear`] that is also fast for the few rows of a decoding step (one token per beam).

    With a dozen rows the time is spent on reading the weight, which the library's matrix product does at a third of the
    memory bandwidth of a CPU. As a batch of products over slices of the output features, or as `weight @ rows.T`, the
    same weight is read up to twice as fast. Other row counts, dtypes and devices, gradient and compilation use
    `nn.Linear`.
    """

    def forward(self, input: Tensor) -> Tensor:
        # The number of rows is checked last: a compiler may not know it.
        if (
            torch.compiler.is_compiling()
            or torch.is_grad_enabled()
            or input.device.type != "cpu"
            or input.dtype != torch.float32
            or self.weight.dtype != torch.float32
        ):
            return super().forward(input)
        count = input.numel() // self.in_features
        if not _MIN_ROWS <= count <= _MAX_ROWS:
            return super().forward(input)
        rows = input.reshape(count, self.in_features)
        # only MKL runs a batch of products in one call
        if count <= _MAX_SLICED_ROWS and torch.backends.mkl.is_available():
            outputs = _linear_by_slices(rows, self.weight, self.bias)
        else:
            outputs = _linear_transposed(rows, self.weight, self.bias)
        return outputs.reshape(*input.shape[:-1], -1)


def _linear_by_slices(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One product per slice of the output features: `(R, I)` to `(R, O)`."""
    slices, rest = divmod(weight.shape[0], _SLICE)
    whole = weight.shape[0] - rest
    parts = weight[:whole].unflatten(0, (slices, _SLICE)).transpose(1, 2)  # (S, I, O / S)
    batch = rows.expand(slices, -1, -1)
    if bias is None:
        outputs = torch.bmm(batch, parts)
    else:
        outputs = torch.baddbmm(bias[:whole].view(slices, 1, _SLICE), batch, parts)
    outputs = outputs.transpose(0, 1).flatten(1)
    if rest:
        last = nn.functional.linear(rows, weight[whole:], bias if bias is None else bias[whole:])
        outputs = torch.cat([outputs, last], dim=1)
    return outputs


def _linear_transposed(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`weight @ rows.T`: `(R, I)` to `(R, O)`."""
    outputs = weight @ rows.T if bias is None else torch.addmm(bias[:, None], weight, rows.T)
    return outputs.T


__all__ = [
    "SkinnyLinear",
    "copies_before_update",
    "fused_loss_backward",
    "has_hooks",
    "is_eager_inference",
    "may_overwrite_output",
    "selective_recompute",
]
