# SPDX-License-Identifier: Apache-2.0
"""BERT with optional cross-attention: text encoder, image-grounded text encoder, fusion encoder and causal decoder.

Shapes: R text rows, B rows of encoder hidden states (R is a multiple of B, with the texts of one encoder row next to
each other), T text tokens, N encoder tokens, D hidden size of the text, E hidden size of the encoder.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder

from .attention import RowCopies, RowGroups, attend, group_rows, split_heads
from .configuration_text import LavisBertConfig
from .forward_options import resolve_hidden_states
from .memory import TunedLinear
from .modeling_base import LavisPreTrainedModel, check_input_ids, check_text_length
from .transformers_compat import (
    GradientCheckpointingLayer,
    accepts_cache,
    cache_of_layer,
    cache_output,
    capture_outputs,
)

TextMode = Literal["text", "fusion", "multimodal"]


class BertEmbeddings(nn.Module):
    """Word, position and (if the model has them) token type embeddings: `(R, T)` to `(R, T, D)`."""

    def __init__(self, config: LavisBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        if config.type_vocab_size:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.implicit_type = config.implicit_token_type
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def sum_embeddings(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_length: int | Tensor = 0,
    ) -> Tensor:
        """Sum of the embeddings, before the layer norm."""
        embeddings = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        length, limit = embeddings.shape[1], self.position_embeddings.num_embeddings
        if position_ids is None:
            if isinstance(past_length, int):
                check_text_length(past_length + length, limit)
            position_ids = torch.arange(length, device=embeddings.device)[None] + past_length
        embeddings = embeddings + self.position_embeddings(position_ids)
        # parity: without token types, the embedding of type 0 is added only if the configuration says so
        if hasattr(self, "token_type_embeddings"):
            if token_type_ids is None and self.implicit_type:
                token_type_ids = torch.zeros_like(position_ids)  # a weight read directly could be offloaded or sharded
            if token_type_ids is not None:
                embeddings = embeddings + self.token_type_embeddings(token_type_ids)
        return embeddings

    def forward(self, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        return self.dropout(self.LayerNorm(self.sum_embeddings(input_ids, *args, **kwargs)))


class BertSelfAttention(nn.Module):
    """Self-attention of a text, causal or bidirectional by call."""

    def __init__(self, config: LavisBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = False
        self.num_heads = config.num_attention_heads
        self.query = TunedLinear(config.hidden_size, config.hidden_size)
        self.key = TunedLinear(config.hidden_size, config.hidden_size)
        self.value = TunedLinear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        is_causal: bool = False,
        num_queries: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        # contiguous, because torch runs a sliced tensor as a batch of products with one copy of the weights per row
        query = self.query(hidden_states[:, :num_queries].contiguous())
        key = split_heads(self.key(hidden_states), self.num_heads)
        value = split_heads(self.value(hidden_states), self.num_heads)
        if past_key_values is not None:
            cache = past_key_values
            if isinstance(cache, EncoderDecoderCache):
                cache = cache.self_attention_cache
            key, value = cache.update(key, value, self.layer_idx)
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
    """Cross-attention of a text to encoder hidden states, whose keys and values are computed once per encoder row."""

    def __init__(self, config: LavisBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = False
        self.num_heads = config.num_attention_heads
        encoder_size = config.encoder_hidden_size or config.hidden_size
        self.query = TunedLinear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(encoder_size, config.hidden_size)
        self.value = nn.Linear(encoder_size, config.hidden_size)

    def project(self, encoder_hidden_states: Tensor, cache: Cache | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values `(B, heads, N, head_dim)`; from the cache after the first time."""
        if isinstance(cache, EncoderDecoderCache) and cache.is_updated.get(self.layer_idx):
            layer = cache.cross_attention_cache.layers[self.layer_idx]
            return layer.keys, layer.values
        key = split_heads(self.key(encoder_hidden_states), self.num_heads)
        value = split_heads(self.value(encoder_hidden_states), self.num_heads)
        if isinstance(cache, EncoderDecoderCache):
            key, value = cache.cross_attention_cache.update(key, value, self.layer_idx)
            cache.is_updated[self.layer_idx] = True
        return key, value

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        encoder_index: Tensor | RowGroups | RowCopies | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        key, value = self.project(encoder_hidden_states, past_key_values)
        query = self.query(hidden_states)
        # There are few query tokens and many image tokens, so queries are scattered to the keys, not keys repeated.
        groups = group_rows(encoder_index, key.shape[0]) if isinstance(encoder_index, Tensor) else encoder_index
        if groups is not None:
            query, key, value = groups.scatter(query), groups.select(key), groups.select(value)
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
    """Linear layer, dropout, residual and layer norm: the output of attention and feed-forward layers."""

    def __init__(self, config: LavisBertConfig, input_size: int) -> None:
        super().__init__()
        self.dense = TunedLinear(input_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, residual: Tensor) -> Tensor:
        # The residual first: a tracer takes the sizes of a sum from its first term, and those of the other term, after
        # rows were grouped by image, would grow from layer to layer.
        return self.LayerNorm(residual + self.dropout(self.dense(hidden_states)))


