# SPDX-License-Identifier: Apache-2.0
"""The graphs that a head is exported as: one or several for each of its modules, found by the module's class.

Every graph is a thin module around one of the head's own, with tensors as inputs and outputs, examples to trace it
with, and names for the sizes that stay open. What is between the modules (special tokens, normalization of features,
generation, ranking) is not exported: [`modeling_lavis.export.load_exported`] uses the head's own code for it.

Shapes: B images, R text rows, N image tokens, T text tokens, P tokens in the cache, Q query tokens, D hidden size, E
hidden size of the encoder that is attended to, h heads, d head dimension.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from modeling_lavis.models.generation import shared_cross_attention_cache
from modeling_lavis.models.qformer import LavisQFormerModel
from modeling_lavis.models.text_bert import BertCrossAttentionBlock, BertLMHead, LavisBertLMHeadModel, LavisBertModel
from modeling_lavis.models.vision_timesformer import LavisTimesformerModel
from modeling_lavis.models.vision_vit import LavisViTModel

# Sizes of the examples: all different, so that no two open sizes are taken for one, and none is 0 or 1.
_IMAGES, _TEXTS_PER_IMAGE, _TOKENS, _PAST, _IMAGE_TOKENS, _FRAMES = 2, 3, 5, 7, 11, 3
_TEXTS = _IMAGES * _TEXTS_PER_IMAGE
#: modules that map hidden states to hidden states, token by token
_LAYERS = (nn.Linear, nn.LayerNorm, nn.Sequential, BertLMHead)


@dataclass(frozen=True)
class Input:
    """
    An input of a graph.

    Args:
        example (`Tensor`): the input that the graph is traced with.
        open_sizes (mapping from `int` to `str`): names of the dimensions whose size can change.
    """

    example: Tensor
    open_sizes: Mapping[int, str]


@dataclass(frozen=True)
class Graph:
    """
    A graph of a head.

    Args:
        module_name (`str`): the module of the head that it computes, for example `"text_decoder.bert"`.
        name (`str`): name among the graphs of this module, empty for its only one.
        module (`nn.Module`): what is traced; takes the inputs in order and returns a tuple.
        inputs (`dict[str, Input]`): the inputs.
        outputs (`tuple[str, ...]`): names of the outputs.
    """

    module_name: str
    name: str
    module: nn.Module
    inputs: dict[str, Input]
    outputs: tuple[str, ...]

    @property
    def full_name(self) -> str:
        """Name in the folder, for example `"text_decoder.bert.step"`."""
        return f"{self.module_name}.{self.name}" if self.name else self.module_name


def graphs_of(model: Any, dynamic_image_size: bool = False) -> Iterator[Graph]:
    """
    The graphs of a head.

    Args:
        model (`PreTrainedModel`): the head.
        dynamic_image_size (`bool`, *optional*, defaults to `False`): whether images of every size can be encoded.

    Raises:
        ValueError: a module of the head cannot be exported.
    """
    for name, module in model.named_children():
        if name.endswith("_m"):  # momentum encoders, which only training uses
            continue
        if isinstance(module, LavisViTModel):
            yield _vision_graph(name, module, dynamic_image_size)
        elif isinstance(module, LavisBertModel):
            yield from _text_encoder_graphs(name, module, compares_texts=hasattr(model, "text_proj"))
        elif isinstance(module, LavisBertLMHeadModel):
            # answers attend to questions, which can be padded, and captions to images, which are not
            yield from _decoder_graphs(f"{name}.bert", module.bert, masks_encoder=hasattr(model, "encode_questions"))
            yield _layer_graph(f"{name}.cls", module.cls, module.config.hidden_size)
        elif isinstance(module, LavisQFormerModel):
            yield from _qformer_graphs(name, module, captions=hasattr(model, "cls"))
        elif isinstance(module, _LAYERS):
            yield _layer_graph(name, module, _input_size(module))
        elif name != "language_model":
            raise ValueError(
                f"{type(model).__name__} has the module {name!r} ({type(module).__name__}), which cannot be exported; "
                "heads of this package that are exported consist of image, video and text encoders, decoders, "
                "Q-Formers and linear layers."
            )


class _GraphModule(nn.Module):
    """Base of what is traced: holds the module of the head."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner: Any = inner


