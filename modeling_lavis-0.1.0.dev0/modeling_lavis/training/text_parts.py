# SPDX-License-Identifier: Apache-2.0
"""Text encoders and decoders of new models from a BERT or RoBERTa of transformers, in any language, or from a BLIP.

Features without images stay the same: the embedding of token type 0, which BERT adds to every token, becomes part of
the position embeddings where the new model has no token types, and RoBERTa's position embeddings are shifted to start
at its first position. Cross-attention is new, unless the source is a BLIP, which has it.

Shapes: V vocabulary size, D hidden size.
"""

import os
import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer

from modeling_lavis.embedded import embedded_model_path
from modeling_lavis.models.configuration_text import LavisBertConfig
from modeling_lavis.models.head_loading import read_weights
from modeling_lavis.training.transfers import Transfer, Value, fill

_MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert")
#: name of the model that is part of the package
EMBEDDED = "embedded"
_OWN, _OWN_TYPE = "text_encoder.", "lavis_bert"
_PREFIX = re.compile(r"^(bert|roberta|model)\.")
_ROBERTA_HEAD = {
    "lm_head.dense.": "cls.predictions.transform.dense.",
    "lm_head.layer_norm.": "cls.predictions.transform.LayerNorm.",
    "lm_head.decoder.": "cls.predictions.decoder.",
    "lm_head.bias": "cls.predictions.bias",
}
_UNUSED = {
    r"^pooler\.": "no head uses the pooler",
    r"^cls\.seq_relationship\.": "no head predicts the next sentence",
    r"^(classifier|qa_outputs|dropout)\.": "the head of another task",
    r"position_ids$|token_type_ids$": "constants",
}
_WORDS, _POSITIONS = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
_TYPES = "embeddings.token_type_embeddings.weight"
_NEW_IMAGE_ATTENTION = {"crossattention": "new: attention to images or questions"}
_HEAD = {
    r"predictions\.decoder\.": "tied to the word embeddings and the bias",
    r"predictions\.": "new: the source has no language modeling head",
}


@dataclass(frozen=True)
class TextPart:
    """
    A text encoder to start from.

    Args:
        what (`str`): its name, for messages.
        config (`dict[str, Any]`): fields of a text configuration.
        state (`dict[str, Tensor]`): its weights, under the names of [`LavisBertModel`], and `cls.` for those of the
            language modeling head if there is one.
    """

    what: str
    config: dict[str, Any]
    state: dict[str, Tensor]


def part_folder(source: Any) -> Any:
    """The folder of the model that is part of the package for `"embedded"`; every other source as it is."""
    return embedded_model_path() if source == EMBEDDED else source


def read_text_part(source: Any) -> TextPart:
    """
    Read a text encoder.

    Args:
        source (`str`, `os.PathLike` or `PreTrainedModel`): folder or Hub id, or a model. Of a BLIP of this package,
            the text encoder with its attention to images; `"embedded"` for the one that is part of the package.

    Raises:
        ValueError: it is not a BERT, a RoBERTa or a BLIP of this package with a text encoder.
        OSError: it cannot be read.
    """
    if isinstance(source, (str, os.PathLike)):
        source = part_folder(source)
        what, config = os.fspath(source), AutoConfig.from_pretrained(source)
        config = _check_config(config, what)
        raw = read_weights(source, {})
    else:
        what, config = f"The {type(source).__name__}", getattr(source, "config", None)
        config = _check_config(config, what)
        raw = source.state_dict()
    if config.model_type == _OWN_TYPE:
        raw = {name.removeprefix(_OWN): tensor for name, tensor in raw.items() if name.startswith(_OWN)}
        if not raw:
            raise ValueError(f"{what} has no text encoder; give one of the models of BLIP that have one.")
    state = {}
    for name, tensor in raw.items():
        name = _PREFIX.sub("", name)
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))
        for old, new in _ROBERTA_HEAD.items():
            name = new + name.removeprefix(old) if name.startswith(old) else name
        state[name] = tensor
    fields = {
        name: getattr(config, name)
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "hidden_act",
            "layer_norm_eps",
            "max_position_embeddings",
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "initializer_range",
            "pad_token_id",
        )
    }
    if config.model_type not in ("bert", _OWN_TYPE):
        first = config.pad_token_id + 1  # RoBERTa counts positions from there
        state[_POSITIONS] = state[_POSITIONS][first:]
        fields["max_position_embeddings"] -= first
    return TextPart(what, fields, state)


