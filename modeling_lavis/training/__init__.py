# SPDX-License-Identifier: Apache-2.0
"""Training: parameter groups and schedules, callbacks for transformers' Trainer, modules to adapt with LoRA, FSDP2."""

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
from modeling_lavis.training.sharding import prepare_for_fsdp

__all__ = [
    "LORA_TARGET_MODULES",
    "SCHEDULES",
    "DistillationRamp",
    "EpochSchedule",
    "MomentumUpdate",
    "constant_lr",
    "linear_warmup_cosine_lr",
    "linear_warmup_step_lr",
    "lora_target_modules",
    "parameter_groups",
    "prepare_for_fsdp",
]
