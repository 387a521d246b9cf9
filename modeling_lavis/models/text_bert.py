# SPDX-License-Identifier: Apache-2.0
"""BERT with optional cross-attention: text encoder, image-grounded encoder, fusion encoder and causal decoder.

Letters: R rows of text, B rows of encoder states (R is a multiple of B; rows of one encoder state lie together),
T text tokens, N encoder tokens, D width of the text, E width of the encoder states.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import attend, split_heads
from .cache_names import kept_by, returned, takes_cache
from .configuration_text_bert import LavisBertConfig
from .few_rows import FewRowsLinear
from .modeling_base import LavisPreTrainedModel, check_text
from .row_groups import RowGroups, group_rows
from .text_pairs import shared_image_projections
from .text_twin import TwinCrossOutput

TextMode = Literal["text", "fusion", "multimodal"]


class BertEmbeddings(nn.Module):
    """Word, position and, if the model has them, token-type embeddings: `(R, T)` to `(R, T, D)`."""

    def __init__(self, config: LavisBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        if config.type_vocab_size:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.implicit_type = config.implicit_token_type
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def look_up(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_length: int | Tensor = 0,
    ) -> Tensor:
        """The sum of the embeddings, before the norm."""
        embeddings = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        length, limit = embeddings.shape[1], self.position_embeddings.num_embeddings
        if position_ids is None:
            if isinstance(past_length, int) and past_length + length > limit:
                raise ValueError(
                    f"The text has {past_length + length} tokens, but the model knows {limit} positions. Shorten it, "
                    "for instance with truncation=True in the processor."
                )
            position_ids = torch.arange(length, device=embeddings.device)[None] + past_length
        embeddings = embeddings + self.position_embeddings(position_ids)
        # parity: token types count only when they are given, there is no silent type 0 unless it is asked for
        if hasattr(self, "token_type_embeddings"):
            if token_type_ids is not None:
                embeddings = embeddings + self.token_type_embeddings(token_type_ids)
            elif self.implicit_type:
                embeddings = embeddings + self.token_type_embeddings.weight[0]
        return embeddings

    def forward(self, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        return self.dropout(self.LayerNorm(self.look_up(input_ids, *args, **kwargs)))


class BertSelfAttention(nn.Module):
    """Attention of a text to itself, causal or not by call."""

    def __init__(self, config: LavisBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = False
        self.num_heads = config.num_attention_heads
        self.query = FewRowsLinear(config.hidden_size, config.hidden_size)
        self.key = FewRowsLinear(config.hidden_size, config.hidden_size)
        self.value = FewRowsLinear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        is_causal: bool = False,
        num_queries: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        # contiguous, because torch would multiply a cut tensor with one copy of the weights for each row
        query = self.query(hidden_states[:, :num_queries].contiguous())
        key = split_heads(self.key(hidden_states), self.num_heads)
        value = split_heads(self.value(hidden_states), self.num_heads)
        if past_key_values is not None:
            own = past_key_values
            if isinstance(own, EncoderDecoderCache):
                own = own.self_attention_cache
            key, value = own.update(key, value, self.layer_idx)
        if num_queries is not None and torch.is_tensor(attention_mask) and attention_mask.ndim == 4:
            attention_mask = attention_mask[:, :, :num_queries]
        return attend(
            self,
            query,
            key,
            value,
            attention_mask,
            self.num_heads,
            dropout=self.config.attention_probs_dropout_prob,
            is_causal=is_causal,
            **kwargs,
        )


class BertCrossAttention(nn.Module):
    """Attention of a text to encoder states, whose keys and values are made once per row of states."""

    def __init__(self, config: LavisBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = False
        self.num_heads = config.num_attention_heads
        encoder_size = config.encoder_hidden_size or config.hidden_size
        self.query = FewRowsLinear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(encoder_size, config.hidden_size)
        self.value = nn.Linear(encoder_size, config.hidden_size)

    def project(self, encoder_hidden_states: Tensor, cache: Cache | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values `(B, heads, N, head size)`, taken from the cache after the first time."""
        cross = cache.cross_attention_cache if isinstance(cache, EncoderDecoderCache) else None
        if cross is not None and cache.is_updated.get(self.layer_idx):
            layer = cross.layers[self.layer_idx]
            return layer.keys, layer.values
        key = split_heads(self.key(encoder_hidden_states), self.num_heads)
        value = split_heads(self.value(encoder_hidden_states), self.num_heads)
        if cross is not None:
            key, value = cross.update(key, value, self.layer_idx)
            cache.is_updated[self.layer_idx] = True
        return key, value

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        encoder_index: Tensor | RowGroups | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        key, value = self.project(encoder_hidden_states, past_key_values)
        query = self.query(hidden_states)
        # Queries are few and image tokens many: queries are brought to the keys, not keys to the queries.
        groups = group_rows(encoder_index, key.shape[0]) if isinstance(encoder_index, Tensor) else encoder_index
        if groups is not None:
            query = groups.spread(query)
        context, weights = attend(
            self,
            query,
            key,
            value,
            encoder_attention_mask,
            self.num_heads,
            dropout=self.config.attention_probs_dropout_prob,
            **kwargs,
        )
        if groups is not None:
            context = groups.gather(context)
            weights = groups.gather(weights) if torch.is_tensor(weights) else weights
        return context, weights


