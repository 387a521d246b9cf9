# SPDX-License-Identifier: Apache-2.0
"""Gathering tensors of all processes, with gradient; with a single process, the tensor itself."""

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


class _GatherWithGrad(torch.autograd.Function):
    """All-gather along the first dimension; the gradient of a row is summed over the processes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = tensor.shape[0]
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        start = dist.get_rank() * ctx.rows
        return grad[start : start + ctx.rows]


def gather_with_grad(tensor: Tensor) -> Tensor:
    """Rows of all processes, ordered by rank; every process has the same number of rows."""
    return _GatherWithGrad.apply(tensor) if world_size() > 1 else tensor


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """[`gather_with_grad`] without gradient."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


@torch.no_grad()
def gather_ragged(tensor: Tensor, fill: int = 0) -> Tensor:
    """[`gather`] for `(rows, length)` tensors whose lengths differ between processes; shorter ones are filled up."""
    if world_size() == 1:
        return tensor
    length = torch.tensor([tensor.shape[1]], device=tensor.device)
    dist.all_reduce(length, op=dist.ReduceOp.MAX)
    return gather(F.pad(tensor, (0, int(length) - tensor.shape[1]), value=fill))


__all__ = ["gather", "gather_ragged", "gather_with_grad", "rank", "world_size"]
