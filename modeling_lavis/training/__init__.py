# SPDX-License-Identifier: Apache-2.0
"""Training: callbacks for transformers' Trainer, and the modules to adapt with LoRA."""

from modeling_lavis.training.distillation import DistillationRamp
from modeling_lavis.training.lora_targets import LORA_TARGET_MODULES, lora_target_modules

__all__ = ["LORA_TARGET_MODULES", "DistillationRamp", "lora_target_modules"]
