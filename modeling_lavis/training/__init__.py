# SPDX-License-Identifier: Apache-2.0
"""Training: LavisTrainer, parameter groups and schedules, callbacks for transformers' Trainer, LoRA, FSDP2."""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from modeling_lavis.training.trainer import LavisTrainer

__all__ = [
    "LORA_TARGET_MODULES",
    "SCHEDULES",
    "DistillationRamp",
    "EpochSchedule",
    "LavisTrainer",
    "MomentumUpdate",
    "constant_lr",
    "last_checkpoint",
    "linear_warmup_cosine_lr",
    "linear_warmup_step_lr",
    "lora_target_modules",
    "parameter_groups",
]


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        """Import the Trainer, which needs the packages of the extra [train], on first access."""
        if name != "LavisTrainer":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from modeling_lavis.import_utils import require

        require("accelerate", extra="train", purpose="LavisTrainer")
        from modeling_lavis.training.trainer import LavisTrainer

        return LavisTrainer