# ---- images and videos ----


class _VisionGraph(_GraphModule):
    def __init__(self, inner: nn.Module, interpolates: bool) -> None:
        super().__init__(inner)
        self.interpolates = interpolates

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.inner(inputs[0], interpolate_pos_encoding=self.interpolates).last_hidden_state,)


def _vision_graph(name: str, module: LavisViTModel, dynamic_image_size: bool) -> Graph:
    config = module.config
    is_video = isinstance(module, LavisTimesformerModel)
    # With open sizes, another number of patches than the weights have in both directions.
    rows, columns = (config.image_size, config.image_size)
    if dynamic_image_size:
        rows, columns = rows + config.patch_size, columns + 2 * config.patch_size
    shape: tuple[int, ...] = (_IMAGES, config.num_channels, rows, columns)
    sizes = {0: "videos" if is_video else "images"}
    if is_video:
        shape = (_IMAGES, _FRAMES + (_FRAMES == config.num_frames), *shape[1:])
        sizes[1] = "frames"
    if dynamic_image_size:
        sizes.update({len(shape) - 2: "height", len(shape) - 1: "width"})
    traced = _VisionGraph(module, interpolates=dynamic_image_size or is_video)
    inputs = {module.main_input_name: Input(torch.rand(shape), sizes)}
    return Graph(name, "", traced, inputs, ("last_hidden_state",))


# ---- text encoders ----


class _TextEncoderGraph(_GraphModule):
    """Texts alone (mode `"text"`), or with one or two images that they cross-attend to."""

    def __init__(self, inner: nn.Module, mode: str) -> None:
        super().__init__(inner)
        self.mode = mode

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        texts, attention_mask, *images = inputs
        given: dict[str, Any] = {"text_embeds" if self.mode == "fusion" else "input_ids": texts}
        if len(images) == 2 and images[1].ndim == 3:
            given["encoder_hidden_states"] = tuple(images)
        elif images:
            given["encoder_hidden_states"], given["encoder_index"] = images
        return (self.inner(attention_mask=attention_mask, mode=self.mode, **given).last_hidden_state,)


def _text_encoder_graphs(name: str, module: LavisBertModel, compares_texts: bool) -> Iterator[Graph]:
    config = module.config
    images: dict[str, Input] = {}
    states = torch.rand(_IMAGES, _IMAGE_TOKENS, config.encoder_hidden_size or config.hidden_size)
    if config.num_image_streams == 2 or config.pair_image_layers:
        sizes = {0: "texts", 1: "image_tokens"}
        states = torch.rand(_TEXTS, *states.shape[1:])
        images = {
            "encoder_hidden_states": Input(states, sizes),
            "second_encoder_hidden_states": Input(states.flip(0), sizes),
        }
    elif config.has_cross_attention(config.num_hidden_layers - 1):
        images = {
            "encoder_hidden_states": Input(states, {0: "images", 1: "image_tokens"}),
            "encoder_index": Input(torch.arange(_TEXTS) % _IMAGES, {0: "texts"}),
        }
    separate = config.fusion_layer is not None  # fusion starts from the hidden states of the text encoder
    if separate or compares_texts:
        yield Graph(name, "text", _TextEncoderGraph(module, "text"), _texts(config), ("last_hidden_state",))
    texts = _texts(config)
    if separate:
        embeds = Input(torch.rand(_TEXTS, _TOKENS, config.hidden_size), {0: "texts", 1: "tokens"})
        texts = {"text_embeds": embeds, "attention_mask": texts["attention_mask"]}
    mode = "fusion" if separate else "multimodal"
    yield Graph(name, mode, _TextEncoderGraph(module, mode), {**texts, **images}, ("last_hidden_state",))


def _texts(config: Any) -> dict[str, Input]:
    ids = torch.arange(_TEXTS * _TOKENS).view(_TEXTS, _TOKENS) % config.vocab_size
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    sizes = {0: "texts", 1: "tokens"}
    return {"input_ids": Input(ids, sizes), "attention_mask": Input(mask, sizes)}


