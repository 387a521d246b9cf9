# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention behind transformers' attention interface, with key/value rows shared by query rows.

Shapes: R query rows, B key/value rows, n query rows per key/value row, H heads, T query tokens, N key tokens, d head
dimension, G slots per key/value row.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import is_flash_attention_requested


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
    """Attention that returns its weights: context `(B, T, H, d)` and weights `(B, H, T, N)`."""
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1)
    context = F.dropout(weights, p=dropout, training=module.training) @ value
    return context.transpose(1, 2).contiguous(), weights


# ---- flash attention ----


def _flash_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    is_causal: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Flash attention, or sdpa where the kernels cannot compute a call; arguments as for the other implementations."""
    device = query.device.type
    has_no_kernel = query.dtype == torch.float32 and device != "cpu" and not torch.is_autocast_enabled(device)
    if attention_mask is not None and attention_mask.ndim == 4:
        function, is_causal = ALL_ATTENTION_FUNCTIONS["sdpa"], False
    elif has_no_kernel:
        function = ALL_ATTENTION_FUNCTIONS["sdpa"]
        if attention_mask is not None:  # a static cache is longer than the text
            key, value = key[:, :, : attention_mask.shape[1]], value[:, :, : attention_mask.shape[1]]
        attention_mask = _mask_for_sdpa(attention_mask, query, key, is_causal)
        is_causal = False
    else:
        config: Any = module.config
        function = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention_forward)
        if attention_mask is not None and not is_causal:
            return _flash_with_padded_keys(function, module, query, key, value, attention_mask, **kwargs)
    return function(module, query, key, value, attention_mask, is_causal=is_causal, **kwargs)


def _mask_for_sdpa(attention_mask: Tensor | None, query: Tensor, key: Tensor, is_causal: bool) -> Tensor | None:
    """Boolean mask for sdpa from a padding mask `(B, N)`; if causal, the last query is aligned with the last key."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    allowed = None
    if is_causal and num_queries > 1:
        allowed = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query.device).tril(num_keys - num_queries)
    if attention_mask is None:
        return allowed
    keys = attention_mask[:, None, None, :].bool()
    return keys if allowed is None else keys & allowed


def _flash_with_padded_keys(
    function: Any, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **kwargs: Any
) -> tuple[Tensor, None]:
    """
    Bidirectional flash attention of all queries to the keys that are not padding.

    transformers also removes queries, by the end of the key mask if there are fewer queries than keys. That is right
    for self-attention with left padding only; in cross-attention it would drop queries.
    """
    rows, _, num_queries, _ = query.shape
    keep = attention_mask.bool()
    lengths = keep.sum(dim=1, dtype=torch.int32)
    key, value = (states.transpose(1, 2)[keep].transpose(0, 1)[None] for states in (key, value))  # (1, H, tokens, d)
    query = query.transpose(1, 2).flatten(0, 1).transpose(0, 1)[None]  # (1, H, B * T, d)
    context, _ = function(
        module,
        query,
        key,
        value,
        None,
        is_causal=False,
        cu_seq_lens_q=torch.arange(rows + 1, dtype=torch.int32, device=query.device) * num_queries,
        cu_seq_lens_k=F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0)),
        max_length_q=num_queries,
        max_length_k=int(lengths.max()),
        **kwargs,
    )
    return context[0].unflatten(0, (rows, num_queries)), None


