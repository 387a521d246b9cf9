# SPDX-License-Identifier: Apache-2.0
"""From settings and shapes to configurations: the parts shared by the families with a ViT and a BERT.

Settings have the form of `tests/goldens/*/config.json`: sections such as `vision` and `text`, and entries such as
`embed_dim`, `queue_size` and `max_txt_len`.
"""

from collections.abc import Mapping
from typing import Any

from modeling_lavis.hub.setting_checks import MAX_CLASSES
from modeling_lavis.hub.shapes import (
    Shapes,
    merge_sizes,
    num_heads,
    size_of,
    text_sizes,
    vision_sizes,
    with_intermediate_size,
)

CAPTION_DEFAULTS = {"num_beams": 3, "max_length": 30, "min_length": 10}
ANSWER_DEFAULTS = {"num_beams": 3, "max_length": 10, "min_length": 1}

_LARGE_DEPTH = 24
_LARGE_DROP_PATH = 0.1
# Options other than sizes: name in the settings -> name in our configurations.
VISION_OPTIONS = {name: name for name in ("layer_norm_eps", "drop_path_rate")}
TEXT_OPTIONS = {
    name: name
    for name in (
        "hidden_act",
        "layer_norm_eps",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "initializer_range",
    )
}
TOP_OPTIONS = {
    "temp": "logit_temperature",
    "momentum": "momentum",
    "alpha": "alpha",
    "use_momentum": "use_momentum",
    "use_distill": "use_distill",
    "label_smoothing": "label_smoothing",
}
KNOWN_VISION = frozenset(
    {
        "image_size",
        "patch_size",
        "hidden_size",
        "intermediate_size",
        "depth",
        "num_heads",
        "mlp_ratio",
        *VISION_OPTIONS,
    }
)
KNOWN_TEXT = frozenset(
    {
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "pad_token_id",
        "encoder_width",
        "add_type_embeddings",
        "add_cross_attention",
        *TEXT_OPTIONS,
    }
)
KNOWN_SETTINGS = frozenset(
    {
        *TOP_OPTIONS,
        "arch",
        "family",
        "vision",
        "text",
        "embed_dim",
        "queue_size",
        "num_classes",
        "labels",
        "max_txt_len",
        "reset_queue_ptr_after_load",
    }
)


def section(settings: Mapping[str, Any], name: str, known: frozenset[str]) -> dict[str, Any]:
    """
    Return a copy of a section of the settings.

    Raises:
        ValueError: If the section is not a mapping, or has unknown entries.
    """
    section = settings.get(name) or {}
    if not isinstance(section, Mapping):
        raise ValueError(f"The section {name!r} of the configuration is {section!r}, expected a JSON object.")
    unknown = sorted(set(section) - known)
    if unknown:
        raise ValueError(
            f"The section {name!r} of the configuration has unknown entries {', '.join(unknown)}; known are "
            f"{', '.join(sorted(known))}."
        )
    return dict(section)


