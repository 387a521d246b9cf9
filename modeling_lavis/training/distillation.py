# SPDX-License-Identifier: Apache-2.0
"""The ramp of momentum distillation under transformers' Trainer."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class DistillationRamp(TrainerCallback):
    """
    Raise the weight of the twins' soft targets from 0 to the configuration's `alpha` while training goes on (ALBEF and
    BLIP: over the first two epochs for pre-training, retrieval and NLVR2, over the first for answers and entailment).

    Before each step it sets `model.distill_alpha`, which `forward` uses when it is given no `alpha`.

    Args:
        epochs (`float`, *optional*, defaults to 2): how long the ramp is.

    Raises:
        ValueError: the ramp has no length, or the model does not distil.
    """

    def __init__(self, epochs: float = 2.0) -> None:
        if epochs <= 0:
            raise ValueError(f"The ramp lasts {epochs} epochs; give a positive number.")
        self.epochs = epochs

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Refuse models that have no use for the ramp."""
        if not hasattr(model, "distill_alpha"):
            raise ValueError(f"{type(model).__name__} has no momentum distillation; leave the callback out.")

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Set the weight that belongs to the share of the ramp that is done."""
        model.distill_alpha = float(model.config.alpha) * min(1.0, (state.epoch or 0.0) / self.epochs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Leave the model as it was found."""
        model.distill_alpha = None


__all__ = ["DistillationRamp"]
