# SPDX-License-Identifier: Apache-2.0
"""How attention leads from the words of a text to the patches of its pictures, in each family.

A route reads recorded attention in two ways: `attended` multiplies what one layer attends to, `rolled_out` is attention
rollout (https://arxiv.org/abs/2005.00928) over all layers: every layer keeps half of a token's state and mixes the
other half by its attention, averaged over the heads. Cross-attention mixes in the rolled-out states of the image.

Shapes: M pictures (1, 2 images, or the frames of a video), T text tokens, P patches, N = P + 1 image tokens (class
token first), F frames, Q query tokens.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modeling_lavis.interpretability.recording import AttentionRecord, Relate

_DEPTH_OF_BERT = 12


def mix(weights: Tensor, states: Tensor) -> Tensor:
    """Half of the states `(..., tokens, sources)`, and half of what attention `(..., tokens, tokens)` makes of them."""
    return (states[..., : weights.shape[-2], :] + weights @ states) / 2


def roll_out_images(vision_model: Any, record: AttentionRecord) -> Tensor:
    """Rollout of an image encoder: how much of each image token `(M, N, N)` comes from which."""
    tokens = record[vision_model.blocks[0].attn].shape[-1]
    states = torch.eye(tokens)
    for block in vision_model.blocks:
        states = mix(record[block.attn], states)
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
        """Parts of the model whose attention is read, for rollout (`all_layers`) or for one layer."""
        return [self.vision_model, *self.text_encoders] if all_layers else self.text_encoders

    @property
    @abstractmethod
    def default_layer(self) -> int:
        """The layer of the family's paper, or the corresponding one of a model with another depth."""

    @abstractmethod
    def attended(self, record: AttentionRecord, relate: Relate, layer: int) -> Tensor:
        """How strongly text tokens attend to patches in one layer: `(M, T, P)`."""

    @abstractmethod
    def rolled_out(self, record: AttentionRecord) -> Tensor:
        """Rollout from text tokens to patches over all layers: `(M, T, P)`."""


class CrossAttentionRoute(Route):
    """
    Text tokens cross-attend to patches (ALBEF, BLIP).

    Args:
        model (`PreTrainedModel`): the head.
        text_model (`LavisBertModel`): the part that cross-attends to images.
    """

    def __init__(self, model: Any, text_model: Any) -> None:
        super().__init__(model)
        self.blocks = text_model.encoder.layer
        self.text_encoders = [text_model]
        self.config = text_model.config
        self.layers = [number for number, block in enumerate(self.blocks) if hasattr(block, "crossattention")]
        #: consecutive layers that attend to one image each, of a pair (ALBEF on NLVR2)
        self.step = 2 if self.config.pair_image_layers else 1

    @property
    def default_layer(self) -> int:
        """
        ALBEF, section 6.3: the third fusion layer. BLIP, of which no paper has maps: the eighth of 12 layers, which
        LAVIS shows. Never the last one, where a score that is read from the first token has no gradient elsewhere.
        """
        if self.config.fusion_layer is None:
            wanted = 7 * len(self.blocks) // _DEPTH_OF_BERT
        else:
            wanted = self.layers[0] + 2 * self.step
        return max(min(wanted, self.layers[-1] - 2 * self.step + 1), self.layers[0])

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

    def rolled_out(self, record: AttentionRecord) -> Tensor:
        images = roll_out_images(self.vision_model, record)
        states = torch.zeros(len(images), record[self.blocks[0].attention.self].shape[-1], images.shape[-1])
        for number, block in enumerate(self.blocks):
            states = mix(record[block.attention.self], states)
            if number not in self.layers:
                continue
            modules = self.cross_attention(number)
            attends = [True] * len(modules)
            if self.step == 2:
                attends = [module is block.crossattention.self for module in modules]
            states = states / 2
            for picture, (module, counts) in enumerate(zip(modules, attends, strict=True)):
                if counts:
                    states[picture] += record[module][0] @ images[picture] / (2 * sum(attends))
        return states[..., 1:]