# ---- decoders with cross-attention ----


class _EncoderKeysValues(_GraphModule):
    """Keys and values of the encoder's hidden states in all layers."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        blocks = [part for part in self.inner.modules() if isinstance(part, BertCrossAttentionBlock)]
        return tuple(states for block in blocks for states in block.self.project(inputs[0]))


class _DecoderStep(_GraphModule):
    """New tokens after those of the cache, which may be none; returns hidden states, and their keys and values."""

    def __init__(self, inner: nn.Module, masks_encoder: bool) -> None:
        super().__init__(inner)
        self.masks_encoder = masks_encoder

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        input_ids, attention_mask, position_ids, *rest = inputs
        encoder_mask = rest.pop(0) if self.masks_encoder else None
        layers = self.inner.config.num_hidden_layers
        cache = shared_cross_attention_cache(self.inner.config)
        for layer in range(layers):
            cache.self_attention_cache.update(rest[2 * layer], rest[2 * layer + 1], layer)
            keys, values = rest[2 * (layers + layer) : 2 * (layers + layer) + 2]
            cache.cross_attention_cache.update(keys, values, layer)
            cache.is_updated[layer] = True
        output = self.inner(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            # only its number of rows is read, because its keys and values are in the cache
            encoder_hidden_states=cache.cross_attention_cache.layers[0].keys,
            encoder_attention_mask=encoder_mask,
            past_key_values=cache,
            causal=True,
        )
        return output.last_hidden_state, *_new_keys_values(cache.self_attention_cache, input_ids.shape[1])


def _new_keys_values(cache: Any, count: int) -> tuple[Tensor, ...]:
    """Keys and values of the last `count` tokens, layer by layer."""
    return tuple(states[:, :, -count:] for layer in cache.layers for states in (layer.keys, layer.values))


def _decoder_graphs(name: str, module: LavisBertModel, masks_encoder: bool) -> Iterator[Graph]:
    config = module.config
    states = torch.rand(_IMAGES, _IMAGE_TOKENS, config.encoder_hidden_size or config.hidden_size)
    sizes = {0: "images", 1: "image_tokens"}
    encoder = _layer_names("encoder", config)
    yield Graph(
        name, "encoder", _EncoderKeysValues(module), {"encoder_hidden_states": Input(states, sizes)}, tuple(encoder)
    )
    inputs = _new_tokens(config)
    if masks_encoder:
        mask = torch.ones(_IMAGES, _IMAGE_TOKENS, dtype=torch.long)
        mask[0, -2:] = 0
        inputs["encoder_attention_mask"] = Input(mask, sizes)
    inputs.update(_cached(config, "past", _TEXTS, _PAST, {0: "texts", 2: "past_tokens"}))
    inputs.update(_cached(config, "encoder", _IMAGES, _IMAGE_TOKENS, {0: "images", 2: "image_tokens"}))
    outputs = ("last_hidden_state", *_layer_names("new", config))
    yield Graph(name, "step", _DecoderStep(module, masks_encoder), inputs, outputs)


def _new_tokens(config: Any, past: int = _PAST) -> dict[str, Input]:
    """Tokens that follow `past` others: ids, mask of all tokens, positions."""
    ids = _texts(config)["input_ids"]
    mask = torch.ones(_TEXTS, past + _TOKENS, dtype=torch.long)
    mask[0, :2] = 0
    positions = torch.arange(_TOKENS).expand(_TEXTS, -1).contiguous()
    return {
        "input_ids": ids,
        "attention_mask": Input(mask, {0: "texts", 1: "all_tokens"}),
        "position_ids": Input(positions, {0: "texts", 1: "tokens"}),
    }


def _layer_names(prefix: str, config: Any) -> list[str]:
    return [f"{prefix}.{layer}.{kind}" for layer in range(config.num_hidden_layers) for kind in ("key", "value")]


def _cached(config: Any, prefix: str, rows: int, tokens: int, sizes: Mapping[int, str]) -> dict[str, Input]:
    """Keys and values `(rows, h, tokens, d)` of all layers."""
    heads = config.num_attention_heads
    shape = (rows, heads, tokens, config.hidden_size // heads)
    return {name: Input(torch.rand(shape), sizes) for name in _layer_names(prefix, config)}


# ---- Q-Former ----


class _QueryGraph(_GraphModule):
    """Query tokens of images, with their keys and values if captions follow them."""

    def __init__(self, inner: nn.Module, captions: bool) -> None:
        super().__init__(inner)
        self.captions = captions

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        query_embeds, encoder_hidden_states = inputs
        cache = DynamicCache(config=self.inner.config) if self.captions else None
        output = self.inner(
            query_embeds=query_embeds, encoder_hidden_states=encoder_hidden_states, past_key_values=cache
        )
        return output.last_hidden_state, *(() if cache is None else _new_keys_values(cache, query_embeds.shape[1]))


class _QueryTextGraph(_GraphModule):
    """Query tokens and texts together."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        names = ("query_embeds", "input_ids", "attention_mask", "encoder_hidden_states", "encoder_index")
        return (self.inner(**dict(zip(names, inputs, strict=True))).last_hidden_state,)


