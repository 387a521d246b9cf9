# SPDX-License-Identifier: Apache-2.0
"""Sharding with FSDP2, for models whose layers share parameters."""

from collections import Counter
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard


@torch.no_grad()
def shard_model(model: nn.Module, **options: Any) -> nn.Module:
    """
    Shard parameters, gradients and optimizer states over all processes with FSDP2 (`fully_shard`), layer by layer.

    The Trainer with `fsdp=True` shards models by itself, but puts tied word embeddings and every layer into groups of
    their own, between which FSDP2 refuses shared parameters. The pretraining heads have such: their language modeling
    head is tied to the word embeddings, and BLIP's decoder to its text encoder. Here layers with shared parameters stay
    in the group of the whole model, which is kept whole from the forward pass to the end of the backward pass. Call it
    after `TrainingArguments`, which starts the process group, and give the model to the Trainer:

    ```python
    arguments = TrainingArguments("run", fsdp=True)
    trainer = Trainer(shard_model(model), arguments, ...)
    ```

    Parameters and buffers are those of the first process, as in DDP; a model that only this process has loaded
    (`cpu_ram_efficient_loading`) is complete afterwards.

    Args:
        model ([`~transformers.PreTrainedModel`]): model on the device of the process; changed in-place.
        options: options of [`torch.distributed.fsdp.fully_shard`], such as `mesh`, `mp_policy` and `offload_policy`.
            The Trainer's options `bf16`, `fp16` and `fsdp_config` do not set them.

    Returns:
        The same model.

    Raises:
        ValueError: If no process group is initialized.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError(
            "shard_model needs a process group. Start the script with torchrun, and create TrainingArguments, or call "
            "torch.distributed.init_process_group, first."
        )
    registered = Counter(id(value) for module in model.modules() for value in module._parameters.values())
    for value in (*model.parameters(), *model.buffers()):
        dist.broadcast(value.data, src=0)
    names = set(getattr(model, "_no_split_modules", None) or ())
    for module in list(model.modules()):
        is_own_group = type(module).__name__ in names and module is not model
        if is_own_group and all(registered[id(value)] == 1 for value in module.parameters()):
            fully_shard(module, **options)
    fully_shard(model, **options)
    model._no_split_modules = set()  # type: ignore[assignment]  # accelerate would look for classes that have new names
    return model


__all__ = ["shard_model"]