class QFormerRoute(Route):
    """
    Words attend to query tokens, and query tokens to patches (BLIP-2).

    Args:
        model (`PreTrainedModel`): the head.
        num_queries (`int`): Q.
        is_generated (`bool`): whether the text is generated, so that it reads the query tokens. In matching, where the
            score comes from the query tokens, they read the text before they attend to patches.
    """

    def __init__(self, model: Any, num_queries: int, is_generated: bool = False) -> None:
        super().__init__(model)
        self.qformer = model.qformer
        self.blocks = self.qformer.encoder.layer
        self.text_encoders = [self.qformer]
        self.num_queries, self.is_generated = num_queries, is_generated
        self.layers = [number for number, block in enumerate(self.blocks) if hasattr(block, "crossattention")]

    @property
    def default_layer(self) -> int:
        """The last layer with cross-attention; no paper has maps."""
        return self.layers[-1]

    def attended(self, record: AttentionRecord, relate: Relate, layer: int) -> Tensor:
        block, queries = self.blocks[layer], self.num_queries
        joint, patches = relate(record[block.attention.self], record[block.crossattention.self])
        words = joint[0, queries:, :queries] if self.is_generated else joint[0, :queries, queries:].T
        return (words @ patches[0, :, 1:])[None]

    def by_query(self, record: AttentionRecord, relate: Relate, layer: int | None) -> Tensor:
        """How strongly query tokens attend to patches, in one layer or, without one, rolled out: `(1, Q, P)`."""
        if layer is None:
            return self.roll_out(record)[None, : self.num_queries, 1:]
        (patches,) = relate(record[self.blocks[layer].crossattention.self])
        return patches[:, :, 1:]

    def roll_out(self, record: AttentionRecord) -> Tensor:
        """Rollout from query and text tokens to image tokens: `(Q + T, N)`."""
        images = roll_out_images(self.vision_model, record)[0]
        queries = self.num_queries
        states = torch.zeros(record[self.blocks[0].attention.self].shape[-1], images.shape[-1])
        for block in self.blocks:
            mixed = mix(record[block.attention.self][0], states)
            # the last layer may compute query tokens alone
            states = torch.cat([mixed, states[len(mixed) :]])
            if hasattr(block, "crossattention"):
                attended = record[block.crossattention.self][0] @ images
                states = torch.cat([(states[:queries] + attended) / 2, states[queries:]])
        return states

    def rolled_out(self, record: AttentionRecord) -> Tensor:
        return self.roll_out(record)[None, self.num_queries :, 1:]


class LanguageModelRoute(QFormerRoute):
    """
    Generated tokens of a language model attend to query tokens, and query tokens to patches (second stage of BLIP-2).

    Of a language model's layers, which have no use for a choice by a paper, the mean is taken. It is recorded as
    `"decoder"`, and for a sequence-to-sequence one as `"encoder"` and `"cross"`, too, each with a number.

    Args:
        model (`PreTrainedModel`): the head.
        query_positions (`Sequence[int]`): positions of the query tokens in the input of the language model.
    """

    def __init__(self, model: Any, query_positions: Sequence[int]) -> None:
        super().__init__(model, len(query_positions))
        self.text_encoders.append(model.language_model)
        self.positions = list(query_positions)

    def attended(self, record: AttentionRecord, relate: Relate, layer: int) -> Tensor:
        kind = "cross" if ("cross", 0) in record else "decoder"
        read = _numbered(record, kind)
        *reading, patches = relate(*read, record[self.blocks[layer].crossattention.self])
        words = torch.stack([matrix[0][:, self.positions] for matrix in reading]).mean(dim=0)
        return (words @ patches[0, :, 1:])[None]

    def rolled_out(self, record: AttentionRecord) -> Tensor:
        queries = self.roll_out(record)
        encoder, cross, decoder = (_numbered(record, kind) for kind in ("encoder", "cross", "decoder"))
        tokens = (encoder or decoder)[0].shape[-1]
        states = torch.zeros(tokens, queries.shape[-1])
        states[self.positions] = queries
        if not encoder:
            for weights in decoder:
                states = mix(weights[0], states)
            return states[None, :, 1:]
        for weights in encoder:
            states = mix(weights[0], states)
        words = torch.zeros(decoder[0].shape[-1], queries.shape[-1])
        for own, read in zip(decoder, cross, strict=True):
            words = (mix(own[0], words) + read[0] @ states) / 2
        return words[None, :, 1:]


