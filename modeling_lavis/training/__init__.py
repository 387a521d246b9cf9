# SPDX-License-Identifier: Apache-2.0
"""Training: callbacks for transformers' Trainer, and what FSDP2 needs."""

from modeling_lavis.training.distillation import DistillationRamp
from modeling_lavis.training.momentum import MomentumUpdate
from modeling_lavis.training.sharding import prepare_for_fsdp

__all__ = ["DistillationRamp", "MomentumUpdate", "prepare_for_fsdp"]
