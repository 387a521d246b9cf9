# SPDX-License-Identifier: Apache-2.0
"""Initial values of weights that a checkpoint lacks; the tables of the families refer to these functions."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Shape = tuple[int, ...]


def linear(name: str, shape: Shape, config: Any, generator: torch.Generator) -> Tensor:
    """A linear layer: normal weights with standard deviation `config.initializer_range`, zero biases."""
    if name.endswith(".bias"):
        return torch.zeros(shape)
    return torch.empty(shape).normal_(std=config.initializer_range, generator=generator)


def bert_layer(name: str, shape: Shape, config: Any, generator: torch.Generator) -> Tensor:
    """A layer of the text encoder: linear layers by the text configuration, LayerNorm weights one, zero biases."""
    if name.endswith("LayerNorm.weight"):
        return torch.ones(shape)
    return linear(name, shape, config.text_config, generator)


def temperature(name: str, shape: Shape, config: Any, generator: torch.Generator) -> Tensor:
    """The initial temperature of the contrastive loss."""
    return torch.full(shape, config.logit_temperature)


def feature_queue(name: str, shape: Shape, config: Any, generator: torch.Generator) -> Tensor:
    """Random features of unit norm, of shape `(projection_dim, queue_size)`."""
    return F.normalize(torch.empty(shape).normal_(generator=generator), dim=0)


def empty_id_queue(name: str, shape: Shape, config: Any, generator: torch.Generator) -> Tensor:
    """Image ids of -100, which no image has."""
    return torch.full(shape, -100, dtype=torch.long)


def zero_pointer(name: str, shape: Shape, config: Any, generator: torch.Generator) -> Tensor:
    """A queue pointer at the start of the queue."""
    return torch.zeros(shape, dtype=torch.long)