class BertAddNorm(nn.Module):
    """Map, dropout, residual, layer norm: the end of both attention and feed-forward."""

    def __init__(self, config: LavisBertConfig, input_size: int) -> None:
        super().__init__()
        self.dense = FewRowsLinear(input_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden_states)) + residual)


class BertIntermediate(nn.Module):
    """First half of the feed-forward part."""

    def __init__(self, config: LavisBertConfig) -> None:
        super().__init__()
        self.dense = FewRowsLinear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.act(self.dense(hidden_states))


class BertAttention(nn.Module):
    """Self-attention with its add-and-norm."""

    def __init__(self, config: LavisBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.self = BertSelfAttention(config, layer_idx)
        self.output = BertAddNorm(config, config.hidden_size)

    def forward(self, hidden_states: Tensor, num_queries: int | None = None, **kwargs: Any) -> Tensor:
        context, _ = self.self(hidden_states, num_queries=num_queries, **kwargs)
        return self.output(context, hidden_states[:, :num_queries])


class BertCrossAttentionBlock(nn.Module):
    """Cross-attention with its add-and-norm."""

    def __init__(self, config: LavisBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.self = BertCrossAttention(config, layer_idx)
        self.output = BertAddNorm(config, config.hidden_size)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, **kwargs: Any) -> Tensor:
        context, _ = self.self(hidden_states, encoder_hidden_states, **kwargs)
        return self.output(context, hidden_states)


class TwinCrossAttentionBlock(nn.Module):
    """Cross-attention to two images with a common add-and-norm (BLIP on NLVR2)."""

    def __init__(self, config: LavisBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.self0 = BertCrossAttention(config, layer_idx)
        self.self1 = BertCrossAttention(config, layer_idx)
        self.output = TwinCrossOutput(config, merge=layer_idx >= config.merge_from_layer)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: tuple[Tensor, Tensor], **kwargs: Any) -> Tensor:
        first, _ = self.self0(hidden_states, encoder_hidden_states[0], **kwargs)
        second, _ = self.self1(hidden_states, encoder_hidden_states[1], **kwargs)
        return self.output((first, second), hidden_states)


class BertLayer(GradientCheckpointingLayer):
    """Post-norm layer: self-attention, cross-attention if the layer has it and states are given, feed-forward."""

    def __init__(self, config: LavisBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.attention = BertAttention(config, layer_idx)
        if config.has_cross_attention(layer_idx):
            block = TwinCrossAttentionBlock if config.num_image_streams == 2 else BertCrossAttentionBlock
            self.crossattention = block(config, layer_idx)
        self.intermediate = BertIntermediate(config)
        self.output = BertAddNorm(config, config.intermediate_size)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | tuple[Tensor, Tensor] | None = None,
        encoder_attention_mask: Tensor | None = None,
        encoder_index: RowGroups | None = None,
        past_key_values: Cache | None = None,
        is_causal: bool = False,
        num_queries: int | None = None,
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
        if encoder_hidden_states is not None and hasattr(self, "crossattention"):
            hidden_states = self.crossattention(
                hidden_states,
                encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                encoder_index=encoder_index,
                past_key_values=past_key_values,
                **kwargs,
            )
        return self.output(self.intermediate(hidden_states), hidden_states)


class BertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: LavisBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config, i) for i in range(config.num_hidden_layers))


class LavisBertPreTrainedModel(LavisPreTrainedModel):
    """Initialisation that all BERT classes share: normal weights, zero biases, a zero padding row."""

    config: LavisBertConfig
    base_model_prefix = "bert"
    input_modalities: tuple[str, ...] = ("text",)
    _no_split_modules = ["BertLayer", "BertEmbeddings"]
    _can_record_outputs = {
        "hidden_states": BertLayer,
        "attentions": OutputRecorder(BertSelfAttention, index=1),
        "cross_attentions": OutputRecorder(BertCrossAttention, index=1),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BertLMPredictionHead):
            init.zeros_(module.bias)


