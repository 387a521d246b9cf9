# SPDX-License-Identifier: Apache-2.0
"""Interpretability: where a model looked, by Grad-CAM, attention rollout and attention weights."""

from modeling_lavis.interpretability.explaining import explain
from modeling_lavis.interpretability.explanation import Explanation
from modeling_lavis.interpretability.gradcam import GradCamOutput, gradcam

__all__ = ["Explanation", "GradCamOutput", "explain", "gradcam"]
