# SPDX-License-Identifier: Apache-2.0
"""What heads have to know about engines that shard their training: DeepSpeed, and FSDP by accelerate."""

from typing import Any

from torch import nn
from transformers.integrations.deepspeed import deepspeed_config, is_deepspeed_zero3_enabled

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


__all__ = ["is_trained_by_deepspeed", "refuse_zero_stage_3"]
