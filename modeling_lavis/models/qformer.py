# SPDX-License-Identifier: Apache-2.0
"""The Q-Former of BLIP-2: BERT with learned query tokens in front of the text, which cross-attend to the image.

Shapes: R rows, B images (R is a multiple of B, with the rows of one image next to each other), Q query tokens, T text
tokens, N image tokens, D hidden size, E hidden size of the image encoder.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.utils.generic import is_flash_attention_requested, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder

from .attention import RowCopies, RowGroups, group_rows
from .checkpoint_formats import QFORMER_KEYS, register_keys
from .configuration_text import LavisQFormerConfig
from .modeling_base import check_input_ids
from .text_bert import (
    BertAddNorm,
    BertAttention,
    BertCrossAttentionBlock,
    BertEmbeddings,
    BertIntermediate,
    BertSelfAttention,
    LavisBertPreTrainedModel,
)
from .transformers_compat import (
    GradientCheckpointingLayer,
    accepts_cache,
    cache_of_layer,
    cache_output,
    capture_outputs,
)


class QFormerEmbeddings(BertEmbeddings):
    """Query tokens, then word and position embeddings of the text, with one layer norm: `(R, Q + T, D)`."""

    def __init__(self, config: LavisQFormerConfig) -> None:
        super().__init__(config)
        if not config.use_text:
            del self.word_embeddings, self.position_embeddings

    def forward(  # type: ignore[override]
        self,
        query_embeds: Tensor | None,
        input_ids: Tensor | None,
        position_ids: Tensor | None = None,
        past_length: int | Tensor = 0,
    ) -> Tensor:
        parts = [] if query_embeds is None else [query_embeds]
        if input_ids is not None:
            parts.append(self.sum_embeddings(input_ids, position_ids=position_ids, past_length=past_length))
        return self.dropout(self.LayerNorm(torch.cat(parts, dim=1)))


class QFormerLayer(GradientCheckpointingLayer):
    """Joint self-attention, cross-attention of the query tokens (if the layer has it), separate feed-forward layers."""

    def __init__(self, config: LavisQFormerConfig, layer_idx: int) -> None:
        super().__init__()
        self.attention = BertAttention(config, layer_idx)
        if config.has_cross_attention(layer_idx):
            self.crossattention = BertCrossAttentionBlock(config, layer_idx)
        if config.use_text:
            self.intermediate = BertIntermediate(config)
            self.output = BertAddNorm(config, config.intermediate_size)
        self.intermediate_query = BertIntermediate(config)
        self.output_query = BertAddNorm(config, config.intermediate_size)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        num_query_tokens: int = 0,
        attention_mask: Tensor | None = None,
        encoder_index: RowGroups | RowCopies | None = None,
        past_key_values: Cache | None = None,
        is_causal: bool = False,
        num_queries: int | None = None,
        text_index: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        hidden_states = self.attention(
            hidden_states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            is_causal=is_causal,
            num_queries=num_queries,
            **kwargs,
        )
        if not num_query_tokens:
            return self.output(self.intermediate(hidden_states), hidden_states)
        # contiguous, because torch runs a sliced tensor as a batch of products with one copy of the weights per row
        queries = hidden_states[:, :num_query_tokens].contiguous()
        text = hidden_states[:, num_query_tokens:].contiguous()
        if text_index is not None:  # before the first cross-attention, rows with the same text are equal
            queries = queries[text_index]
        if hasattr(self, "crossattention"):
            queries, _ = self.crossattention(
                queries, encoder_hidden_states, encoder_index=encoder_index, past_key_values=past_key_values, **kwargs
            )
        queries = self.output_query(self.intermediate_query(queries), queries)
        if not text.shape[1]:
            return queries
        text = self.output(self.intermediate(text), text)
        return torch.cat([queries, text if text_index is None else text[text_index]], dim=1)


class QFormerEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: LavisQFormerConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(QFormerLayer(config, i) for i in range(config.num_hidden_layers))


class LavisQFormerModel(LavisBertPreTrainedModel):
    """
    Querying transformer (https://arxiv.org/abs/2301.12597, section 3.1). The self-attention mask follows from the
    inputs:

    * query tokens only: bidirectional;
    * text only: bidirectional, or causal with `causal=True`;
    * query tokens and text: bidirectional over both (matching);
    * query tokens and text with `causal=True`: query tokens attend to query tokens only, text tokens to the query
    tokens
      and to earlier text tokens (image-grounded text generation). The query tokens may also run first, in a call with a
      cache, and the text afterwards.

    Query tokens always cross-attend to the image.

    Args:
        config ([`LavisQFormerConfig`]): model configuration.
    """

    config: LavisQFormerConfig
    base_model_prefix = "qformer"
    main_input_name = "query_embeds"
    input_modalities = ("image", "text")
    _no_split_modules = ["QFormerLayer"]
    _can_record_outputs = {
        "hidden_states": QFormerLayer,
        "attentions": OutputRecorder(BertSelfAttention, index=1),
        "cross_attentions": OutputRecorder(BertCrossAttentionBlock, index=1),
    }

    def __init__(self, config: LavisQFormerConfig) -> None:
        super().__init__(config)
        self.embeddings = QFormerEmbeddings(config)
        self.encoder = QFormerEncoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding | None:  # type: ignore[override]
        """The word embeddings; `None` for a Q-Former without text."""
        return getattr(self.embeddings, "word_embeddings", None)

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.embeddings.word_embeddings = value

    @accepts_cache
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        query_embeds: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_index: Tensor | None = None,
        text_index: Tensor | None = None,
        past_key_values: Cache | None = None,
        causal: bool = False,
        queries_only: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        r"""
        Args:
            query_embeds (`Tensor` of shape `(R, Q, D)`, *optional*): query tokens; they need `encoder_hidden_states`.
            input_ids (`Tensor` of shape `(R, T)`, *optional*): token ids.
            attention_mask (`Tensor` of shape `(R, T)`, *optional*): 1 for text tokens, 0 for padding; with a cache,
                including the text in the cache. Can also have columns for the query tokens, which come first. Without
                one, all are tokens, as in transformers' BERT; the heads mask pad tokens.
            position_ids (`Tensor` of shape `(1 or R, T)`, *optional*): positions of the text; consecutive by default.
            encoder_hidden_states (`Tensor` of shape `(B, N, E)`, *optional*): hidden states of the images. With R a
                multiple of B, the rows `i * R / B ...` share image `i`.
            encoder_index (`Tensor` of shape `(R,)`, *optional*): image that each row attends to; keys and values are
                computed once per image.
            text_index (`Tensor` of shape `(R,)`, *optional*): text of each row, for texts that are paired with several
                images; `query_embeds`, `input_ids` and `attention_mask` then have one row per text, which runs once up
                to the first cross-attention.
            past_key_values (`Cache`, *optional*): key/value cache of query tokens and text, query tokens first. An
                `EncoderDecoderCache` also caches the cross-attention.
            causal (`bool`, *optional*, defaults to `False`): causal attention of the text.
            queries_only (`bool`, *optional*, defaults to `False`): compute only the query tokens in the last layer, for
                heads that use nothing else.

        Returns:
            [`BaseModelOutputWithPastAndCrossAttentions`]: `last_hidden_state` of shape `(R, Q + T, D)`, or `(R, Q, D)`
            with `queries_only`, and the cache.
        """
        self._check_inputs(query_embeds, input_ids, encoder_hidden_states)
        if text_index is not None:
            caches_text = past_key_values is not None and not isinstance(past_key_values, EncoderDecoderCache)
            if query_embeds is None or input_ids is None or caches_text:
                raise ValueError("text_index needs query_embeds and input_ids, and no self-attention cache.")
            if "flex" in self.config._attn_implementation:  # rows of a block mask cannot be indexed
                query_embeds, input_ids = query_embeds[text_index], input_ids[text_index]
                attention_mask = None if attention_mask is None else attention_mask[text_index]
                text_index = None
        num_query_tokens = 0 if query_embeds is None else query_embeds.shape[1]
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        text_past = 0
        if query_embeds is None and past_key_values is not None:
            if isinstance(past, int) and past < self.config.num_query_tokens:
                raise ValueError(
                    f"The cache has {past} tokens, but the {self.config.num_query_tokens} query tokens come first. Run "
                    "them with this cache before the text."
                )
            text_past = past - self.config.num_query_tokens
        hidden_states = self.embeddings(query_embeds, input_ids, position_ids, text_past)
        text_length = hidden_states.shape[1] - num_query_tokens
        mask = self._self_attention_mask(
            hidden_states, num_query_tokens, attention_mask, past_key_values, causal and text_length > 0
        )
        # A block mask of flex attention cannot be sliced, so all tokens are computed there.
        skip_text = queries_only and text_length > 0 and (mask is None or torch.is_tensor(mask))
        groups = None
        if encoder_index is not None and encoder_hidden_states is not None:
            groups = group_rows(encoder_index, encoder_hidden_states.shape[0])
        layers = self.encoder.layer
        for index, layer in enumerate(layers):
            shared = text_index if index == 0 else None
            # Reentrant activation checkpointing passes gradient through positional arguments only.
            hidden_states = layer(
                hidden_states,
                encoder_hidden_states,
                num_query_tokens=num_query_tokens,
                attention_mask=mask,
                encoder_index=groups,
                past_key_values=cache_of_layer(layer, past_key_values),
                is_causal=causal and text_length > 0,
                num_queries=num_query_tokens if skip_text and index == len(layers) - 1 else None,
                text_index=shared,
                **kwargs,
            )
            if shared is not None and torch.is_tensor(mask):
                mask = mask[shared]
        if queries_only:
            hidden_states = hidden_states[:, :num_query_tokens]
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states, **cache_output(past_key_values)
        )

    def _check_inputs(
        self,
        query_embeds: Tensor | None,
        input_ids: Tensor | None,
        encoder_hidden_states: Tensor | None,
    ) -> None:
        if query_embeds is None and input_ids is None:
            raise ValueError("The Q-Former needs query_embeds, input_ids or both; it got neither.")
        if (query_embeds is None) != (encoder_hidden_states is None):
            missing, given = "query_embeds", "encoder_hidden_states"
            if encoder_hidden_states is None:
                missing, given = given, missing
            raise ValueError(
                f"The Q-Former got {given}, but no {missing}. Query tokens cross-attend to images: pass both or none."
            )
        if input_ids is not None:
            check_input_ids(input_ids)
        if input_ids is not None and not self.config.use_text:
            raise ValueError(
                "This Q-Former belongs to a language model and does not encode text (use_text=False); pass the text to "
                "the language model."
            )
        if encoder_hidden_states is not None:
            width = self.config.encoder_hidden_size or self.config.hidden_size
            if encoder_hidden_states.shape[-1] != width:
                raise ValueError(
                    f"The image hidden states have size {encoder_hidden_states.shape[-1]}, but this Q-Former was built "
                    f"for {width}. Use the image encoder that it was trained with."
                )

    def _self_attention_mask(
        self,
        hidden_states: Tensor,
        num_query_tokens: int,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        causal: bool,
    ) -> Tensor | None:
        """Self-attention mask in the format of the attention implementation."""
        if attention_mask is not None and attention_mask.ndim not in (2, 4):
            raise ValueError(
                f"Got an attention_mask of shape {tuple(attention_mask.shape)}; expected (batch, tokens). "
                "The processor makes it together with the ids."
            )
        if attention_mask is not None and attention_mask.ndim == 2:
            length = hidden_states.shape[1] - num_query_tokens
            if past_key_values is None and attention_mask.shape[1] not in (length, hidden_states.shape[1]):
                raise ValueError(
                    f"Got an attention_mask of shape {tuple(attention_mask.shape)} for texts of {length} tokens; "
                    "expected one value per token. The processor makes both together."
                )
            queries = num_query_tokens
            if past_key_values is not None and not num_query_tokens:
                queries = self.config.num_query_tokens
            total = hidden_states.shape[1] + (0 if past_key_values is None else past_key_values.get_seq_length())
            has_query_columns = attention_mask.shape[1] == total and length != total
            if queries and not has_query_columns:
                ones = attention_mask.new_ones(attention_mask.shape[0], queries)
                attention_mask = torch.cat([ones, attention_mask], dim=1)
        if not causal:
            return create_bidirectional_mask(self.config, hidden_states, attention_mask)
        if not num_query_tokens:
            return create_causal_mask(self.config, hidden_states, attention_mask, past_key_values)
        config = self.config
        if is_flash_attention_requested(config):  # its kernels have no such mask, so attend uses sdpa
            config = copy.copy(config)
            config._attn_implementation = "sdpa"
        return create_causal_mask(
            config,
            hidden_states,
            attention_mask,
            past_key_values,
            or_mask_function=lambda row, head, query, key: key < num_query_tokens,
        )


register_keys(LavisQFormerConfig.model_type, QFORMER_KEYS)


__all__ = ["LavisQFormerModel", "QFormerLayer"]
