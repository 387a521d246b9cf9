# SPDX-License-Identifier: Apache-2.0
"""Warm-up of the momentum distillation weight, as a callback of transformers' Trainer."""

import math
from typing import Any

from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class DistillationRamp(TrainerCallback):
    """
    Raise the weight of the soft targets of the momentum encoders linearly from 0 to the configuration's `alpha`. ALBEF
    and BLIP do so over the first two epochs of pre-training, retrieval and NLVR2, and over the first epoch of question
    answering and visual entailment.

    Before each step the callback sets `distill_alpha` of the head, which `forward` uses if it gets no `alpha`; at the
    end of training it is reset to `None`. The head may be wrapped, for example by peft, by `torch.compile` or by
    `DistributedDataParallel`.

    Args:
        epochs (`float`, *optional*, defaults to 2): length of the ramp in epochs.

    Raises:
        ValueError: If `epochs` is not a positive number or, when training begins, the model has no momentum encoders or
            its configuration does not use their soft targets.
    """

    def __init__(self, epochs: float = 2.0) -> None:
        is_number = isinstance(epochs, (int, float)) and not isinstance(epochs, bool)
        if not is_number or not 0 < epochs < math.inf:
            raise ValueError(f"epochs is {epochs!r}; expected a positive number.")
        self.epochs = epochs

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Check that the model has momentum distillation."""
        heads = distilled_heads(model)
        if not heads:
            raise ValueError(f"{_name(model)} has no momentum distillation; remove the callback.")
        for head in heads:
            if not head.has_momentum_encoders:
                raise ValueError(
                    f"This {_name(head)} has no momentum encoders, and so no soft targets. Load it with"
                    " use_momentum=True and use_distill=True, or remove the callback."
                )
            if not head.config.use_distill:
                raise ValueError(
                    f"This {_name(head)} does not use the soft targets of its momentum encoders"
                    " (config.use_distill=False). Set use_distill=True, or remove the callback."
                )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Set the weight for the progress of the ramp."""
        for head in distilled_heads(model):
            head.distill_alpha = float(head.config.alpha) * min(1.0, (state.epoch or 0.0) / self.epochs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Reset the weight, so that `forward` uses its own default again."""
        for head in distilled_heads(model):
            head.distill_alpha = None


def distilled_heads(model: Any) -> list[Any]:
    """
    Find the heads with momentum distillation in a model.

    Args:
        model (`nn.Module`): a head, or a module that contains it.

    Returns:
        `list[nn.Module]`: the heads themselves, not what wraps them.
    """
    # An attribute of the class: wrappers forward attributes of instances to the module in them when they are read, but
    # not when they are set. A class that was loaded with a repository's own code is not the class of this package.
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return [module for module in modules if hasattr(type(module), "soft_target_weight")]


def _name(model: Any) -> str:
    """Name of the class of a model, without wrappers."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    inner = next((module for module in modules if isinstance(module, PreTrainedModel)), model)
    return type(inner).__name__


__all__ = ["DistillationRamp", "distilled_heads"]