class _QFormerTextGraph(_GraphModule):
    """Texts without query tokens."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.inner(input_ids=inputs[0], attention_mask=inputs[1]).last_hidden_state,)


class _QFormerStep(_GraphModule):
    """New tokens of a caption after query tokens and earlier tokens, which are in the cache."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        input_ids, attention_mask, position_ids, *past = inputs
        cache = DynamicCache(config=self.inner.config)
        for layer in range(self.inner.config.num_hidden_layers):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        output = self.inner(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            causal=True,
        )
        return output.last_hidden_state, *_new_keys_values(cache, input_ids.shape[1])


def _qformer_graphs(name: str, module: LavisQFormerModel, captions: bool) -> Iterator[Graph]:
    config = module.config
    states = torch.rand(_IMAGES, _IMAGE_TOKENS, config.encoder_hidden_size or config.hidden_size)
    images = {"encoder_hidden_states": Input(states, {0: "images", 1: "image_tokens"})}
    queries = torch.rand(_IMAGES, config.num_query_tokens, config.hidden_size)
    keys_values = tuple(_layer_names("new", config)) if captions else ()
    yield Graph(
        name,
        "queries",
        _QueryGraph(module, captions),
        {"query_embeds": Input(queries, {0: "images"}), **images},
        ("last_hidden_state", *keys_values),
    )
    if not config.use_text:
        return
    texts = _texts(config)
    yield Graph(name, "text", _QFormerTextGraph(module), texts, ("last_hidden_state",))
    pairs = {
        "query_embeds": Input(torch.rand(_TEXTS, *queries.shape[1:]), {0: "texts"}),
        **texts,
        **images,
        "encoder_index": Input(torch.arange(_TEXTS) % _IMAGES, {0: "texts"}),
    }
    yield Graph(name, "multimodal", _QueryTextGraph(module), pairs, ("last_hidden_state",))
    if captions:
        past = config.num_query_tokens + _PAST
        inputs = _new_tokens(config, past)
        inputs.update(_cached(config, "past", _TEXTS, past, {0: "texts", 2: "past_tokens"}))
        yield Graph(name, "step", _QFormerStep(module), inputs, ("last_hidden_state", *keys_values))


# ---- layers ----


class _LayerGraph(_GraphModule):
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.inner(inputs[0]),)


def _layer_graph(name: str, module: nn.Module, size: int) -> Graph:
    return Graph(
        name, "", _LayerGraph(module), {"hidden_states": Input(torch.rand(_TEXTS, size), {0: "rows"})}, ("output",)
    )


def _input_size(module: nn.Module) -> int:
    """Size of the hidden states that a layer takes."""
    if isinstance(module, nn.LayerNorm):
        return int(module.normalized_shape[0])
    if isinstance(module, BertLMHead):
        return module.predictions.transform.dense.in_features
    first: Any = module[0] if isinstance(module, nn.Sequential) else module
    return first.in_features


__all__ = ["Graph", "Input", "graphs_of"]