# ---- attention of grouped rows ----


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
    Multi-head attention by the implementation that `module.config` selects.

    With n times as many query rows as key/value rows, query rows `i * n ... i * n + n - 1` attend to key/value row `i`.
    Beams, candidates and texts of one image share its keys and values without a copy: softmax treats each query
    separately, so the tokens of all n rows are concatenated into one long query.

    Args:
        module (`nn.Module`): attention module; its `config` and `training` are read.
        query (`Tensor` of shape `(B * n, T, H * d)`): projected queries.
        key, value (`Tensor` of shape `(B, H, N, d)`): projected keys and values.
        attention_mask: what transformers' mask functions return for B rows and n * T queries, or `None`.
        num_heads (`int`): H.
        dropout (`float`, *optional*, defaults to 0.0): dropout probability of the attention weights in training.
        is_causal (`bool`, *optional*, defaults to `False`): whether the attention is causal.

    Returns:
        Context `(B * n, T, H * d)` and, with eager attention only, weights `(B * n, H, T, N)`.

    Raises:
        ValueError: the number of query rows is not a multiple of the number of key/value rows.
    """
    rows, num_tokens, width = query.shape
    batch = key.shape[0]
    if rows % batch:
        raise ValueError(
            f"{rows} text rows cannot share the hidden states of {batch} images evenly. Order the texts by image, the "
            "same number for each, or repeat the image hidden states once per text."
        )
    group = rows // batch
    head_dim = width // num_heads
    query = query.reshape(batch, group * num_tokens, num_heads, head_dim).transpose(1, 2)
    config: Any = module.config
    if is_flash_attention_requested(config):
        function = _flash_forward
    else:
        function = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention_forward)
    # is_causal is always passed: sdpa turns causal by itself when the mask is trivial and therefore left out.
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


def split_heads(hidden_states: Tensor, num_heads: int) -> Tensor:
    """`(B, N, H * d)` to `(B, H, N, d)`."""
    return hidden_states.unflatten(-1, (num_heads, -1)).transpose(1, 2)


@dataclass
class RowGroups:
    """
    Assignment of query rows, in any order, to slots beside the key/value row that they attend to.

    Args:
        slots (`Tensor` of shape `(R,)`): int64, slot of each query row among `B * G`.
        num_groups (`int`): B.
        size (`int`): G, slots per key/value row.
    """

    slots: Tensor
    num_groups: int
    size: int

    @property
    def num_rows(self) -> int:
        """Query rows that attention computes, empty slots included."""
        return self.num_groups * self.size

    def scatter(self, rows: Tensor) -> Tensor:
        """Query rows `(R, T, D)` to their slots `(B * G, T, D)`; empty slots are zero."""
        empty = rows.new_zeros(self.num_rows, *rows.shape[1:])
        return empty.index_copy(0, self.slots, rows)

    def gather(self, rows: Tensor) -> Tensor:
        """The inverse of [`scatter`]: `(B * G, ...)` to `(R, ...)`."""
        return rows.index_select(0, self.slots)

    def select(self, keys: Tensor) -> Tensor:
        """Keys, values or masks `(B, ...)` for the query rows: as they are."""
        return keys


@dataclass
class RowCopies:
    """
    The same as [`RowGroups`] by a copy of keys and values for each query row, where the size of the largest group is
    not known: the cost is linear in the number of rows, however they are distributed.

    Args:
        index (`Tensor` of shape `(R,)`): int64, key/value row of each query row.
    """

    index: Tensor

    @property
    def num_rows(self) -> int:
        """Query rows that attention computes."""
        return self.index.shape[0]

    def scatter(self, rows: Tensor) -> Tensor:
        """Query rows as they are."""
        return rows

    def gather(self, rows: Tensor) -> Tensor:
        """Query rows as they are."""
        return rows

    def select(self, keys: Tensor) -> Tensor:
        """Keys, values or masks `(B, ...)` to `(R, ...)`."""
        return keys.index_select(0, self.index)


def group_rows(encoder_index: Tensor, num_groups: int) -> RowGroups | RowCopies:
    """
    Let query rows in any order share key/value rows.

    Args:
        encoder_index (`Tensor` of shape `(R,)`): key/value row of each query row.
        num_groups (`int`): B.
    """
    if torch.compiler.is_compiling():  # the size of the largest group depends on values, which would break the graph
        return RowCopies(encoder_index)
    member = encoder_index[:, None] == torch.arange(num_groups, device=encoder_index.device)  # (R, B)
    before = member.cumsum(dim=0).gather(1, encoder_index[:, None])[:, 0] - 1
    size = max(int(before.max()) + 1, 1)
    return RowGroups(encoder_index * size + before, num_groups, size)


__all__ = ["RowCopies", "RowGroups", "attend", "eager_attention_forward", "group_rows", "split_heads"]
