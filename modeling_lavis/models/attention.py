# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention behind transformers' attention interface.

Letters: B rows of keys and values, n rows of queries for each of them, H heads, T query tokens, N key tokens,
d width of a head.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, for attention maps: `(B, T, H, d)` and weights `(B, H, T, N)`."""
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1)
    context = nn.functional.dropout(weights, p=dropout, training=module.training) @ value
    return context.transpose(1, 2).contiguous(), weights


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    num_heads: int,
    dropout: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """
    Let queries attend to keys, by the implementation that `module.config` asks for.

    When there are n times as many rows of queries as of keys, the rows `i*n ... i*n + n - 1` of the queries all
    attend to row `i` of the keys: beams, candidates or texts of one image share its keys and values without a copy,
    because softmax treats each query on its own and their tokens can simply be lined up.

    Args:
        module (`nn.Module`): has `config` and `training`.
        query (`Tensor` of shape `(B * n, T, H * d)`): projected queries.
        key, value (`Tensor` of shape `(B, H, N, d)`): projected keys and values.
        attention_mask: what transformers' mask functions return for B rows and n * T queries, or `None`.
        num_heads (`int`): H.
        dropout (`float`, *optional*, defaults to 0.0): dropout of the weights while training.
        is_causal (`bool`, *optional*, defaults to `False`): whether the queries are causal.

    Returns:
        states `(B * n, T, H * d)` and, for eager attention only, weights `(B * n, H, T, N)`.

    Raises:
        ValueError: the rows of the queries are no multiple of those of the keys.
    """
    rows, num_tokens, width = query.shape
    batch = key.shape[0]
    if rows % batch:
        raise ValueError(
            f"{rows} rows of text cannot share the states of {batch} images evenly. Order the texts by image, the "
            "same number for each, or repeat the image states to one per text."
        )
    group = rows // batch
    head_dim = width // num_heads
    query = query.reshape(batch, group * num_tokens, num_heads, head_dim).transpose(1, 2)
    function = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager_attention_forward)
    # is_causal is always said: without it sdpa turns causal when the mask is trivial and left out.
    context, weights = function(
        module,
        query,
        key,
        value,
        attention_mask,
        dropout=dropout if module.training else 0.0,
        scaling=head_dim**-0.5,
        is_causal=is_causal,
        **kwargs,
    )
    context = context.reshape(rows, num_tokens, width)
    if weights is not None and group > 1 and torch.is_tensor(weights):
        weights = weights.unflatten(2, (group, num_tokens)).transpose(1, 2).flatten(0, 1)  # (B * n, H, T, N)
    return context, weights


def split_heads(states: Tensor, num_heads: int) -> Tensor:
    """`(B, N, H * d)` to `(B, H, N, d)`."""
    return states.unflatten(-1, (num_heads, -1)).transpose(1, 2)


__all__ = ["attend", "eager_attention_forward", "split_heads"]
