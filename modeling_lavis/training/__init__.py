# SPDX-License-Identifier: Apache-2.0
"""Training: callbacks for transformers' Trainer, and sharding."""

from modeling_lavis.training.distillation import DistillationRamp
from modeling_lavis.training.momentum import MomentumUpdate
from modeling_lavis.training.sharding import shard_model

__all__ = ["DistillationRamp", "MomentumUpdate", "shard_model"]
