# SPDX-License-Identifier: Apache-2.0
"""EVA-ViT-g, the usual image tower of BLIP-2: a ViT whose keys have no bias, without a final norm.

Letters: B images, N = P + 1 tokens (class token first), D width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .attention import attend, split_heads
from .checkpoint_formats_blip_2 import register_transformers_eva_keys
from .configuration_vision_eva import LavisEvaConfig
from .vision_vit import LavisViTModel, ViTAttention, ViTBlock


class EvaAttention(ViTAttention):
    """Self-attention with biases of queries and values only; one of the keys would not change any weight."""

    def __init__(self, config: LavisEvaConfig) -> None:
        super().__init__(config)
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.v_bias = nn.Parameter(torch.zeros(config.hidden_size))

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        # The biases are added outside the map, which a quantised one allows too.
        query, key, value = self.qkv(hidden_states).chunk(3, dim=-1)
        context, weights = attend(
            self,
            query + self.q_bias,
            split_heads(key, self.num_heads),
            split_heads(value + self.v_bias, self.num_heads),
            None,
            self.num_heads,
            dropout=self.config.attention_probs_dropout_prob,
            **kwargs,
        )
        return self.proj_drop(self.proj(context)), weights


class EvaBlock(ViTBlock):
    """Pre-norm block of EVA."""

    attention_class = EvaAttention


class LavisEvaModel(LavisViTModel):
    """
    Vision transformer of EVA (https://arxiv.org/abs/2211.07636) that returns the state of every token as the last
    block leaves it.

    Args:
        config ([`LavisEvaConfig`]): sizes of the tower.
    """

    config: LavisEvaConfig
    _no_split_modules = ["EvaBlock"]
    block_class = EvaBlock
    final_norm = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, EvaAttention):
            init.zeros_(module.q_bias)
            init.zeros_(module.v_bias)


register_transformers_eva_keys(LavisEvaConfig.model_type)


__all__ = ["EvaAttention", "EvaBlock", "LavisEvaModel"]