def _check_config(config: Any, what: str) -> Any:
    """The configuration of the text encoder."""
    kind = getattr(config, "model_type", None)
    if kind == "lavis_blip":
        return config.text_config
    if kind not in _MODEL_TYPES:
        known = ", ".join((*_MODEL_TYPES, "lavis_blip"))
        raise ValueError(f"{what} has the model type {kind!r}; expected one of {known}.")
    positions = getattr(config, "position_embedding_type", "absolute")
    if positions not in (None, "absolute"):
        raise ValueError(f"{what} has position_embedding_type {positions!r}; expected 'absolute'.")
    return config


def load_tokenizer(source: Any) -> Any:
    """The tokenizer of a folder or Hub id, or of the embedded model."""
    return AutoTokenizer.from_pretrained(part_folder(source))


def fill_text(module: nn.Module, part: TextPart, layers: list[int], is_decoder: bool = False) -> Transfer:
    """
    Fill a text encoder or decoder, or the text side of a Q-Former.

    Args:
        module (`nn.Module`): part of the new model, with names of [`LavisBertModel`], or `bert.` and `cls.` before them
            in a decoder; changed in-place.
        part ([`TextPart`]): text encoder to start from.
        layers (`list[int]`): for each layer of the module, the layer of the source that it starts from.
        is_decoder (`bool`, *optional*, defaults to `False`): whether the module has a language modeling head.

    Raises:
        ValueError: a weight does not fit, or is without use.
    """
    prefix = "bert." if is_decoder else ""
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    has_words, has_types = f"{prefix}{_WORDS}" in names, f"{prefix}{_TYPES}" in names
    values, dropped = {}, dict(_UNUSED)
    for name in names:
        key = name.removeprefix(prefix)
        found = re.match(r"encoder\.layer\.(\d+)\.(.*)", key)
        if found:
            inner = re.sub(r"^(intermediate|output)_query\.", r"\1.", found[2])
            key = f"encoder.layer.{layers[int(found[1])]}.{inner}"
        if key in part.state and "predictions.decoder." not in key:
            values[name] = Value(part.state[key], (key,))
    if f"{prefix}{_POSITIONS}" in names:
        # a table of fewer positions is enough for shorter texts
        config: LavisBertConfig = module.config  # type: ignore[assignment]
        positions = part.state[_POSITIONS][: config.max_position_embeddings]
        sources: tuple[str, ...] = (_POSITIONS,)
        if _TYPES in part.state and not has_types:
            positions, sources = positions + part.state[_TYPES][0], (_POSITIONS, _TYPES)
        values[f"{prefix}{_POSITIONS}"] = Value(positions, sources)
    if has_types and _TYPES in part.state:
        types = part.state[_TYPES]
        rows = module.get_parameter(f"{prefix}{_TYPES}").shape[0]
        values[f"{prefix}{_TYPES}"] = Value(types.expand(rows, -1) if len(types) == 1 else types[:rows], (_TYPES,))
    if not has_words:
        dropped[r"^embeddings\.(word|position|token_type)_"] = "a Q-Former without text has no such embeddings"
        dropped[r"^embeddings\."] = dropped[r"^embeddings\.(word|position|token_type)_"]
    dropped |= {
        f"^encoder\\.layer\\.{found[1]}\\.": "a layer that is not used"
        for name in part.state
        if (found := re.match(r"encoder\.layer\.(\d+)\.", name)) and int(found[1]) not in layers
    }
    if not is_decoder:
        dropped[r"^cls\."] = "the head has no language modeling head here"
    else:
        dropped[r"^cls\.predictions\.decoder\."] = "tied"
    new = {**_NEW_IMAGE_ATTENTION, **(_HEAD if is_decoder else {})}
    return fill(module, values, new, part.state, dropped, part.what)


def fill_head(module: nn.Module, part: TextPart) -> Transfer:
    """Fill a language modeling head beside the text encoder, whose names begin with `predictions.`."""
    values = {
        name: Value(part.state[f"cls.{name}"], (f"cls.{name}",))
        for name, _ in module.named_parameters(remove_duplicate=False)
        if f"cls.{name}" in part.state and "decoder" not in name
    }
    dropped = {**_UNUSED, r"^(embeddings|encoder)\.": "in the text encoder", r"^cls\.predictions\.decoder\.": "tied"}
    return fill(module, values, _HEAD, part.state, dropped, part.what)


__all__ = ["EMBEDDED", "TextPart", "fill_head", "fill_text", "load_tokenizer", "part_folder", "read_text_part"]
