# SPDX-License-Identifier: Apache-2.0
"""Modules that run exported graphs in the place of the modules of a head, with the same arguments and outputs.

Shapes: B images, R text rows, N image tokens, T text tokens, P tokens in the cache, Q query tokens, D hidden size.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions, BaseModelOutputWithPooling

from modeling_lavis.export.formats import FORMATS, Session
from modeling_lavis.export.manifest import GraphFile
from modeling_lavis.models.generation import shared_cross_attention_cache
from modeling_lavis.models.modeling_base import check_input_ids, check_text_length


class LazyGraph:
    """
    A graph that is opened by its first run, since a task rarely needs all graphs of a head.

    Args:
        folder (`Path`): the exported folder.
        file (`GraphFile`): the graph.
        format_name (`str`): its format.
    """

    def __init__(self, folder: Path, file: GraphFile, format_name: str) -> None:
        self.path = folder / file.file
        self.file = file
        self.open = FORMATS[format_name].open
        self.session: Session | None = None

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """
        Outputs by name, on the device of the first input.

        Raises:
            OSError: the file is damaged.
        """
        if self.session is None:
            self.session = self._opened()
        device = next(iter(inputs.values())).device
        given = {
            name: inputs[name].detach().to("cpu", getattr(torch, facts["dtype"])).contiguous()
            for name, facts in self.file.inputs.items()
        }
        return {name: output.to(device) for name, output in self.session.run(given).items()}

    def _opened(self) -> Session:
        try:
            return self.open(self.path, tuple(self.file.inputs), tuple(self.file.outputs))
        except MemoryError:
            raise
        except Exception as error:  # each engine has types of its own
            reason = " ".join(str(error).split())  # OpenVINO's has several lines
            raise OSError(
                f"{self.path} cannot be opened: {reason} Copy the folder again, or export the model again."
            ) from error


class SessionModule(nn.Module):
    """
    Base of the modules.

    Args:
        graphs (`dict[str, LazyGraph]`): the graphs of the module, by name.
        config (*optional*): configuration of the module.
    """

    def __init__(self, graphs: dict[str, LazyGraph], config: Any = None) -> None:
        super().__init__()
        self.graphs = graphs
        self.config = config

    def run_graph(self, name: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """
        Run one of the graphs.

        Raises:
            ValueError: the head does not use the module in this way, so that there is no such graph.
        """
        if name not in self.graphs:
            raise ValueError(
                f"This exported head has no graph for the call {name!r}; it has {', '.join(self.graphs)}. Load the "
                "model with from_pretrained for anything else."
            )
        return self.graphs[name].run(inputs)


def refuse(options: Mapping[str, Any]) -> None:
    """Raise `ValueError` for options that a graph does not have, such as recording attentions."""
    for name, value in options.items():
        if name in ("output_attentions", "output_hidden_states") and value:
            raise ValueError(
                f"An exported head has no {name}: only the last hidden states leave a graph. Load the model with "
                "from_pretrained for that."
            )


class SessionLayer(SessionModule):
    """A layer that maps hidden states token by token: `(..., D)` to `(..., outputs)`."""

    def __init__(self, graphs: dict[str, LazyGraph]) -> None:
        super().__init__(graphs)
        # heads convert hidden states to the dtype of a layer's weight
        self.register_buffer("weight", torch.empty(0), persistent=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        rows = self.run_graph("", {"hidden_states": hidden_states.reshape(-1, hidden_states.shape[-1])})["output"]
        return rows.reshape(*hidden_states.shape[:-1], -1)


class SessionVisionModel(SessionModule):
    """An image or video encoder."""

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any) -> Any:
        refuse(kwargs)
        graph, config = self.graphs[""], self.config
        ((name, facts),) = graph.file.inputs.items()
        expected = facts["shape"]
        fits = pixel_values.ndim == len(expected) and pixel_values.is_floating_point()
        if not fits or any(
            isinstance(size, int) and size != given for size, given in zip(expected, pixel_values.shape)
        ):
            raise ValueError(
                f"Got {name} of shape {tuple(pixel_values.shape)}, but the model was exported for "
                f"({', '.join(map(str, expected))}). Make them with the processor; for other image sizes, export with "
                "--image-size dynamic."
            )
        size = pixel_values.shape[-2:]
        other_frames = len(expected) == 5 and pixel_values.shape[1] != config.num_frames
        if (other_frames or tuple(size) != (config.image_size,) * 2) and not interpolate_pos_encoding:
            raise ValueError(
                f"Got {name} of shape {tuple(pixel_values.shape)}, but this model was built for {config.image_size} x "
                f"{config.image_size} pixels{f' and {config.num_frames} frames' if len(expected) == 5 else ''}. Resize "
                "them with the processor or pass interpolate_pos_encoding=True."
            )
        if any(length % config.patch_size for length in size):
            raise ValueError(
                f"Got images of {size[0]} x {size[1]} pixels; height and width have to be multiples of the patch size "
                f"{config.patch_size}."
            )
        states = graph.run({name: pixel_values})["last_hidden_state"]
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=states[:, 0])


class SessionTextEncoder(SessionModule):
    """A text encoder; arguments as for [`LavisBertModel`]."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        text_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | tuple[Tensor, Tensor] | None = None,
        encoder_index: Tensor | None = None,
        past_key_values: Cache | None = None,
        mode: str = "multimodal",
        first_token_only: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        refuse(kwargs)
        if input_ids is not None:
            check_texts(self.config, input_ids, attention_mask)
        texts: Any = input_ids if text_embeds is None else text_embeds
        if attention_mask is None:
            attention_mask = torch.ones(texts.shape[:2], dtype=torch.long, device=texts.device)
        if mode == "multimodal" and "fusion" in self.graphs:  # all layers are those of the text and of fusion
            texts = self.run_graph("text", {"input_ids": texts, "attention_mask": attention_mask})["last_hidden_state"]
            mode = "fusion"
        inputs = {"text_embeds" if mode == "fusion" else "input_ids": texts, "attention_mask": attention_mask}
        if mode != "text" and isinstance(encoder_hidden_states, tuple):
            names = ("encoder_hidden_states", "second_encoder_hidden_states")
            inputs.update(zip(names, encoder_hidden_states, strict=True))
        elif mode != "text" and encoder_hidden_states is not None:
            inputs["encoder_hidden_states"] = encoder_hidden_states
            inputs["encoder_index"] = rows_of_images(encoder_index, len(encoder_hidden_states), texts)
        states = self.run_graph(mode, inputs)["last_hidden_state"]
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=states[:, :1] if first_token_only else states
        )


