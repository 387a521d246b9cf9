# SPDX-License-Identifier: Apache-2.0
"""Training: callbacks for transformers' Trainer, the modules to adapt with LoRA, and what FSDP2 needs."""

from modeling_lavis.training.distillation import DistillationRamp
from modeling_lavis.training.lora_targets import LORA_TARGET_MODULES, lora_target_modules
from modeling_lavis.training.momentum import MomentumUpdate
from modeling_lavis.training.sharding import prepare_for_fsdp

__all__ = ["LORA_TARGET_MODULES", "DistillationRamp", "MomentumUpdate", "lora_target_modules", "prepare_for_fsdp"]
