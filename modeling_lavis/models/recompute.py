# SPDX-License-Identifier: Apache-2.0
"""Cheap intermediate values that are worked out again in the backward pass instead of being kept for it."""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor


class _Recipe(NamedTuple):
    """Stands for a tensor that is not kept."""

    shape: torch.Size
    dtype: torch.dtype


def _has_address(value: Tensor) -> bool:
    # Subclasses (sharded, fake) and what torch.func hands out share an address, or have none, so that one such tensor
    # could be taken for another.
    if type(value) not in (Tensor, torch.nn.Parameter):
        return False
    try:
        return value.data_ptr() != 0
    except RuntimeError:
        return False


def recomputed(value: Tensor, again: Callable[[], Tensor], enabled: bool = True) -> AbstractContextManager[Any]:
    """
    Within the context, whatever would keep `value` for its backward pass keeps a recipe for it instead.

    Worth it for activations and norms: their input is kept by themselves anyway, and they cost next to nothing beside
    the matrix product that would keep their output. The modules in the context are called as they are, so adapters and
    quantised layers in their place profit, too. What a module makes of `value` first, such as a copy in another
    precision under autocast, is kept as ever.

    Args:
        value (`Tensor`): result of a function without chance whose input stays in memory.
        again (callable): makes the same result again.
        enabled (`bool`, *optional*, defaults to `True`): off, for instance, under activation checkpointing, which
            keeps nothing either.
    """
    if not enabled or not value.requires_grad or torch.compiler.is_compiling() or not _has_address(value):
        return nullcontext()

    # The graph holds on to `pack`, which must not hold on to the value.
    reference = weakref.ref(value)

    def pack(tensor: Tensor) -> Tensor | _Recipe:
        # A saved tensor is never the object itself, but another view of it. While the object lives, nothing else can
        # stand at its address.
        original = reference()
        same = (
            original is not None
            and _has_address(tensor)
            and tensor.data_ptr() == original.data_ptr()
            and tensor.dtype == original.dtype
            and tensor.numel() == original.numel()
            and tensor.is_contiguous()
            and original.is_contiguous()
        )
        return _Recipe(tensor.shape, tensor.dtype) if same else tensor

    def unpack(kept: Tensor | _Recipe) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad():  # autograd ties the result to the place that the kept tensor had in the graph
            return again().to(kept.dtype).view(kept.shape)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


__all__ = ["recomputed"]
