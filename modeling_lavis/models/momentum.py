# SPDX-License-Identifier: Apache-2.0
"""Momentum twins of modules and the queue of their features (He et al., 2020, https://arxiv.org/abs/1911.05722).

Letters: B features of all processes together, P width of a feature, Q length of the queue.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import initialization as init

ModulePairs = list[tuple[nn.Module, nn.Module]]


def _paired_parameters(pairs: ModulePairs) -> Iterable[tuple[nn.Parameter, nn.Parameter]]:
    seen: set[int] = set()  # a weight that two twins share moves once
    for online, twin in pairs:
        for parameters in zip(online.parameters(), twin.parameters(), strict=True):
            if id(parameters[1]) not in seen:
                seen.add(id(parameters[1]))
                yield parameters


def freeze_twins(pairs: ModulePairs) -> None:
    """Take the twins out of reach of any optimiser."""
    for _, twin in pairs:
        twin.requires_grad_(False)


@torch.no_grad()
def initialise_twins(pairs: ModulePairs) -> None:
    """Copy the online weights into every twin weight that no checkpoint has filled."""
    for online, twin in _paired_parameters(pairs):
        init.copy_(twin, online)


@torch.no_grad()
def update_twins(pairs: ModulePairs, momentum: float) -> None:
    """Move every twin weight towards the online one: `twin = momentum * twin + (1 - momentum) * online`."""
    paired = list(_paired_parameters(pairs))
    if paired:
        online, twins = zip(*paired, strict=True)
        torch._foreach_lerp_(list(twins), list(online), 1.0 - momentum)


@torch.no_grad()
def resize_twins(pairs: ModulePairs) -> None:
    """Follow the online modules after their vocabulary was resized; new rows start as copies of the online ones."""
    for online, twin in pairs:
        for name, parameter in online.named_parameters():
            old = twin.get_parameter(name)
            if old.shape == parameter.shape:
                continue
            new, rows = parameter.detach().clone(), min(len(old), len(parameter))
            new[:rows] = old[:rows]
            owner, _, leaf = name.rpartition(".")
            setattr(twin.get_submodule(owner), leaf, nn.Parameter(new, requires_grad=False))
        for module in twin.modules():
            if isinstance(module, nn.Embedding):
                module.num_embeddings = module.weight.shape[0]
            elif isinstance(module, nn.Linear):
                module.out_features = module.weight.shape[0]


def queue_slots(pointer: Tensor, count: int, size: int) -> Tensor:
    """The `count` slots from `pointer` (shape (1,)) on in a ring of `size`: int64 of shape (count,)."""
    return (pointer + torch.arange(count, device=pointer.device)) % size


@torch.no_grad()
def push_to_queue(queues: list[tuple[Tensor, Tensor]], pointer: Tensor) -> None:
    """
    Overwrite the oldest entries of several queues that share one pointer, wrapping at the end.

    Args:
        queues (`list[tuple[Tensor, Tensor]]`): pairs of a queue `(P, Q)` and its new entries `(P, B)`.
        pointer (`Tensor` of shape `(1,)`): first slot to write; moved on in place.
    """
    size, count = queues[0][0].shape[1], queues[0][1].shape[1]
    # Of more entries than slots only the newest survive, where a plain ring would have left them.
    skip = max(count - size, 0)
    slots = queue_slots(pointer, count, size)[skip:]
    for queue, entries in queues:
        queue.index_copy_(1, slots, entries[:, skip:].to(queue.dtype))
    pointer.copy_((pointer + count) % size)


__all__ = [
    "ModulePairs",
    "freeze_twins",
    "initialise_twins",
    "push_to_queue",
    "queue_slots",
    "resize_twins",
    "update_twins",
]
