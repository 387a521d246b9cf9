# SPDX-License-Identifier: Apache-2.0
"""Training: callbacks for transformers' Trainer."""

from modeling_lavis.training.distillation import DistillationRamp
from modeling_lavis.training.momentum import MomentumUpdate

__all__ = ["DistillationRamp", "MomentumUpdate"]