def options_of(settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the options that are set, by their names in our configurations."""
    return {ours: settings[name] for name, ours in names.items() if settings.get(name) is not None}


def vision_config(shapes: Shapes, requested: dict[str, Any], prefix: str = "visual_encoder.") -> dict[str, Any]:
    """
    Return the fields of a `LavisViTConfig`.

    Args:
        shapes (`Mapping[str, tuple[int, ...]]`): shapes of the checkpoint's weights.
        requested (`dict[str, Any]`): the `vision` section of the settings.
        prefix (`str`, *optional*, defaults to `"visual_encoder."`): prefix of the encoder's keys.

    Raises:
        ValueError: If the requested sizes do not fit the checkpoint.
    """
    inferred = vision_sizes(shapes, prefix)
    requested = with_intermediate_size(requested, inferred["hidden_size"])
    sizes = merge_sizes("vision", inferred, requested, overridable=frozenset({"image_size"}))
    config = {
        "image_size": sizes["image_size"],
        "patch_size": sizes["patch_size"],
        "hidden_size": sizes["hidden_size"],
        "num_hidden_layers": sizes["depth"],
        "num_attention_heads": num_heads(sizes["hidden_size"], requested.get("num_heads"), "vision", "num_heads"),
        "intermediate_size": sizes["intermediate_size"],
    }
    if sizes["depth"] == _LARGE_DEPTH:
        config["drop_path_rate"] = _LARGE_DROP_PATH  # parity: the original hard-codes this rate for ViT-L
    return config | options_of(requested, VISION_OPTIONS)


def text_config(
    shapes: Shapes,
    prefix: str,
    requested: dict[str, Any],
    encoder_hidden_size: int,
    cross_attention_key: str | None = None,
    overridable: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """
    Return the fields of a `LavisBertConfig`.

    Args:
        shapes (`Mapping[str, tuple[int, ...]]`): shapes of the checkpoint's weights.
        prefix (`str`): prefix of the encoder's keys.
        requested (`dict[str, Any]`): the `text` section of the settings.
        encoder_hidden_size (`int`): hidden size of the states that the cross-attention layers attend to.
        cross_attention_key (`str`, *optional*): key of a cross-attention projection of those states, whose input size
            is checked. `None` if there is none.
        overridable (`frozenset[str]`, *optional*, defaults to `frozenset()`): sizes that may differ from those of the
            checkpoint.

    Raises:
        ValueError: If sizes do not fit each other or the settings.
    """
    inferred = text_sizes(shapes, prefix)
    sizes = merge_sizes("text", inferred, requested, overridable=overridable)
    if cross_attention_key is not None and size_of(shapes, cross_attention_key, 1) != encoder_hidden_size:
        raise ValueError(
            f"The text layers attend to hidden states of size {size_of(shapes, cross_attention_key, 1)}, but the "
            f"encoder has a hidden size of {encoder_hidden_size}. The checkpoint mixes parts of different models."
        )
    config = {
        **{name: sizes[name] for name in inferred},
        "num_attention_heads": num_heads(
            sizes["hidden_size"], requested.get("num_attention_heads"), "text", "num_attention_heads"
        ),
        "encoder_hidden_size": encoder_hidden_size,
    }
    return config | options_of(requested, TEXT_OPTIONS)


def top_level_config(
    classifies: bool,
    shapes: Shapes,
    settings: Mapping[str, Any],
    published_labels: Mapping[int, str] | None,
    head: str = "cls_head",
) -> dict[str, Any]:
    """
    Return the projection dimension, the queue size and, for classifiers, the labels.

    Args:
        classifies (`bool`): whether the model is a classifier.
        shapes (`Mapping[str, tuple[int, ...]]`): shapes of the checkpoint's weights.
        settings (`Mapping[str, Any]`): the settings.
        published_labels (`Mapping[int, str]`, *optional*): labels that are used if the settings give none.
        head (`str`, *optional*, defaults to `"cls_head"`): module of the classification head.

    Raises:
        ValueError: If the settings do not fit the checkpoint, or the number of classes is unknown.
    """
    inferred: dict[str, Any] = {}
    if "vision_proj.weight" in shapes:
        inferred["embed_dim"] = size_of(shapes, "vision_proj.weight", 0)
    if "image_queue" in shapes:
        inferred["queue_size"] = size_of(shapes, "image_queue", 1)
    if classifies and f"{head}.2.weight" in shapes:
        inferred["num_classes"] = size_of(shapes, f"{head}.2.weight", 0)
    sizes = merge_sizes("top", inferred, settings, overridable=frozenset({"queue_size"}))
    fields = options_of(sizes, {"embed_dim": "projection_dim", "queue_size": "queue_size"})
    if classifies:
        fields["id2label"] = _labels(sizes, published_labels)
        fields["label2id"] = {name: index for index, name in fields["id2label"].items()}
    return fields


def _labels(sizes: Mapping[str, Any], published: Mapping[int, str] | None) -> dict[int, str]:
    names: Any = sizes.get("labels") or published
    number = sizes.get("num_classes") or (len(names) if names else None)
    if number is None:
        raise ValueError(
            "The number of classes is unknown: the checkpoint has no classification head, and neither the settings nor "
            'the published labels give a number. Set it with --config: {"num_classes": 3}.'
        )
    if not 0 < number <= MAX_CLASSES:
        raise ValueError(f"The checkpoint has {number:,} classes; expected 1 to {MAX_CLASSES:,}.")
    if sizes.get("labels"):
        return _requested_labels(names, number)
    if names and len(names) == number:
        return {int(index): str(name) for index, name in names.items()}
    return {index: f"LABEL_{index}" for index in range(number)}


def _requested_labels(labels: Any, number: int) -> dict[int, str]:
    """Return names by class id. The original's answer lists are mappings from names to ids, so both directions work."""
    if not isinstance(labels, Mapping):
        labels = dict(enumerate(labels))
    elif all(isinstance(value, int) for value in labels.values()):
        if len(set(labels.values())) < len(labels):
            raise ValueError("Two labels have the same id. Give each its own.")
        labels = {index: name for name, index in labels.items()}
    if len(labels) != number or len(set(labels.values())) != number:
        raise ValueError(
            f"{len(labels)} labels are given, {len(set(labels.values()))} of them distinct, for {number} classes. "
            "Name each class once."
        )
    try:
        named = {int(index): str(name) for index, name in labels.items()}
    except ValueError as error:
        raise ValueError(
            f"The labels are {labels!r:.80}; expected a list of names, or a mapping between names and ids."
        ) from error
    if sorted(named) != list(range(number)):
        raise ValueError(
            f"The label ids range from {min(named)} to {max(named)}; expected each of 0 to {number - 1} once."
        )
    return dict(sorted(named.items()))


def check_tokenizer(tokenizer: Any, vocab_size: int) -> None:
    """Raise `ValueError` unless the tokenizer has the vocabulary size of the checkpoint."""
    if len(tokenizer) != vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tokenizer):,} tokens (added ones included), but the checkpoint has {vocab_size:,} "
            "word embeddings. Give the tokenizer that the checkpoint was trained with (--tokenizer)."
        )


def max_text_length(default: int | None, settings: Mapping[str, Any], config: Any) -> int:
    """
    Return the maximum number of tokens of a text.

    It is `max_txt_len` or `default`, bounded by the number of positions. parity: without a default it is the number of
    positions and `max_txt_len` is ignored, because the original does not truncate texts for such architectures.
    """
    positions: int = config.text_config.max_position_embeddings
    return positions if default is None else min(positions, settings.get("max_txt_len") or default)


def generation_config(defaults: Mapping[str, Any] | None, config: Any) -> Any:
    """Return a `GenerationConfig` with `defaults` and the special tokens of `config`; `None` without defaults."""
    from transformers import GenerationConfig

    if defaults is None:
        return None
    return GenerationConfig(
        **defaults,
        decoder_start_token_id=config.bos_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
