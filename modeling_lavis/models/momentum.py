# SPDX-License-Identifier: Apache-2.0
"""Momentum encoders, momentum distillation, and the feature queue (MoCo, https://arxiv.org/abs/1911.05722).

Distillation and the queue are independent of each other: question answering and classification use the momentum
encoders' soft targets only ([`MomentumDistillationMixin`]), retrieval and pretraining add a queue of momentum features
(the `*_feature_queue` functions), which is kept in buffers of the head.

Shapes: B features of all processes together, P projection dimension, Q queue length.
"""

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import initialization as init
from transformers.utils import logging

from .distributed import is_trained_by_deepspeed
from .modeling_base import update_feature_counts
from .outputs import IGNORE_INDEX

logger = logging.get_logger(__name__)

#: online modules with their momentum copies
ModulePairs = list[tuple[nn.Module, nn.Module]]


# ---- momentum weights ----


def online_weight(module: nn.Module, name: str) -> Tensor:
    """
    The weight of an online module that a momentum weight follows: with adapters, the weight that they add up to.

    Args:
        module (`nn.Module`): the online module, possibly with adapters of peft inside.
        name (`str`): name of the weight in the module without adapters.

    Raises:
        ValueError: the adapter is of a kind whose effect is not a change of the weight, or the weight is quantized.
    """
    *path, leaf = name.split(".")
    for part in path:
        module = _active_copy(module).get_submodule(part)
    module = _active_copy(module)
    if not hasattr(module, "base_layer"):
        return module.get_parameter(leaf)
    layer: Any = module
    weight: Tensor = layer.get_base_layer().get_parameter(leaf)
    adapters = [] if layer.disable_adapters or layer.merged else layer.active_adapters
    adapters = [adapter for adapter in adapters if adapter in layer.scaling] if hasattr(layer, "scaling") else adapters
    plain = hasattr(layer, "get_delta_weight") and not any(getattr(layer, "use_dora", {}).values())
    if (adapters and not plain) or not weight.is_floating_point():
        raise ValueError(
            f"The momentum encoders cannot follow {name}, which is quantized or has adapters of the kind "
            f"{type(layer).__name__}; they follow plain weights and LoRA. Use LoRA on an unquantized model, or train "
            "without momentum encoders (use_momentum=False)."
        )
    for adapter in adapters:
        if leaf == "weight":
            weight = weight + layer.get_delta_weight(adapter).to(weight.dtype)
        elif leaf == "bias" and getattr(layer, "lora_bias", {}).get(adapter):
            weight = weight + layer.lora_B[adapter].bias * layer.scaling[adapter]
    return weight


def _active_copy(module: nn.Module) -> nn.Module:
    """The copy that is trained, of a module that peft trains completely (`modules_to_save`)."""
    copies: Any = getattr(module, "modules_to_save", None)
    if not isinstance(copies, nn.ModuleDict):
        return module
    active: Any = module
    name = next((name for name in active.active_adapters if name in copies), None)
    return active.original_module if name is None or active.disable_adapters else copies[name]