class LavisBertModel(LavisBertPreTrainedModel):
    """
    BERT (https://arxiv.org/abs/1810.04805) whose layers may attend to the states of an encoder.

    Args:
        config ([`LavisBertConfig`]): sizes, and which layers attend to encoder states.
    """

    def __init__(self, config: LavisBertConfig) -> None:
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        if config.pair_image_layers:
            self._tied_weights_keys = shared_image_projections(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embeddings."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.embeddings.word_embeddings = value

    @takes_cache
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        text_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | tuple[Tensor, Tensor] | None = None,
        encoder_attention_mask: Tensor | None = None,
        encoder_index: Tensor | None = None,
        past_key_values: Cache | None = None,
        mode: TextMode = "multimodal",
        causal: bool = False,
        first_token_only: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        r"""
        Args:
            input_ids (`Tensor` of shape `(R, T)`, *optional*): word pieces.
            attention_mask (`Tensor` of shape `(R, T)`, *optional*): 1 for tokens, 0 for padding; with a cache, the
                tokens in the cache included.
            token_type_ids (`Tensor` of shape `(R, T)`, *optional*): token types, for models that have a table.
            position_ids (`Tensor` of shape `(1 or R, T)`, *optional*): positions; counted from the cache on else.
            inputs_embeds (`Tensor` of shape `(R, T, D)`, *optional*): word embeddings in place of `input_ids`.
            text_embeds (`Tensor` of shape `(R, T, D)`, *optional*): states that enter the first layer that runs, past
                the embedding block; what mode `"fusion"` starts from.
            encoder_hidden_states (`Tensor` of shape `(B, N, E)`, or a pair of them for two image streams,
                *optional*): states to attend to. With R a multiple of B, texts `i * R / B ...` share row `i`.
            encoder_attention_mask (`Tensor` of shape `(B, N)`, *optional*): padding of those states.
            encoder_index (`Tensor` of shape `(R,)`, *optional*): the row of encoder states that each text attends
                to; keys and values are made once per row of states and then picked.
            past_key_values (`Cache`, *optional*): keys and values of earlier tokens (and of the encoder).
            mode (`str`, *optional*, defaults to `"multimodal"`): `"text"` runs the layers below `fusion_layer`
                without cross-attention, `"fusion"` the others, `"multimodal"` all.
            causal (`bool`, *optional*, defaults to `False`): whether a token sees only those before it.
            first_token_only (`bool`, *optional*, defaults to `False`): let the last layer work out the first token
                alone, for heads that read nothing else.

        Returns:
            [`BaseModelOutputWithPastAndCrossAttentions`]: `last_hidden_state` (R, T, D), or (R, 1, D) with
            `first_token_only`, and the cache.
        """
        given = [input_ids is not None, inputs_embeds is not None, text_embeds is not None]
        if sum(given) != 1:
            raise ValueError(
                f"Exactly one of input_ids, inputs_embeds and text_embeds is needed, got {sum(given)} of them."
            )
        if mode not in ("text", "fusion", "multimodal"):
            raise ValueError(f"mode is {mode!r}; it can be 'text', 'fusion' or 'multimodal'.")
        if input_ids is not None:
            # Single tokens with a cache are the model's own words.
            own_words = past_key_values is not None and input_ids.shape[1] == 1
            check_text(
                input_ids,
                attention_mask if past_key_values is None else None,
                None if own_words else self.embeddings.word_embeddings.weight.shape[0],
            )
        own_cache = past_key_values
        if isinstance(past_key_values, EncoderDecoderCache):
            own_cache = past_key_values.self_attention_cache
        if text_embeds is None:
            past_length = own_cache.get_seq_length() if own_cache is not None else 0
            hidden_states = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, past_length)
        else:
            hidden_states = text_embeds

        if causal:
            mask = create_causal_mask(self.config, hidden_states, attention_mask, own_cache)
        else:
            mask = create_bidirectional_mask(self.config, hidden_states, attention_mask)
        if mode == "text":
            encoder_hidden_states = None
        groups = None
        if encoder_index is not None and encoder_hidden_states is not None:
            groups = group_rows(encoder_index, _first(encoder_hidden_states).shape[0])
        cross_mask = self._cross_mask(hidden_states, encoder_hidden_states, encoder_attention_mask, groups)

        first, last = 0, len(self.encoder.layer)
        if mode == "text":
            last = self.config.num_text_layers
        elif mode == "fusion":
            first = self.config.num_text_layers
        # A block mask of flex attention cannot be cut to one row, so all tokens are worked out there.
        cut = first_token_only and (mask is None or torch.is_tensor(mask)) and first < last
        for index in range(first, last):
            layer = self.encoder.layer[index]
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                encoder_hidden_states=self._states_for_layer(encoder_hidden_states, index),
                encoder_attention_mask=cross_mask,
                encoder_index=groups,
                past_key_values=kept_by(layer, past_key_values),
                is_causal=causal,
                num_queries=1 if cut and index == last - 1 else None,
                **kwargs,
            )
        if first_token_only:
            hidden_states = hidden_states[:, :1]
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden_states, **returned(past_key_values))

    def _states_for_layer(
        self, encoder_hidden_states: Tensor | tuple[Tensor, Tensor] | None, layer: int
    ) -> Tensor | tuple[Tensor, Tensor] | None:
        """With a pair of images and single-stream layers, fusion layers look at the images in turn (ALBEF, NLVR2)."""
        if isinstance(encoder_hidden_states, (tuple, list)) and self.config.num_image_streams == 1:
            return encoder_hidden_states[(layer - (self.config.fusion_layer or 0)) % len(encoder_hidden_states)]
        return encoder_hidden_states

    def _cross_mask(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | tuple[Tensor, Tensor] | None,
        encoder_attention_mask: Tensor | None,
        groups: RowGroups | None,
    ) -> Tensor | None:
        """Mask over encoder tokens for the lined-up queries of each row of encoder states; `None` without padding."""
        if encoder_attention_mask is None or encoder_hidden_states is None:
            return None
        rows, batch = hidden_states.shape[0], encoder_attention_mask.shape[0]
        if groups is not None:
            rows = batch * groups.size
        if rows % batch:
            raise ValueError(f"{rows} texts cannot share {batch} rows of encoder states evenly.")
        lined_up = hidden_states.new_empty(batch, rows // batch * hidden_states.shape[1], 1)
        return create_bidirectional_mask(self.config, lined_up, encoder_attention_mask, encoder_hidden_states=lined_up)


def _first(states: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return states if isinstance(states, Tensor) else states[0]


class BertLMPredictionHead(nn.Module):
    """Logits over the vocabulary: `(..., D)` to `(..., vocabulary)`; the last map is tied to the word embeddings."""

    def __init__(self, config: LavisBertConfig) -> None:
        super().__init__()
        self.transform = BertHeadTransform(config)
        self.decoder: nn.Linear = FewRowsLinear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.decoder(self.transform(hidden_states))


class BertHeadTransform(nn.Module):
    """Map, activation and layer norm before the vocabulary."""

    def __init__(self, config: LavisBertConfig) -> None:
        super().__init__()
        self.dense = FewRowsLinear(config.hidden_size, config.hidden_size)
        self.act = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.LayerNorm(self.act(self.dense(hidden_states)))


class BertLMHead(nn.Module):
    """Holds the prediction head under the name that BERT checkpoints use."""

    def __init__(self, config: LavisBertConfig) -> None:
        super().__init__()
        self.predictions = BertLMPredictionHead(config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.predictions(hidden_states)


class LavisBertLMHeadModel(LavisBertPreTrainedModel):
    """
    [`LavisBertModel`] with a head over the vocabulary: the causal decoder of BLIP and of ALBEF's answers, and the
    masked language model of ALBEF. Which of the two is decided by `causal` in each call.

    Args:
        config ([`LavisBertConfig`]): sizes, and which layers attend to encoder states.
    """

    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: LavisBertConfig) -> None:
        super().__init__(config)
        self.bert = LavisBertModel._from_config(config)
        self.cls = BertLMHead(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embeddings."""
        return self.bert.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.bert.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Linear:
        """The map to the vocabulary."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the map to the vocabulary, and the bias that is kept beside it."""
        self.cls.predictions.decoder = value
        self.cls.predictions.bias = value.bias

    def forward(
        self, input_ids: Tensor | None = None, causal: bool = True, logits_to_keep: int | Tensor = 0, **kwargs: Any
    ) -> tuple[Tensor, BaseModelOutputWithPastAndCrossAttentions]:
        r"""
        Args:
            input_ids (`Tensor` of shape `(R, T)`, *optional*): word pieces.
            causal (`bool`, *optional*, defaults to `True`): decoder, or masked language model with `False`.
            logits_to_keep (`int` or `Tensor`, *optional*, defaults to 0): logits of that many last tokens, or of the
                given positions; 0 for all.
            kwargs: as for [`LavisBertModel`].

        Returns:
            logits (R, T, vocabulary) and the output of the transformer.
        """
        output = self.bert(input_ids, causal=causal, **kwargs)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return self.cls(output.last_hidden_state[:, keep]), output


__all__ = [
    "BertEmbeddings",
    "BertLMHead",
    "BertLMPredictionHead",
    "LavisBertLMHeadModel",
    "LavisBertModel",
    "LavisBertPreTrainedModel",
    "TextMode",
]
