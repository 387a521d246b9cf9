# SPDX-License-Identifier: Apache-2.0
"""Losses whose gradient is worked out in the forward pass, so that nothing big has to wait for the backward pass."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor


class _HasLoss(Protocol):
    loss: Tensor


Result = TypeVar("Result", bound=_HasLoss)


class _KnownGradient(torch.autograd.Function):
    """A number whose derivatives by its inputs are known already: `inputs` first, then as many derivatives."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[len(tensors) // 2 :])
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "This loss keeps its first derivatives only, so a backward pass with create_graph=True "
                "would miss part of the second ones. Leave create_graph out."
            )
        gradients = [(grad * known).to(known.dtype) for known in ctx.saved_tensors]
        return None, *gradients, *(None for _ in gradients)


def with_early_gradient(function: Callable[..., Result], inputs: Sequence[Tensor]) -> Result:
    """
    Call a function that returns an object with a scalar `loss`, and differentiate the loss at once.

    Only the gradients by `inputs` are kept, not what the function read: candidates that it compares the inputs with,
    such as a queue, are free to change or to go before the backward pass. Without gradient, and where a compiler lays
    out both passes itself, the function is called as it is.

    Args:
        function (callable): of `inputs`; gradient flows to nothing else. It may draw no random numbers.
        inputs (sequence of `Tensor`): what the loss is differentiated by, where a gradient is asked for.

    Returns:
        what the function returns, with the same `loss`. The other tensors in it carry no gradient.
    """
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    if not wanted or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*inputs)
    leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in inputs]
    # A loss scaler comes after this, too late to keep small gradients from vanishing in half precision.
    single = all(tensor.dtype == torch.float32 for tensor in inputs)
    device = inputs[0].device.type
    with torch.autocast(device, enabled=torch.is_autocast_enabled(device) and not single):
        result = function(*leaves)
        gradients = torch.autograd.grad(result.loss, [leaf for leaf in leaves if leaf.requires_grad])
    for name, value in vars(result).items():
        if isinstance(value, Tensor):
            setattr(result, name, value.detach())
    result.loss = _KnownGradient.apply(result.loss, *wanted, *gradients)
    return result


__all__ = ["with_early_gradient"]