class BertIntermediate(nn.Module):
    """First linear layer and activation of the feed-forward layers."""

    def __init__(self, config: LavisBertConfig) -> None:
        super().__init__()
        self.dense = TunedLinear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.act(self.dense(hidden_states))


class BertAttention(nn.Module):
    """Self-attention with its output layer."""

    def __init__(self, config: LavisBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.self = BertSelfAttention(config, layer_idx)
        self.output = BertAddNorm(config, config.hidden_size)

    def forward(self, hidden_states: Tensor, num_queries: int | None = None, **kwargs: Any) -> Tensor:
        context, _ = self.self(hidden_states, num_queries=num_queries, **kwargs)
        return self.output(context, hidden_states[:, :num_queries])


class BertCrossAttentionBlock(nn.Module):
    """Cross-attention with its output layer."""

    def __init__(self, config: LavisBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.self = BertCrossAttention(config, layer_idx)
        self.output = BertAddNorm(config, config.hidden_size)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states `(R, T, D)`, and with eager attention its weights `(R, heads, T, N)`."""
        context, weights = self.self(hidden_states, encoder_hidden_states, **kwargs)
        return self.output(context, hidden_states), weights


class ImagePairCrossOutput(nn.Module):
    """
    One linear layer per image, their mean or a learned merge, residual and layer norm (BLIP, section 4.4,
    https://arxiv.org/abs/2201.12086).

    Args:
        config ([`LavisBertConfig`]): hidden size and dropout.
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
        """Attention outputs of both images, `(R, T, D)` each, to `(R, T, D)`."""
        first, second = self.dense0(contexts[0]), self.dense1(contexts[1])
        if hasattr(self, "merge_layer"):
            merged = self.merge_layer(torch.cat([first, second], dim=-1))
        else:
            merged = (first + second) / 2
        return self.LayerNorm(self.dropout(merged) + residual)


class ImagePairCrossAttentionBlock(nn.Module):
    """Cross-attention to each of two images with a shared output layer (BLIP on NLVR2)."""

    def __init__(self, config: LavisBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.self0 = BertCrossAttention(config, layer_idx)
        self.self1 = BertCrossAttention(config, layer_idx)
        self.output = ImagePairCrossOutput(config, merge=layer_idx >= config.merge_from_layer)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, second_encoder_hidden_states: Tensor, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states `(R, T, D)`, and with eager attention the weights of both images, `(R, 2, heads, T, N)`."""
        first, first_weights = self.self0(hidden_states, encoder_hidden_states, **kwargs)
        second, second_weights = self.self1(hidden_states, second_encoder_hidden_states, **kwargs)
        weights = None
        if isinstance(first_weights, Tensor) and isinstance(second_weights, Tensor):
            weights = torch.stack([first_weights, second_weights], dim=1)
        return self.output((first, second), hidden_states), weights


class BertLayer(GradientCheckpointingLayer):
    """Post-norm layer: self-attention, cross-attention (if the layer has it), feed-forward."""

    def __init__(self, config: LavisBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.attention = BertAttention(config, layer_idx)
        if config.has_cross_attention(layer_idx):
            pair = config.num_image_streams == 2
            block: type[nn.Module] = ImagePairCrossAttentionBlock if pair else BertCrossAttentionBlock
            self.crossattention = block(config, layer_idx)
        self.intermediate = BertIntermediate(config)
        self.output = BertAddNorm(config, config.intermediate_size)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        second_encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        encoder_index: RowGroups | RowCopies | None = None,
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
            second = () if second_encoder_hidden_states is None else (second_encoder_hidden_states,)
            hidden_states, _ = self.crossattention(
                hidden_states,
                encoder_hidden_states,
                *second,
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
    """Base of the BERT classes; initializes weights as BERT does."""

    config: LavisBertConfig
    base_model_prefix = "bert"
    input_modalities: tuple[str, ...] = ("text",)
    _no_split_modules = ["BertLayer"]
    _can_record_outputs: dict[str, Any] = {
        "hidden_states": BertLayer,
        "attentions": OutputRecorder(BertSelfAttention, index=1),
        "cross_attentions": [
            OutputRecorder(BertCrossAttentionBlock, index=1),
            OutputRecorder(ImagePairCrossAttentionBlock, index=1),
        ],
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BertLMPredictionHead):
            init.zeros_(module.bias)


def shared_pair_projections(config: LavisBertConfig) -> dict[str, str]:
    """
    Tied weights of layers in pairs, which attend to one image of a pair each (ALBEF on NLVR2, section 4).

    Pairs are counted from the first layer with cross-attention; key and value projections are shared, query projections
    are not.

    Args:
        config ([`LavisBertConfig`]): which layers have cross-attention.

    Returns:
        `dict[str, str]`: parameters of the second layer of each pair, with those of the first that they are tied to.

    Raises:
        ValueError: the number of layers with cross-attention is odd.
    """
    layers = [layer for layer in range(config.num_hidden_layers) if config.has_cross_attention(layer)]
    if len(layers) % 2:
        raise ValueError(
            f"{len(layers)} layers have cross-attention, which do not form pairs; choose num_hidden_layers and "
            "fusion_layer so that their number is even."
        )
    name = "encoder.layer.{}.crossattention.self.{}.{}".format
    return {
        name(second, projection, kind): name(first, projection, kind)
        for first, second in zip(layers[::2], layers[1::2], strict=True)
        for projection in ("key", "value")
        for kind in ("weight", "bias")
    }


def _resolves_hidden_states(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of `LavisBertModel.forward`: negative `output_hidden_states` count from the last layer that runs, not
    from the last layer, which transformers counts from."""

    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        selection = kwargs.get("output_hidden_states", getattr(self.config, "output_hidden_states", None))
        if isinstance(selection, (int, list)) and not isinstance(selection, bool):
            layers = self.running_layers(kwargs.get("mode", "multimodal"))
            kwargs["output_hidden_states"] = resolve_hidden_states(selection, len(layers))
        return forward(self, *args, **kwargs)

    return wrapper


class LavisBertModel(LavisBertPreTrainedModel):
    """
    BERT (https://arxiv.org/abs/1810.04805) whose layers can cross-attend to the hidden states of an encoder.

    Args:
        config ([`LavisBertConfig`]): model configuration.
    """

    def __init__(self, config: LavisBertConfig) -> None:
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        if config.pair_image_layers:
            self._tied_weights_keys = shared_pair_projections(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embeddings."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.embeddings.word_embeddings = value

    def running_layers(self, mode: TextMode) -> range:
        """Numbers of the layers that run in a mode."""
        text_layers, layers = self.config.num_text_layers, self.config.num_hidden_layers
        return range(text_layers if mode == "fusion" else 0, text_layers if mode == "text" else layers)

    @accepts_cache
    @merge_with_config_defaults
    @_resolves_hidden_states
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
            input_ids (`Tensor` of shape `(R, T)`, *optional*): token ids.
            attention_mask (`Tensor` of shape `(R, T)`, *optional*): 1 for tokens, 0 for padding; with a cache,
                including the tokens in the cache. Without one, all are tokens, as in transformers' BERT; the heads mask
                pad tokens.
            token_type_ids (`Tensor` of shape `(R, T)`, *optional*): token types, for models with such embeddings.
            position_ids (`Tensor` of shape `(1 or R, T)`, *optional*): positions; by default they continue the cache.
            inputs_embeds (`Tensor` of shape `(R, T, D)`, *optional*): word embeddings instead of `input_ids`.
            text_embeds (`Tensor` of shape `(R, T, D)`, *optional*): hidden states that enter the first layer that runs,
                after the embedding layer; the input of mode `"fusion"`.
            encoder_hidden_states (`Tensor` of shape `(B, N, E)`, or a pair of them for two images, *optional*): encoder
                hidden states to attend to. With R a multiple of B, texts `i * R / B ...` share row `i`.
            encoder_attention_mask (`Tensor` of shape `(B, N)`, *optional*): padding mask of the encoder.
            encoder_index (`Tensor` of shape `(R,)`, *optional*): encoder row that each text attends to; keys and values
                are computed once per encoder row.
            past_key_values (`Cache`, *optional*): key/value cache of earlier tokens, and of the encoder with an
                `EncoderDecoderCache`.
            mode (`str`, *optional*, defaults to `"multimodal"`): `"text"` runs the layers below `fusion_layer` without
                cross-attention, `"fusion"` the layers above, `"multimodal"` all layers.
            causal (`bool`, *optional*, defaults to `False`): causal instead of bidirectional self-attention.
            first_token_only (`bool`, *optional*, defaults to `False`): compute only the first token in the last layer,
                for heads that use nothing else.

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
            # single tokens with a cache were generated by the model
            is_generated = past_key_values is not None and input_ids.shape[1] == 1
            check_input_ids(
                input_ids,
                attention_mask if past_key_values is None else None,
                None if is_generated else self.embeddings.word_embeddings.weight.shape[0],
            )
        self_cache = past_key_values
        if isinstance(past_key_values, EncoderDecoderCache):
            self_cache = past_key_values.self_attention_cache
        if text_embeds is None:
            past_length = self_cache.get_seq_length() if self_cache is not None else 0
            hidden_states = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, past_length)
        else:
            hidden_states = text_embeds

        if causal:
            mask = create_causal_mask(self.config, hidden_states, attention_mask, self_cache)
        else:
            mask = create_bidirectional_mask(self.config, hidden_states, attention_mask)
        if mode == "text":
            encoder_hidden_states = None
        groups = None
        if encoder_index is not None and encoder_hidden_states is not None:
            groups = group_rows(encoder_index, _first(encoder_hidden_states).shape[0])
        cross_mask = self._cross_mask(hidden_states, encoder_hidden_states, encoder_attention_mask, groups)

        layers = self.running_layers(mode)
        # A block mask of flex attention cannot be sliced to one row, so all tokens are computed there.
        skip_rest = first_token_only and (mask is None or torch.is_tensor(mask)) and len(layers) > 0
        for index in layers:
            layer = self.encoder.layer[index]
            # Reentrant activation checkpointing passes gradient through positional arguments only.
            hidden_states = layer(
                hidden_states,
                mask,
                *self._encoder_states_of_layer(encoder_hidden_states, index),
                encoder_attention_mask=cross_mask,
                encoder_index=groups,
                past_key_values=cache_of_layer(layer, past_key_values),
                is_causal=causal,
                num_queries=1 if skip_rest and index == layers[-1] else None,
                **kwargs,
            )
        if first_token_only:
            hidden_states = hidden_states[:, :1]
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states, **cache_output(past_key_values)
        )

    def _encoder_states_of_layer(
        self, encoder_hidden_states: Tensor | tuple[Tensor, Tensor] | None, layer: int
    ) -> tuple[Tensor | None, ...]:
        """One or two encoder hidden states that a layer attends to. With a pair of images and one image stream, fusion
        layers attend to the images in turn (ALBEF on NLVR2)."""
        if not isinstance(encoder_hidden_states, (tuple, list)):
            return (encoder_hidden_states,)
        if self.config.num_image_streams == 1:
            return (encoder_hidden_states[(layer - (self.config.fusion_layer or 0)) % len(encoder_hidden_states)],)
        return tuple(encoder_hidden_states)

    def _cross_mask(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | tuple[Tensor, Tensor] | None,
        encoder_attention_mask: Tensor | None,
        groups: RowGroups | RowCopies | None,
    ) -> Tensor | None:
        """Mask of the encoder tokens for the grouped queries of each encoder row; `None` without padding."""
        if encoder_attention_mask is None or encoder_hidden_states is None:
            return None
        rows = hidden_states.shape[0]
        if groups is not None:
            rows, encoder_attention_mask = groups.num_rows, groups.select(encoder_attention_mask)
        batch = encoder_attention_mask.shape[0]
        if rows % batch:
            raise ValueError(
                f"{rows} texts cannot share {batch} rows of encoder hidden states evenly; give the same number of "
                "texts for each row."
            )
        grouped = hidden_states.new_empty(batch, rows // batch * hidden_states.shape[1], 1)
        return create_bidirectional_mask(self.config, grouped, encoder_attention_mask, encoder_hidden_states=grouped)


def _first(states: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return states if isinstance(states, Tensor) else states[0]


class BertLMPredictionHead(nn.Module):
    """Logits over the vocabulary, `(..., D)` to `(..., vocab_size)`; the last layer is tied to the word embeddings."""

    def __init__(self, config: LavisBertConfig) -> None:
        super().__init__()
        self.transform = BertHeadTransform(config)
        self.decoder: nn.Linear = TunedLinear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.decoder(self.transform(hidden_states))


class BertHeadTransform(nn.Module):
    """Linear layer, activation and layer norm before the vocabulary."""

    def __init__(self, config: LavisBertConfig) -> None:
        super().__init__()
        self.dense = TunedLinear(config.hidden_size, config.hidden_size)
        self.act = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.LayerNorm(self.act(self.dense(hidden_states)))


class BertLMHead(nn.Module):
    """The prediction head, under the name that BERT checkpoints use."""

    def __init__(self, config: LavisBertConfig) -> None:
        super().__init__()
        self.predictions = BertLMPredictionHead(config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.predictions(hidden_states)


class LavisBertLMHeadModel(LavisBertPreTrainedModel):
    """
    [`LavisBertModel`] with a language modeling head: the causal decoder of BLIP and of ALBEF's answers, or, with
    `causal=False`, a masked language model.

    Args:
        config ([`LavisBertConfig`]): model configuration.
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
        """The language modeling head."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the language modeling head and its bias."""
        self.cls.predictions.decoder = value
        self.cls.predictions.bias = value.bias

    def forward(
        self, input_ids: Tensor | None = None, causal: bool = True, logits_to_keep: int | Tensor = 0, **kwargs: Any
    ) -> tuple[Tensor, BaseModelOutputWithPastAndCrossAttentions]:
        r"""
        Args:
            input_ids (`Tensor` of shape `(R, T)`, *optional*): token ids.
            causal (`bool`, *optional*, defaults to `True`): causal decoder, or masked language model with `False`.
            logits_to_keep (`int` or `Tensor`, *optional*, defaults to 0): number of last positions, or the positions,
                whose logits are computed; 0 for all.
            kwargs: as for [`LavisBertModel`].

        Returns:
            Logits `(R, T, vocab_size)` and the output of [`LavisBertModel`].
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
