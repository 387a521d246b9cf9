# SPDX-License-Identifier: Apache-2.0
"""How attention leads to patches through the query tokens of BLIP-2.

Shapes: T text tokens, P patches, N = P + 1 image tokens (class token first), Q query tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from modeling_lavis.interpretability.recording import AttentionRecord, Relate
from modeling_lavis.interpretability.routes import Combine, Matrices, Route, roll_out_images, step


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

    def by_query(self, record: AttentionRecord, relate: Relate, layer: int) -> Tensor:
        """How strongly query tokens attend to patches in one layer: `(1, Q, P)`."""
        (patches,) = relate(record[self.blocks[layer].crossattention.self])
        return patches[:, :, 1:]

    def roll_out(self, matrices: Matrices, combine: Combine) -> Tensor:
        """From query and text tokens to image tokens over all layers: `(Q + T, N)`."""
        images = roll_out_images(self.vision_model, matrices, combine)[0]
        queries = self.num_queries
        states = torch.zeros(matrices[self.blocks[0].attention.self].shape[-1], images.shape[-1])
        for block in self.blocks:
            new = step(matrices[block.attention.self][0], states, combine)
            states = torch.cat([new, states[len(new) :]])  # the last layer may compute query tokens alone
            if hasattr(block, "crossattention"):
                attended = matrices[block.crossattention.self][0] @ images
                states = torch.cat([combine(states[:queries], attended), states[queries:]])
        return states

    def rolled_out(self, matrices: Matrices, combine: Combine) -> Tensor:
        return self.roll_out(matrices, combine)[None, self.num_queries :, 1:]

    def rolled_out_by_query(self, matrices: Matrices, combine: Combine) -> Tensor:
        """From query tokens to patches over all layers: `(1, Q, P)`."""
        return self.roll_out(matrices, combine)[None, : self.num_queries, 1:]


class QueryFeatureRoute(QFormerRoute):
    """
    The mean of the query tokens, of which the features of an image are made, without a text (BLIP-2).

    Args:
        model (`PreTrainedModel`): the head.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model, model.config.num_query_tokens)

    def attended(self, record: AttentionRecord, relate: Relate, layer: int) -> Tensor:
        return self.by_query(record, relate, layer).mean(dim=1, keepdim=True)

    def rolled_out(self, matrices: Matrices, combine: Combine) -> Tensor:
        return self.rolled_out_by_query(matrices, combine).mean(dim=1, keepdim=True)


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

    def rolled_out(self, matrices: Matrices, combine: Combine) -> Tensor:
        queries = self.roll_out(matrices, combine)
        encoder, cross, decoder = (_numbered(matrices, kind) for kind in ("encoder", "cross", "decoder"))
        states = torch.zeros((encoder or decoder)[0].shape[-1], queries.shape[-1])
        states[self.positions] = queries
        for weights in encoder or decoder:
            states = step(weights[0], states, combine)
        if not encoder:
            return states[None, :, 1:]
        words = torch.zeros(decoder[0].shape[-1], queries.shape[-1])
        for own, read in zip(decoder, cross, strict=True):
            words = combine(step(own[0], words, combine), read[0] @ states)
        return words[None, :, 1:]


def _numbered(matrices: Matrices, kind: str) -> list[Tensor]:
    """What was recorded as `(kind, 0)`, `(kind, 1)`, and so on."""
    numbers = sorted(key[1] for key in matrices if isinstance(key, tuple) and key[0] == kind)
    return [matrices[kind, number] for number in numbers]


__all__ = ["LanguageModelRoute", "QFormerRoute", "QueryFeatureRoute"]
