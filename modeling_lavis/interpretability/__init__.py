# SPDX-License-Identifier: Apache-2.0
"""Where a model looks."""

from modeling_lavis.interpretability.gradcam import GradCamOutput, gradcam

__all__ = ["GradCamOutput", "gradcam"]
