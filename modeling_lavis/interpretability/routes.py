# SPDX-License-Identifier: Apache-2.0
"""How attention leads from the words of a text to the patches of its pictures, in each family.

A route reads recorded attention in two ways: `attended` multiplies what one layer attends to, `rolled_out` continues
from layer to layer: the states of tokens, which say how much comes from which patch, are combined with what attention
makes of them. Cross-attention combines those of the text with those of the image.

Shapes: M pictures (1, 2 images, or the frames of a video), T text tokens, P patches, N = P + 1 image tokens (class
token first), F frames, Q query tokens.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modeling_lavis.interpretability.recording import AttentionRecord, Relate

#: From states of tokens, and what attention makes of them, to the states after a layer.
Combine = Callable[[Tensor, Tensor], Tensor]
#: Attention `(..., Q, K)` by the module that computed it, averaged over the heads.
Matrices = Mapping[Any, Tensor]

_DEPTH_OF_BERT = 12


def average(states: Tensor, attended: Tensor) -> Tensor:
    """Attention rollout (https://arxiv.org/abs/2005.00928): a residual connection keeps half of a state."""
    return (states + attended) / 2


def add(states: Tensor, attended: Tensor) -> Tensor:
    """Relevance (https://arxiv.org/abs/2103.15679, equation 6): a residual connection keeps a state."""
    return states + attended


def step(weights: Tensor, states: Tensor, combine: Combine) -> Tensor:
    """States `(..., tokens, sources)` after self-attention `(..., queries, tokens)`, which may skip the last tokens."""
    return combine(states[..., : weights.shape[-2], :], weights @ states)


def roll_out_images(vision_model: Any, matrices: Matrices, combine: Combine) -> Tensor:
    """How much of each token `(M, N, N)` of an image encoder comes from which."""
    states = torch.eye(matrices[vision_model.blocks[0].attn].shape[-1])
    for block in vision_model.blocks:
        states = step(matrices[block.attn], states, combine)
    return states


class Route(ABC):
    """
    The way from words to patches through the attention of a model.

    Args:
        model (`PreTrainedModel`): a head of this package.
    """

    #: parts of the model that the route goes through after the image encoder
    text_encoders: list[Any]
    #: layers that a map can be made of
    layers: list[int]

    def __init__(self, model: Any) -> None:
        self.vision_model = model.vision_model

    def encoders(self, all_layers: bool) -> list[Any]:
        """Parts of the model whose attention is read, for all layers or for one."""
        return [self.vision_model, *self.text_encoders] if all_layers else self.text_encoders

    @property
    @abstractmethod
    def default_layer(self) -> int:
        """The layer of the family's paper, or the corresponding one of a model with another depth."""

    @abstractmethod
    def attended(self, record: AttentionRecord, relate: Relate, layer: int) -> Tensor:
        """How strongly text tokens attend to patches in one layer: `(M, T, P)`."""

    @abstractmethod
    def rolled_out(self, matrices: Matrices, combine: Combine) -> Tensor:
        """From text tokens to patches over all layers: `(M, T, P)`."""


class CrossAttentionRoute(Route):
    """
    Text tokens cross-attend to patches (ALBEF, BLIP).

    Args:
        model (`PreTrainedModel`): the head.
        text_model (`LavisBertModel`): the part that cross-attends to images.
        is_generated (`bool`): whether the text is written, so that every token has a score of its own.
    """

    def __init__(self, model: Any, text_model: Any, is_generated: bool = False) -> None:
        super().__init__(model)
        self.blocks = text_model.encoder.layer
        self.text_encoders = [text_model]
        self.config, self.is_generated = text_model.config, is_generated
        self.layers = [number for number, block in enumerate(self.blocks) if hasattr(block, "crossattention")]
        #: consecutive layers that attend to one image each, of a pair (ALBEF on NLVR2)
        self.step = 2 if self.config.pair_image_layers else 1

    @property
    def default_layer(self) -> int:
        """
        ALBEF, section 6.3: the third fusion layer. BLIP, of which no paper has maps: the eighth of 12 layers, which
        LAVIS shows. Not the last one if the score is read from the first token, which alone has a gradient there.
        """
        if self.config.fusion_layer is None:
            wanted = 7 * len(self.blocks) // _DEPTH_OF_BERT
        else:
            wanted = self.layers[0] + 2 * self.step
        last = self.layers[-1] if self.is_generated else self.layers[-1] - 2 * self.step + 1
        return max(min(wanted, last), self.layers[0])

    def cross_attention(self, layer: int) -> list[nn.Module]:
        """The modules of a layer, or pair of layers, one for each image."""
        if self.step == 2:
            first = layer - (layer - self.layers[0]) % 2
            return [self.blocks[number].crossattention.self for number in (first, first + 1)]
        block = self.blocks[layer].crossattention
        return [block.self0, block.self1] if hasattr(block, "self0") else [block.self]

    def attended(self, record: AttentionRecord, relate: Relate, layer: int) -> Tensor:
        weights = [record[module] for module in self.cross_attention(layer)]
        return torch.stack([matrix[0, :, 1:] for matrix in relate(*weights)])

    def rolled_out(self, matrices: Matrices, combine: Combine) -> Tensor:
        images = roll_out_images(self.vision_model, matrices, combine)
        states = torch.zeros(len(images), matrices[self.blocks[0].attention.self].shape[-1], images.shape[-1])
        for number, block in enumerate(self.blocks):
            states = step(matrices[block.attention.self], states, combine)
            if number not in self.layers:
                continue
            # of a pair of layers, each attends to one image
            modules = [m if m in block.crossattention.modules() else None for m in self.cross_attention(number)]
            share = 1 / sum(module is not None for module in modules)
            attended = torch.stack(
                [
                    torch.zeros_like(states[0]) if module is None else share * matrices[module][0] @ image
                    for module, image in zip(modules, images, strict=True)
                ]
            )
            states = combine(states, attended)
        return states[..., 1:]


class ImageRoute(Route):
    """
    The class token of the image encoder, from which the features of an image are made, attends to patches.

    Args:
        model (`PreTrainedModel`): the head.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.text_encoders = []
        self.layers = list(range(len(self.vision_model.blocks)))

    def encoders(self, all_layers: bool) -> list[Any]:
        """The image or video encoder."""
        return [self.vision_model]

    @property
    def default_layer(self) -> int:
        """The last block."""
        return self.layers[-1]

    def attended(self, record: AttentionRecord, relate: Relate, layer: int) -> Tensor:
        (tokens,) = relate(record[self.vision_model.blocks[layer].attn])
        return tokens[:, :1, 1:]

    def rolled_out(self, matrices: Matrices, combine: Combine) -> Tensor:
        return roll_out_images(self.vision_model, matrices, combine)[:, :1, 1:]


def patch_grid(model: Any, pixel_values: Tensor, num_patches: int) -> tuple[int, int]:
    """Rows and columns of the patches of images `(..., height, width)`; `ValueError` if they do not form this grid."""
    size = model.config.vision_config.patch_size
    grid = (pixel_values.shape[-2] // size, pixel_values.shape[-1] // size)
    if math.prod(grid) != num_patches:
        raise ValueError(f"{num_patches} patches do not form a grid of {grid[0]} x {grid[1]}.")
    return grid


__all__ = [
    "Combine",
    "CrossAttentionRoute",
    "ImageRoute",
    "Matrices",
    "Route",
    "add",
    "average",
    "patch_grid",
    "roll_out_images",
    "step",
]
