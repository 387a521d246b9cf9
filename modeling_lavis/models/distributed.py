# SPDX-License-Identifier: Apache-2.0
"""Gathering the rows of all processes, which may differ in number, with gradient; a single process has them already.

Shapes: B rows of this process, W rows of all processes together, L length.
"""

from collections.abc import Sequence
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


@torch.no_grad()
def exchange_numbers(*numbers: int, device: torch.device) -> list[tuple[int, ...]]:
    """
    Numbers of every process, by rank. Every process has to call it with equally many.

    Collective operations need equal shapes; with unequal ones they hang, or end the process in a backend. Numbers of
    rows are therefore exchanged first. A compiler assumes that all processes have the same ones.
    """
    processes = world_size()
    if processes == 1 or torch.compiler.is_compiling():  # reading the numbers would break the graph
        return [tuple(numbers)] * processes
    own = torch.tensor(numbers, dtype=torch.long, device=device)
    parts = [torch.empty_like(own) for _ in range(processes)]
    dist.all_gather(parts, own)
    return [tuple(row) for row in torch.stack(parts).tolist()]


def first_row(counts: Sequence[int]) -> int:
    """Position of the first row of this process among those of all processes."""
    return sum(counts[: rank()])


def _gather_padded(tensor: Tensor, counts: Sequence[int]) -> Tensor:
    """Rows of all processes, each padded to the largest number of rows for the transfer."""
    padded = F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, max(counts) - tensor.shape[0]))
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded.contiguous())
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _GatherWithGrad(torch.autograd.Function):
    """All-gather along the first dimension; the gradient of a row is summed over the processes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.counts = counts
        return _gather_padded(tensor, counts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        counts = ctx.counts
        largest = max(counts)
        parts = [F.pad(part, (0, 0) * (grad.ndim - 1) + (0, largest - part.shape[0])) for part in grad.split(counts)]
        own = torch.empty_like(parts[0])
        dist.reduce_scatter(own, [part.contiguous() for part in parts])
        return own[: counts[rank()]], None


def gather_with_grad(tensor: Tensor, counts: tuple[int, ...]) -> Tensor:
    """
    Rows of all processes, ordered by rank.

    Args:
        tensor (`Tensor` of shape `(B, ...)`): rows of this process.
        counts (`tuple[int, ...]`): number of rows of each process, from [`exchange_numbers`].

    Returns:
        `Tensor` of shape `(W, ...)`.
    """
    return _GatherWithGrad.apply(tensor, counts) if world_size() > 1 else tensor


@torch.no_grad()
def gather(tensor: Tensor, counts: tuple[int, ...]) -> Tensor:
    """[`gather_with_grad`] without gradient."""
    return _gather_padded(tensor, counts) if world_size() > 1 else tensor


@torch.no_grad()
def gather_ragged(tensor: Tensor, counts: tuple[int, ...], fill: int = 0) -> Tensor:
    """[`gather`] for `(B, L)` tensors whose lengths differ between processes; shorter rows are filled up."""
    if world_size() == 1:
        return tensor
    length = torch.tensor([tensor.shape[1]], device=tensor.device)
    dist.all_reduce(length, op=dist.ReduceOp.MAX)
    return gather(F.pad(tensor, (0, int(length) - tensor.shape[1]), value=fill), counts)


__all__ = ["exchange_numbers", "first_row", "gather", "gather_ragged", "gather_with_grad", "rank", "world_size"]
