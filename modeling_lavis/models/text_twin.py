# SPDX-License-Identifier: Apache-2.0
"""Merging what a text reads in two images: the doubled cross-attention with which BLIP solves NLVR2.

Letters: R rows of text, T text tokens, D width.
"""

import torch
from torch import Tensor, nn

from .configuration_text_bert import LavisBertConfig


class TwinCrossOutput(nn.Module):
    """
    One map per image, then their mean or a learned merge, then residual and layer norm (BLIP, section 4.4,
    https://arxiv.org/abs/2201.12086).

    Args:
        config ([`LavisBertConfig`]): width and dropout.
        merge (`bool`): learned merge (upper layers) or mean (lower layers).
    """

    def __init__(self, config: LavisBertConfig, merge: bool) -> None:
        super().__init__()
        self.dense0 = nn.Linear(config.hidden_size, config.hidden_size)
        self.dense1 = nn.Linear(config.hidden_size, config.hidden_size)
        if merge:
            self.merge_layer = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, contexts: tuple[Tensor, Tensor], residual: Tensor) -> Tensor:
        """`contexts`: what was read in each image, both (R, T, D); returns (R, T, D)."""
        first, second = self.dense0(contexts[0]), self.dense1(contexts[1])
        if hasattr(self, "merge_layer"):
            merged = self.merge_layer(torch.cat([first, second], dim=-1))
        else:
            merged = (first + second) / 2
        return self.LayerNorm(self.dropout(merged) + residual)


__all__ = ["TwinCrossOutput"]
