# SPDX-License-Identifier: Apache-2.0
"""Training: callbacks for transformers' Trainer."""

from modeling_lavis.training.distillation import DistillationRamp

__all__ = ["DistillationRamp"]