def _momentum_weights(pairs: ModulePairs) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Momentum weights with the online weights that they follow."""
    seen: set[int] = set()  # a weight that is shared by two momentum modules is updated once
    for online, momentum in pairs:
        for name, weight in momentum.named_parameters():
            if id(weight) not in seen:
                seen.add(id(weight))
                yield weight, online_weight(online, name)


@torch.no_grad()
def init_momentum_modules(pairs: ModulePairs) -> None:
    """Copy the online weights into all momentum weights that were not loaded from a checkpoint."""
    for momentum, online in _momentum_weights(pairs):
        init.copy_(momentum, online)


@torch.no_grad()
def update_momentum_modules(pairs: ModulePairs, momentum: float) -> None:
    """
    Exponential moving average, `m = momentum * m + (1 - momentum) * online`, in float32.

    A momentum weight in half precision becomes float32, because steps of 0.005 of the difference would be rounded away.
    Sharded weights (DTensor) are averaged with the same shards of the online weights.
    """
    averaged: list[Tensor] = []
    online: list[Tensor] = []
    for weight, source in _momentum_weights(pairs):
        is_sharded = hasattr(weight, "to_local")
        is_partitioned = weight.numel() == 0 or getattr(weight, "_fsdp_flattened", False)  # DeepSpeed, FSDP1
        if is_partitioned or source.shape != weight.shape or is_sharded != hasattr(source, "to_local"):
            raise ValueError(
                "The momentum encoders cannot be updated here: weights are partitioned, and not in the same way as the "
                "online weights. Train with DDP or FSDP2 (fsdp_config={'version': 2}), where they are after the step "
                "of the optimizer, with DeepSpeed up to ZeRO stage 2, or without momentum encoders "
                "(use_momentum=False)."
            )
        target: Any = weight
        if is_sharded:
            sharded: Any = source
            source = sharded.redistribute(target.device_mesh, target.placements).to_local()
            target = target.to_local()
        elif weight.dtype in (torch.float16, torch.bfloat16):
            weight.data = weight.data.float()
        averaged.append(target)
        online.append(source.to(target.device, target.dtype))
    if averaged:
        torch._foreach_lerp_(averaged, online, 1.0 - momentum)


@torch.no_grad()
def resize_momentum_modules(pairs: ModulePairs) -> None:
    """Adapt momentum modules to a resized vocabulary; new rows are copies of the online ones."""
    for online, momentum in pairs:
        for name, old in list(momentum.named_parameters()):
            new = online_weight(online, name)
            if old.shape == new.shape:
                continue
            new, rows = new.detach().to(old.dtype, copy=True), min(len(old), len(new))
            new[:rows] = old[:rows]
            owner, _, leaf = name.rpartition(".")
            setattr(momentum.get_submodule(owner), leaf, nn.Parameter(new, requires_grad=False))


# ---- adapters ----


def _keep_adapters_out(parent: nn.Module, name: str, module: nn.Module | None) -> nn.Module | None:
    """Hook of `nn.Module`: a submodule of a momentum encoder is not replaced by a layer with an adapter around it."""
    current = parent._modules.get(name)
    if getattr(current, "is_momentum_copy", False):
        wrapped = (getattr(module, "base_layer", None), getattr(module, "original_module", None))
        if any(inner is current for inner in wrapped):
            return current
    return None


_adapters_are_kept_out = False


def keep_adapters_out(momentum: nn.Module) -> None:
    """Let peft adapt the online modules only, whatever names, expressions or `modules_to_save` it is given."""
    global _adapters_are_kept_out
    if not _adapters_are_kept_out:
        hook: Any = _keep_adapters_out  # its annotation in torch leaves out that it may return a module
        torch.nn.modules.module.register_module_module_registration_hook(hook)
        _adapters_are_kept_out = True
    for module in momentum.modules():
        module.is_momentum_copy = True  # type: ignore[assignment]


# ---- after a step of the optimizer ----

_tracked: "weakref.WeakSet[Any]" = weakref.WeakSet()
_optimizers_are_watched = False


def _after_optimizer_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Hook of all optimizers: a head whose parameters moved updates what follows them."""
    stepped = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    for head in [head for head in _tracked if head.update_is_due]:
        if any(id(weight) in stepped for weight in head.parameters()):
            head.update_is_due, head.was_updated = False, True
            head.finish_step()
        elif head.was_updated:  # the optimizer of another model, or a callback updates this one
            continue
        elif is_trained_by_deepspeed(head):
            update_later(head)
        else:
            logger.warning_once(
                f"An optimizer stepped that does not hold the parameters of {type(head).__name__}. If it trains this "
                "model on copies of them, momentum encoders and temperature are not updated: call model.finish_step() "
                "after each step, or give the Trainer the callback modeling_lavis.training.MomentumUpdate."
            )


def _finish_late_step(head: Any, *_: Any) -> None:
    """Hook of a head: the update of a step whose weights were not there yet when the optimizer was noticed."""
    if head.update_is_late and head.update_is_due:
        head.update_is_due = False
        head.finish_step()
    head.update_is_late = False


