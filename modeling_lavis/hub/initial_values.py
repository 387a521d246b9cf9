# SPDX-License-Identifier: Apache-2.0
"""What weights that no checkpoint has start from; rules that families' tables refer to."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Shape = tuple[int, ...]


def linear(name: str, shape: Shape, config: Any, generator: torch.Generator) -> Tensor:
    """A linear map: weights from a normal of deviation `config.initializer_range`, biases zero."""
    if name.endswith(".bias"):
        return torch.zeros(shape)
    return torch.empty(shape).normal_(std=config.initializer_range, generator=generator)


def bert_layer(name: str, shape: Shape, config: Any, generator: torch.Generator) -> Tensor:
    """A layer of the text transformer: normal weights of its own deviation, norms one, biases zero."""
    if name.endswith("LayerNorm.weight"):
        return torch.ones(shape)
    return linear(name, shape, config.text_config, generator)


def temperature(name: str, shape: Shape, config: Any, generator: torch.Generator) -> Tensor:
    """The contrastive temperature that training starts with."""
    return torch.full(shape, config.logit_temperature)


def feature_queue(name: str, shape: Shape, config: Any, generator: torch.Generator) -> Tensor:
    """Random features of length one, as many as the queue holds: (width, length)."""
    return F.normalize(torch.empty(shape).normal_(generator=generator), dim=0)


def empty_id_queue(name: str, shape: Shape, config: Any, generator: torch.Generator) -> Tensor:
    """Image ids that equal no real one."""
    return torch.full(shape, -100, dtype=torch.long)


def zero_pointer(name: str, shape: Shape, config: Any, generator: torch.Generator) -> Tensor:
    """The start of the queue."""
    return torch.zeros(shape, dtype=torch.long)
