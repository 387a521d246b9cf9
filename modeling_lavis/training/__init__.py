# SPDX-License-Identifier: Apache-2.0
"""What training needs beside the models and transformers' Trainer."""

from modeling_lavis.training.distillation import DistillationRamp

__all__ = ["DistillationRamp"]