class VideoRoute(Route):
    """
    Words attend to positions of the frames, whose states are averaged over the frames, and positions to frames (ALPRO).

    Maps of one layer multiply how strongly a word attends to a position with the share of each frame in it, by the
    temporal attention of the last block of the video encoder.

    Args:
        model (`PreTrainedModel`): the head.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.blocks = model.text_encoder.encoder.layer
        self.text_encoders = [model.text_encoder]
        config = model.text_encoder.config
        self.layers = list(range(config.num_text_layers, len(self.blocks)))

    def encoders(self, all_layers: bool) -> list[Any]:
        """As in the base class; one layer needs the temporal attention of the video encoder, too."""
        return super().encoders(all_layers=True)

    @property
    def default_layer(self) -> int:
        """The third multimodal layer, as in ALBEF, whose layers these are; ALPRO's paper has no maps."""
        return max(min(self.layers[0] + 2, self.layers[-1] - 1), self.layers[0])

    def attended(self, record: AttentionRecord, relate: Relate, layer: int) -> Tensor:
        temporal = record[self.vision_model.blocks[-1].temporal_attn]
        joint, over_time = relate(record[self.blocks[layer].attention.self], temporal)
        positions = over_time.shape[1]
        words = joint[0, : joint.shape[-1] - positions, -positions + 1 :]  # (T, P)
        frames = over_time[0, 1:].mean(dim=-2)  # (P, F)
        total = frames.sum(dim=-1, keepdim=True)
        shares = torch.where(total > 0, frames / total.clamp(min=torch.finfo(total.dtype).tiny), 1 / frames.shape[-1])
        return words * shares.T[:, None]

    def rolled_out(self, record: AttentionRecord) -> Tensor:
        videos = self.roll_out_video(record)  # (N, F * P)
        text_tokens = record[self.blocks[self.layers[0]].attention.self].shape[-1] - len(videos)
        states = torch.cat([torch.zeros(text_tokens, videos.shape[-1]), videos])
        for number in self.layers:
            states = mix(record[self.blocks[number].attention.self][0], states)
        return states[:text_tokens].unflatten(-1, (-1, len(videos) - 1)).transpose(0, 1)

    def roll_out_video(self, record: AttentionRecord) -> Tensor:
        """Rollout of the video encoder: how much of each position `(N, F * P)` comes from which patch."""
        frames, positions, _ = record[self.vision_model.blocks[0].attn][0].shape
        patches = torch.eye(frames * (positions - 1)).unflatten(0, (frames, positions - 1)).transpose(0, 1)
        states = torch.cat([torch.zeros_like(patches[:1]), patches])  # (N, F, F * P)
        for block in self.vision_model.blocks:
            # the class token has no temporal attention, and is the same for all frames
            states = torch.cat([states[:1], mix(record[block.temporal_attn][0, 1:], states[1:])])
            states = mix(record[block.attn][0], states.transpose(0, 1)).transpose(0, 1)
            states = torch.cat([states[:1].mean(dim=1, keepdim=True).expand_as(states[:1]), states[1:]])
        return states.mean(dim=1)


def patch_grid(model: Any, pixel_values: Tensor, num_patches: int) -> tuple[int, int]:
    """Rows and columns of the patches of images `(..., height, width)`; `ValueError` if they do not form this grid."""
    size = model.config.vision_config.patch_size
    grid = (pixel_values.shape[-2] // size, pixel_values.shape[-1] // size)
    if math.prod(grid) != num_patches:
        raise ValueError(f"{num_patches} patches do not form a grid of {grid[0]} x {grid[1]}.")
    return grid


def _numbered(record: AttentionRecord, kind: str) -> list[Tensor]:
    """What was recorded as `(kind, 0)`, `(kind, 1)`, and so on."""
    numbers = sorted(key[1] for key in record if isinstance(key, tuple) and key[0] == kind)
    return [record[kind, number] for number in numbers]


__all__ = ["CrossAttentionRoute", "LanguageModelRoute", "QFormerRoute", "Route", "VideoRoute", "patch_grid"]
