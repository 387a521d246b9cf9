# SPDX-License-Identifier: Apache-2.0
"""Momentum encoders, momentum distillation, and the feature queue (MoCo, https://arxiv.org/abs/1911.05722).

Distillation and the queue are independent of each other: question answering and classification use the momentum
encoders' soft targets only ([`MomentumDistillationMixin`]), retrieval and pretraining add a queue of momentum features
(the `*_feature_queue` functions), which lives in buffers of the head.

Shapes: B features of all processes together, P projection dimension, Q queue length.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .modeling_base import update_feature_counts
from .outputs import IGNORE_INDEX

#: online modules with their momentum copies
ModulePairs = list[tuple[nn.Module, nn.Module]]


# ---- momentum encoders ----


def _paired_parameters(pairs: ModulePairs) -> Iterable[tuple[nn.Parameter, nn.Parameter]]:
    seen: set[int] = set()  # a weight that is shared by two momentum modules is updated once
    for online, momentum in pairs:
        for parameters in zip(online.parameters(), momentum.parameters(), strict=True):
            if id(parameters[1]) not in seen:
                seen.add(id(parameters[1]))
                yield parameters


@torch.no_grad()
def init_momentum_modules(pairs: ModulePairs) -> None:
    """Copy the online weights into all momentum weights that were not loaded from a checkpoint."""
    for online, momentum in _paired_parameters(pairs):
        init.copy_(momentum, online)


@torch.no_grad()
def update_momentum_modules(pairs: ModulePairs, momentum: float) -> None:
    """Exponential moving average: `m = momentum * m + (1 - momentum) * online`."""
    paired = list(_paired_parameters(pairs))
    if paired:
        online, averaged = zip(*paired, strict=True)
        torch._foreach_lerp_(list(averaged), list(online), 1.0 - momentum)


@torch.no_grad()
def resize_momentum_modules(pairs: ModulePairs) -> None:
    """Adapt momentum modules to a resized vocabulary; new rows are copies of the online ones."""
    for online, momentum in pairs:
        for name, parameter in online.named_parameters():
            old = momentum.get_parameter(name)
            if old.shape == parameter.shape:
                continue
            new, rows = parameter.detach().clone(), min(len(old), len(parameter))
            new[:rows] = old[:rows]
            owner, _, leaf = name.rpartition(".")
            setattr(momentum.get_submodule(owner), leaf, nn.Parameter(new, requires_grad=False))


if TYPE_CHECKING:
    from .modeling_base import LavisPreTrainedModel as _Model
else:
    _Model = object


class MomentumDistillationMixin(_Model):
    """
    Momentum encoders of a head, and the weight of their soft targets (ALBEF, section 3.3,
    https://arxiv.org/abs/2107.07651).

    Every direct submodule `<name>_m` is the momentum copy of `<name>`: it is initialized from it where a checkpoint has
    no weights for it, frozen, resized with the vocabulary, and follows it by [`update_momentum`]. A head without such
    submodules trains without distillation. Listed before the family's base class.
    """

    #: weight of the soft targets; set by a callback that ramps it up, `None` for the configuration's `alpha`
    distill_alpha: float | None = None

    @property
    def momentum_pairs(self) -> ModulePairs:
        """Online modules with their momentum copies."""
        copies = [(name.removesuffix("_m"), child) for name, child in self.named_children() if name.endswith("_m")]
        return [(getattr(self, name), copy) for name, copy in copies]

    @property
    def has_momentum_encoders(self) -> bool:
        """Whether the head has momentum encoders."""
        return any(name.endswith("_m") for name, _ in self.named_children())

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init_momentum_modules(self.momentum_pairs)

    def tie_weights(self, missing_keys: set[str] | None = None, **kwargs: Any) -> None:
        """Tie shared weights and freeze the momentum encoders; called after construction and after loading."""
        super().tie_weights(missing_keys=missing_keys, **kwargs)
        # Tying may set an online weight after its momentum copy was initialized from it.
        for name in missing_keys or ():
            top, _, rest = name.partition(".")
            if top.endswith("_m"):
                with torch.no_grad():
                    self.get_parameter(name).copy_(self.get_parameter(f"{top.removesuffix('_m')}.{rest}"))
        # Loading replaces parameters, so that freezing in the constructor would be lost.
        for _, momentum in self.momentum_pairs:
            momentum.requires_grad_(False)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the vocabulary, including that of the momentum encoders."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        resize_momentum_modules(self.momentum_pairs)
        self.tie_weights()
        update_feature_counts(self)
        return embeddings

    def update_momentum(self) -> None:
        """Move the momentum encoders towards the online weights by the configuration's `momentum`."""
        update_momentum_modules(self.momentum_pairs, self.config.momentum)

    def soft_target_weight(self, alpha: float | None) -> float:
        """Weight of the soft targets: the argument, else `distill_alpha`, else the configuration's `alpha`."""
        if not self.config.use_distill:
            return 0.0
        for value in (alpha, self.distill_alpha):
            if value is not None:
                return float(value)
        return float(self.config.alpha)


# ---- feature queue ----


def register_feature_queue(head: Any, size: int, dim: int, with_ids: bool) -> None:
    """Give a head the buffers of a queue of Q image and text features, and of image ids if `with_ids`."""
    head.register_buffer("image_queue", torch.zeros(dim, size))
    head.register_buffer("text_queue", torch.zeros(dim, size))
    if with_ids:
        head.register_buffer("idx_queue", torch.full((1, size), IGNORE_INDEX))
    head.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))


@torch.no_grad()
def init_feature_queue(head: Any) -> None:
    """Fill the queue with random unit vectors and no ids, where a checkpoint has not filled it."""
    for name in ("image_queue", "text_queue"):
        queue = head.get_buffer(name)
        init.normal_(queue)
        init.copy_(queue, F.normalize(queue, dim=0))
    init.zeros_(head.get_buffer("queue_ptr"))
    if hasattr(head, "idx_queue"):
        init.constant_(head.get_buffer("idx_queue"), IGNORE_INDEX)


def queue_slots(pointer: Tensor, count: int, size: int) -> Tensor:
    """The `count` slots that follow `pointer` (of shape `(1,)`) in a ring of `size`: int64 of shape `(count,)`."""
    return (pointer + torch.arange(count, device=pointer.device)) % size


@torch.no_grad()
def enqueue(queues: list[tuple[Tensor, Tensor]], pointer: Tensor) -> None:
    """
    Overwrite the oldest entries of queues that share a pointer, wrapping at the end.

    Args:
        queues (`list[tuple[Tensor, Tensor]]`): queues `(P, Q)` with their new entries `(P, B)`; written in-place.
        pointer (`Tensor` of shape `(1,)`): first slot to write; advanced in-place.
    """
    size, count = queues[0][0].shape[1], queues[0][1].shape[1]
    # Of more entries than slots only the newest are kept, as if they were written one after the other.
    skip = max(count - size, 0)
    slots = queue_slots(pointer, count, size)[skip:]
    for queue, entries in queues:
        queue.index_copy_(1, slots, entries[:, skip:].to(queue.dtype))
    pointer.copy_((pointer + count) % size)


__all__ = [
    "ModulePairs",
    "MomentumDistillationMixin",
    "enqueue",
    "init_feature_queue",
    "init_momentum_modules",
    "queue_slots",
    "register_feature_queue",
    "resize_momentum_modules",
    "update_momentum_modules",
]
