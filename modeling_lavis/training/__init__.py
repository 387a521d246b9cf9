# SPDX-License-Identifier: Apache-2.0
"""Training: recipes, LavisTrainer, parameter groups and schedules, callbacks for transformers' Trainer, LoRA, FSDP2."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modeling_lavis.training.checkpoints import last_checkpoint
    from modeling_lavis.training.distillation import DistillationRamp
    from modeling_lavis.training.lora_targets import LORA_TARGET_MODULES, lora_target_modules
    from modeling_lavis.training.momentum import MomentumUpdate
    from modeling_lavis.training.optimization import (
        SCHEDULES,
        EpochSchedule,
        constant_lr,
        linear_warmup_cosine_lr,
        linear_warmup_step_lr,
        parameter_groups,
    )
    from modeling_lavis.training.recipes import Recipe, list_recipes, load_recipe
    from modeling_lavis.training.run import TrainingResult, train
    from modeling_lavis.training.starting_points import from_pretrained_parts
    from modeling_lavis.training.trainer import LavisTrainer

# Names that are imported on first access, with their modules: reading recipes needs no torch.
_HOME_OF = {
    "LORA_TARGET_MODULES": "lora_targets",
    "SCHEDULES": "optimization",
    "DistillationRamp": "distillation",
    "EpochSchedule": "optimization",
    "LavisTrainer": "trainer",
    "MomentumUpdate": "momentum",
    "Recipe": "recipes",
    "TrainingResult": "run",
    "constant_lr": "optimization",
    "from_pretrained_parts": "starting_points",
    "last_checkpoint": "checkpoints",
    "linear_warmup_cosine_lr": "optimization",
    "linear_warmup_step_lr": "optimization",
    "list_recipes": "recipes",
    "load_recipe": "recipes",
    "lora_target_modules": "lora_targets",
    "parameter_groups": "optimization",
    "train": "run",
}

__all__ = [
    "LORA_TARGET_MODULES",
    "SCHEDULES",
    "DistillationRamp",
    "EpochSchedule",
    "LavisTrainer",
    "MomentumUpdate",
    "Recipe",
    "TrainingResult",
    "constant_lr",
    "from_pretrained_parts",
    "last_checkpoint",
    "linear_warmup_cosine_lr",
    "linear_warmup_step_lr",
    "list_recipes",
    "load_recipe",
    "lora_target_modules",
    "parameter_groups",
    "train",
]


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        """Import a public object on first access; the Trainer needs the packages of the extra [train]."""
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name in ("LavisTrainer", "TrainingResult", "train"):
            from modeling_lavis.import_utils import require

            require("accelerate", extra="train", purpose=f"modeling_lavis.{name}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