def check_texts(config: Any, input_ids: Tensor, attention_mask: Tensor | None) -> None:
    """Raise `ValueError` for texts that the model refuses; engines read beyond their tables or have unclear errors."""
    check_input_ids(input_ids, attention_mask, config.vocab_size)
    check_text_length(input_ids.shape[1], config.max_position_embeddings)


def rows_of_images(index: Tensor | None, images: int, texts: Tensor) -> Tensor:
    """Image of each text `(R,)`: the one that is given, or as many texts for each image, in order."""
    if index is not None:
        return index
    rows = len(texts)
    if rows % images:
        raise ValueError(f"{rows} texts cannot share {images} images evenly; give the same number for each image.")
    return torch.arange(images, device=texts.device).repeat_interleave(rows // images)


class SessionDecoder(SessionModule):
    """A causal decoder with a cache, whose rows share the keys and values of their image or question."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        encoder_index: Tensor | None = None,
        past_key_values: Any = None,
        causal: bool = True,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        refuse(kwargs)
        if encoder_index is not None:
            raise ValueError("An exported head computes no training loss. Load the model with from_pretrained.")
        cache = shared_cross_attention_cache(self.config) if past_key_values is None else past_key_values
        layers = range(self.config.num_hidden_layers)
        if not cache.is_updated.get(0):
            new = self.run_graph("encoder", {"encoder_hidden_states": encoder_hidden_states})  # type: ignore[dict-item]
            for layer in layers:
                keys, values = new[f"encoder.{layer}.key"], new[f"encoder.{layer}.value"]
                cache.cross_attention_cache.update(keys, values, layer)
                cache.is_updated[layer] = True
        inputs = new_tokens(self.config, input_ids, attention_mask, position_ids, cache.self_attention_cache)
        for layer, entry in zip(layers, cache.cross_attention_cache.layers):
            inputs[f"encoder.{layer}.key"], inputs[f"encoder.{layer}.value"] = entry.keys, entry.values
        if "encoder_attention_mask" in self.graphs["step"].file.inputs:
            keys = inputs["encoder.0.key"]
            if encoder_attention_mask is None:
                encoder_attention_mask = torch.ones(keys.shape[0], keys.shape[2], dtype=torch.long, device=keys.device)
            inputs["encoder_attention_mask"] = encoder_attention_mask
        outputs = self.run_graph("step", inputs)
        extend(cache.self_attention_cache, outputs, layers)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=outputs["last_hidden_state"])


def new_tokens(
    config: Any, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, cache: Any
) -> dict[str, Tensor]:
    """Inputs of a step: new tokens `(R, T)`, mask `(R, P + T)`, positions `(R, T)`, and the cache's keys and values."""
    rows, count = input_ids.shape
    past = int(cache.get_seq_length())
    check_input_ids(input_ids, vocab_size=config.vocab_size)
    if attention_mask is None:
        attention_mask = torch.ones(rows, past + count, dtype=torch.long, device=input_ids.device)
    if attention_mask.shape != (rows, past + count):  # four dimensions with a static cache
        raise ValueError(
            f"Got an attention_mask of shape {tuple(attention_mask.shape)} for {rows} texts of {past + count} tokens, "
            "those in the cache included. An exported head takes one value per token, and continues a dynamic cache: "
            "leave cache_implementation out."
        )
    if position_ids is None:
        position_ids = torch.arange(past, past + count, device=input_ids.device)[None]
    check_text_length(int(position_ids.max()) + 1, config.max_position_embeddings)
    inputs = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": position_ids.expand(rows, count),
    }
    heads = config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        if past:
            states: Any = (cache.layers[layer].keys, cache.layers[layer].values)
            if states[0].shape[2] != past:
                raise ValueError(
                    f"An exported head continues a dynamic cache, not {type(cache.layers[layer]).__name__}; leave "
                    "cache_implementation out."
                )
        else:
            states = [torch.empty(rows, heads, 0, config.hidden_size // heads, device=input_ids.device)] * 2
        inputs[f"past.{layer}.key"], inputs[f"past.{layer}.value"] = states
    return inputs


def extend(cache: Any, outputs: Mapping[str, Tensor], layers: range) -> None:
    """Append the keys and values of new tokens to a cache."""
    for layer in layers:
        cache.update(outputs[f"new.{layer}.key"], outputs[f"new.{layer}.value"], layer)


class SessionQFormer(SessionModule):
    """A Q-Former; arguments as for [`LavisQFormerModel`]."""

    def forward(
        self,
        query_embeds: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_index: Tensor | None = None,
        text_index: Tensor | None = None,
        past_key_values: Any = None,
        causal: bool = False,
        queries_only: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        refuse(kwargs)
        cache = None if isinstance(past_key_values, EncoderDecoderCache) else past_key_values
        if input_ids is None:
            states = self._queries(query_embeds, encoder_hidden_states, cache)
        elif query_embeds is None and cache is not None:
            states = self._step(input_ids, attention_mask, position_ids, cache)
        else:
            states = self._texts(
                query_embeds, input_ids, attention_mask, encoder_hidden_states, encoder_index, text_index
            )
        if queries_only and query_embeds is not None:
            states = states[:, : query_embeds.shape[1]]
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states)

    def _queries(
        self, query_embeds: Tensor | None, encoder_hidden_states: Tensor | None, cache: DynamicCache | None
    ) -> Tensor:
        """Hidden states of query tokens, whose keys and values go into the cache for the captions after them."""
        if query_embeds is None or encoder_hidden_states is None:
            raise ValueError("The Q-Former needs query_embeds with encoder_hidden_states, or input_ids.")
        inputs = {"query_embeds": query_embeds, "encoder_hidden_states": encoder_hidden_states}
        outputs = self.run_graph("queries", inputs)
        if cache is not None:
            extend(cache, outputs, range(self.config.num_hidden_layers))
        return outputs["last_hidden_state"]

    def _texts(
        self,
        query_embeds: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        encoder_hidden_states: Tensor | None,
        encoder_index: Tensor | None,
        text_index: Tensor | None,
    ) -> Tensor:
        """Hidden states of texts, with the query tokens of their images or alone."""
        check_texts(self.config, input_ids, attention_mask)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if query_embeds is not None:
            inputs["query_embeds"] = query_embeds
        if text_index is not None:
            inputs = {name: rows[text_index] for name, rows in inputs.items()}
        if query_embeds is not None and encoder_hidden_states is not None:
            images = len(encoder_hidden_states)
            inputs["encoder_hidden_states"] = encoder_hidden_states
            inputs["encoder_index"] = rows_of_images(encoder_index, images, inputs["input_ids"])
        return self.run_graph("text" if query_embeds is None else "multimodal", inputs)["last_hidden_state"]

    def _step(
        self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, cache: DynamicCache
    ) -> Tensor:
        """Hidden states of new tokens of captions, after the query tokens and earlier tokens of the cache."""
        queries, past = self.config.num_query_tokens, int(cache.get_seq_length())
        total = past + input_ids.shape[1]
        # the mask has columns for the query tokens, and positions do not count them
        if attention_mask is not None and attention_mask.shape[1:] == (total - queries,):
            ones = attention_mask.new_ones(len(attention_mask), queries)
            attention_mask = torch.cat([ones, attention_mask], dim=1)
        if position_ids is None:
            position_ids = torch.arange(past - queries, total - queries, device=input_ids.device)[None]
        outputs = self.run_graph("step", new_tokens(self.config, input_ids, attention_mask, position_ids, cache))
        extend(cache, outputs, range(self.config.num_hidden_layers))
        return outputs["last_hidden_state"]


__all__ = [
    "LazyGraph",
    "SessionDecoder",
    "SessionLayer",
    "SessionModule",
    "SessionQFormer",
    "SessionTextEncoder",
    "SessionVisionModel",
]
