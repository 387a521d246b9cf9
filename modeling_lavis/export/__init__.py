# SPDX-License-Identifier: Apache-2.0
"""Exported heads: writing them for onnxruntime, OpenVINO or `torch.export`, and running them."""

from modeling_lavis.export.exporting import export_model
from modeling_lavis.export.loading import load_exported

__all__ = ["export_model", "load_exported"]
