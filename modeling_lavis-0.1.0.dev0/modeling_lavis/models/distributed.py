# SPDX-License-Identifier: Apache-2.0
"""Several processes: gathering the rows of all, and what heads have to know about engines that shard their training.

Processes may have different numbers of rows; a single process has all rows already. The engines are DeepSpeed, and FSDP
by accelerate.

Shapes: B rows of this process, W rows of all processes together, L length.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from transformers.integrations.deepspeed import deepspeed_config, is_deepspeed_zero3_enabled


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


# ---- DeepSpeed (https://arxiv.org/abs/1910.02054) ----


def is_trained_by_deepspeed(model: nn.Module) -> bool:
    """Whether the optimizer of a model steps on copies of its parameters, which DeepSpeed then writes back."""
    # Set by transformers and accelerate; the mark on parameters is that of an engine that was made without them.
    return deepspeed_config() is not None or any(hasattr(weight, "_hp_mapping") for weight in model.parameters())


def refuse_zero_stage_3(name: str, model: nn.Module | None = None) -> None:
    """
    Refuse DeepSpeed's ZeRO stage 3, under which parameters are empty outside of the forward pass of their module.

    Args:
        name (`str`): name of the model's class, for the message.
        model (`nn.Module`, *optional*): model that may be partitioned; without it, the stage of this process is asked
            for, under which a new model would be.

    Raises:
        ValueError: the stage is 3.
    """
    if model is None:
        is_partitioned = is_deepspeed_zero3_enabled()
    else:
        is_partitioned = hasattr(next(model.parameters(), None), "ds_id")  # a mark of all parameters
    if is_partitioned:
        raise ValueError(
            f"{name} does not run under DeepSpeed's ZeRO stage 3, which keeps parameters empty between forward passes: "
            'these models initialize, save and update some of them there. Set the stage of "zero_optimization" to 2 '
            "in DeepSpeed's configuration, or shard parameters by FSDP2 (TrainingArguments(fsdp=True))."
        )


# ---- FSDP2 by accelerate (https://arxiv.org/abs/2304.11277) ----


def is_sharded_by_fsdp2() -> bool:
    """Whether the accelerator of this process shards models by FSDP2."""
    try:
        from accelerate.state import AcceleratorState, is_initialized
    except ImportError:
        return False
    plugin = getattr(AcceleratorState(), "fsdp_plugin", None) if is_initialized() else None
    return getattr(plugin, "fsdp_version", None) == 2


class LayersKeptWhole:
    """
    Descriptor for `_no_split_modules`: the classes of the layers that stay whole.

    transformers asks for it to place layers on devices, and accelerate before it shards a model: every such layer, and
    the word embeddings, get an FSDP group of their own. But FSDP2 refuses parameters that two groups share. Language
    modeling heads are tied to the word embeddings, and BLIP's decoder to its text encoder. Under FSDP2 such layers and
    the embeddings therefore stay in the group of the whole model, which is gathered once per step, from the forward
    pass to the end of the backward pass.
    """

    def __get__(self, model: Any, owner: Any = None) -> Any:
        """The names of the classes; `None` for a class, and for a model under construction whose parts are unknown."""
        if model is None:
            return None
        names = vars(model).get("layers_kept_whole")
        if not names or not vars(model).get("is_complete") or not is_sharded_by_fsdp2():
            return names
        shared = shared_parameters(model)
        embeddings = [model.get_input_embeddings(), model.get_output_embeddings()]
        if any(has_any(module, shared) for module in embeddings if module is not None):
            hide_embeddings(model)
        layers = [module for module in model.modules() if type(module).__name__ in names]
        return names - {type(module).__name__ for module in layers if has_any(module, shared)}

    def __set__(self, model: Any, names: Any) -> None:
        vars(model)["layers_kept_whole"] = names


def shared_parameters(model: nn.Module) -> set[int]:
    """The parameters, by identity, that several modules of a model hold."""
    registered = Counter(id(value) for module in model.modules() for value in module._parameters.values())
    return {value for value, count in registered.items() if count > 1 and value != id(None)}


def has_any(module: nn.Module, parameters: set[int]) -> bool:
    """Whether a module holds one of the parameters."""
    return any(id(value) in parameters for value in module.parameters())


_ACCESSORS = ("get_input_embeddings", "get_output_embeddings")


def hide_embeddings(model: Any) -> None:
    """Let a model say until its next forward pass that it has no word embeddings; what it has, gets its own group."""
    if not vars(model).keys() & set(_ACCESSORS):
        for name in _ACCESSORS:
            setattr(model, name, _no_embeddings)
        handle: Any = model.register_forward_pre_hook(lambda *_: _show_embeddings(model, handle))


def _no_embeddings() -> None:
    """What accelerate takes for the embeddings of a model that has none."""


def _show_embeddings(model: Any, handle: Any) -> None:
    """Give the model its methods back."""
    for name in _ACCESSORS:
        vars(model).pop(name, None)
    handle.remove()


__all__ = [
    "LayersKeptWhole",
    "exchange_numbers",
    "first_row",
    "gather",
    "gather_ragged",
    "gather_with_grad",
    "has_any",
    "hide_embeddings",
    "is_sharded_by_fsdp2",
    "is_trained_by_deepspeed",
    "rank",
    "refuse_zero_stage_3",
    "shared_parameters",
    "world_size",
]