def update_later(head: Any) -> None:
    """
    Update a head before anything reads it: before its next forward pass, or when its weights are saved.

    DeepSpeed writes the weights that its optimizer computed into the model after the step has been noticed.
    """
    if not head.has_late_updates:
        head.has_late_updates = True
        head.register_forward_pre_hook(_finish_late_step)
        head.register_state_dict_pre_hook(_finish_late_step)
    head.update_is_late = True


def track_optimizers(head: Any) -> None:
    """Let the steps of all optimizers be noticed, for a head that asks for an update after them."""
    global _optimizers_are_watched
    if not _optimizers_are_watched:
        register_optimizer_step_post_hook(_after_optimizer_step)
        _optimizers_are_watched = True
    _tracked.add(head)


def schedule_update(head: Any, update_state: bool | None) -> None:
    """
    Update the momentum encoders and the temperature of a head: at once with `update_state=True`; with `None`, in
    training mode, after the next step of an optimizer that holds its parameters.

    After the step, parameters are whole or sharded in the same way, and accumulated batches count as one step. Every
    [`torch.optim.Optimizer`] is noticed, in any training loop. Under DeepSpeed, by transformers' Trainer or accelerate,
    the update is made before the next forward pass, or when the weights are saved. Any other engine whose optimizer
    holds copies of the parameters needs the callback [`~modeling_lavis.training.MomentumUpdate`]; a warning says so.

    parity: with `momentum_every_forward` in the configuration every forward pass in training updates, as in the
    original.
    """
    every_forward = getattr(head.config, "momentum_every_forward", False)
    if update_state or (update_state is None and head.training and every_forward):
        head.finish_step()
    elif update_state is None and head.training:
        head.update_is_due = True
        if not torch.compiler.is_compiling():  # a compiled head is tracked since it was built or put into training mode
            track_optimizers(head)


if TYPE_CHECKING:
    from .modeling_base import LavisPreTrainedModel as _Model
else:
    _Model = object


class MomentumDistillationMixin(_Model):
    """
    Momentum encoders of a head, and the weight of their soft targets (ALBEF, section 3.3,
    https://arxiv.org/abs/2107.07651).

    Every direct submodule `<name>_m` is the momentum copy of `<name>`: it is initialized from it where a checkpoint has
    no weights for it, frozen, kept in float32, resized with the vocabulary, and follows it after every step of the
    optimizer (see [`schedule_update`]). Adapters of peft go into the online modules only, and the momentum weights
    follow the weights that these add up to. A head without such submodules trains without distillation. Listed before
    the family's base class.
    """

    # filled from the online weights, so a checkpoint without them is complete
    _keys_to_ignore_on_load_missing = [r"^\w+_m\."]

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

    def float32_modules(self) -> list[str]:
        """Also the momentum modules, whose steps are too small for half precision."""
        copies = [f"^{name}" for name, _ in self.named_children() if name.endswith("_m")]
        return [*super().float32_modules(), *copies]

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
            keep_adapters_out(momentum)
        track_optimizers(self)

    def train(self, mode: bool = True) -> Any:
        """Set training or evaluation mode."""
        track_optimizers(self)  # also a copy made by `deepcopy`
        return super().train(mode)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the vocabulary, including that of the momentum encoders."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        resize_momentum_modules(self.momentum_pairs)
        self.tie_weights()
        update_feature_counts(self)
        return embeddings

    def finish_step(self) -> None:
        """Update what follows the weights: the momentum encoders, and in retrieval heads the temperature's range."""
        super().finish_step()
        self.update_momentum()

    def update_momentum(self) -> None:
        """Move the momentum encoders towards the online weights by the configuration's `momentum`."""
        update_momentum_modules(self.momentum_pairs, self.config.momentum)

    def momentum_autocast(self) -> AbstractContextManager[Any]:
        """Context in which the float32 momentum encoders compute in the dtype of a model in half precision."""
        dtype, device = self.dtype, self.device.type
        if dtype not in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(device):
            return nullcontext()
        return torch.autocast(device, dtype)

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
    "schedule_update",
    "track_optimizers",
    "update_later",
    "update_momentum_modules",
]
