# SPDX-License-Identifier: Apache-2.0
"""Small heads on top of the towers."""

from torch import Tensor, nn
from torch.nn import functional as F


def classification_head(hidden_size: int, num_labels: int, inner_size: int | None = None) -> nn.Sequential:
    """Two maps with a ReLU between, as all classification heads of LAVIS have: (..., D) to (..., labels)."""
    inner_size = inner_size or hidden_size
    return nn.Sequential(nn.Linear(hidden_size, inner_size), nn.ReLU(), nn.Linear(inner_size, num_labels))


def project(states: Tensor, projection: nn.Linear) -> Tensor:
    """Map into the common space of images and texts and normalise: (..., D) to (..., P) of length 1."""
    return F.normalize(projection(states), dim=-1)


__all__ = ["classification_head", "project"]
