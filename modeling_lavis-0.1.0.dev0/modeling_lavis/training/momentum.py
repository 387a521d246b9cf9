# SPDX-License-Identifier: Apache-2.0
"""Momentum updates for optimizers that hold copies of the parameters, as a callback of transformers' Trainer."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class MomentumUpdate(TrainerCallback):
    """
    Update momentum encoders and temperature after every step of the optimizer, whatever parameters it holds.

    Heads notice by themselves when a [`torch.optim.Optimizer`] that holds their parameters steps: in a plain loop, and
    under the Trainer on one process, DDP, FSDP2 and DeepSpeed up to ZeRO stage 2. There the callback changes nothing.
    It is needed for other engines whose optimizer holds copies of the parameters; a warning says so. The head may be
    wrapped, for example by peft, by `torch.compile` or by `DistributedDataParallel`.

    A step that a loss scaler skips, because gradients overflowed, counts as a step.

    Raises:
        ValueError: If, when training begins, the model has no head of this package, or, after a step, the weights are
            partitioned so that the momentum encoders cannot follow them (FSDP1, DeepSpeed ZeRO stage 3).
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Check that the model has a head to update."""
        heads = heads_with_updates(model)
        if not heads:
            raise ValueError(
                f"MomentumUpdate got a {type(model).__name__} without a head of modeling_lavis; remove the callback."
            )
        for head in heads:
            head.was_updated = True  # no warning about an optimizer that holds other parameters

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Update every head that ran since its last update."""
        for head in heads_with_updates(model):
            if head.update_is_due:
                head.update_is_due = head.update_is_late = False
                head.finish_step()


def heads_with_updates(model: Any) -> list[Any]:
    """
    Find the models of this package inside of a model.

    Args:
        model (`nn.Module`): a head, or a module that contains it.

    Returns:
        `list[PreTrainedModel]`: the models themselves, not what wraps them.
    """
    # Attributes of the class, because wrappers forward those of instances. A class that was loaded with a repository's
    # own code is not the class of this package.
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return [
        module for module in modules if isinstance(module, PreTrainedModel) and hasattr(type(module), "finish_step")
    ]


__all__ = ["MomentumUpdate", "heads_with_updates"]
