# SPDX-License-Identifier: Apache-2.0
"""Warm-up of the momentum distillation weight, as a callback of transformers' Trainer."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class DistillationRamp(TrainerCallback):
    """
    Raise the weight of the soft targets of the momentum encoders linearly from 0 to the configuration's `alpha`. ALBEF
    and BLIP do so over the first two epochs of pre-training, retrieval and NLVR2, and over the first epoch of question
    answering and visual entailment.

    Before each step the callback sets `model.distill_alpha`, which `forward` uses if it gets no `alpha`; at the end of
    training it is reset to `None`.

    Args:
        epochs (`float`, *optional*, defaults to 2): length of the ramp in epochs.

    Raises:
        ValueError: If `epochs` is not positive or, when training begins, the model has no momentum distillation.
    """

    def __init__(self, epochs: float = 2.0) -> None:
        if epochs <= 0:
            raise ValueError(f"epochs is {epochs}; expected a positive number.")
        self.epochs = epochs

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Check that the model has momentum distillation."""
        if not hasattr(model, "distill_alpha"):
            raise ValueError(f"{type(model).__name__} has no momentum distillation; remove the callback.")

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Set the weight for the progress of the ramp."""
        model.distill_alpha = float(model.config.alpha) * min(1.0, (state.epoch or 0.0) / self.epochs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Reset the weight, so that `forward` uses its own default again."""
        model.distill_alpha = None


__all__ = ["DistillationRamp"]
