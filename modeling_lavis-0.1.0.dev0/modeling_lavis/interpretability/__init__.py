# SPDX-License-Identifier: Apache-2.0
"""Interpretability: Grad-CAM maps of cross-attention."""

from modeling_lavis.interpretability.gradcam import GradCamOutput, gradcam

__all__ = ["GradCamOutput", "gradcam"]
