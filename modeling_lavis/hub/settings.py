# SPDX-License-Identifier: Apache-2.0
"""What the settings of families with a ViT and a BERT have in common: from shapes and settings to configurations.

Settings have the form of a golden set's `config.json`: sections such as `vision` and `text`, and names such as
`embed_dim`, `queue_size`, `max_txt_len`.
"""

from collections.abc import Mapping
from typing import Any

from modeling_lavis.hub.shapes import Shapes, agree, heads, size_of, text_sizes, vision_sizes

ANSWER_DEFAULTS = {"num_beams": 3, "max_length": 10, "min_length": 1}

_LARGE_DEPTH = 24
_LARGE_DROP_PATH = 0.1
# Names of the settings -> names in our configurations, besides the sizes.
_VISION_OPTIONS = {"layer_norm_eps": "layer_norm_eps", "drop_path_rate": "drop_path_rate"}
TEXT_OPTIONS = (
    "hidden_act",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
)
# Names of the settings -> names in the families' configurations.
TOP_OPTIONS = {
    "temp": "logit_temperature",
    "momentum": "momentum",
    "alpha": "alpha",
    "use_momentum": "use_momentum",
    "use_distill": "use_distill",
    "label_smoothing": "label_smoothing",
}
KNOWN_VISION = frozenset(
    {"image_size", "patch_size", "hidden_size", "depth", "num_heads", "mlp_ratio", *_VISION_OPTIONS}
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
    """A section of the settings as a new dictionary; `ValueError` for entries that nobody knows."""
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


def vision_config(shapes: Shapes, asked: dict[str, Any], prefix: str = "visual_encoder.") -> dict[str, Any]:
    """Fields of a `LavisViTConfig`; `prefix` is what the tower's weights begin with."""
    sizes = agree("vision", vision_sizes(shapes, prefix), asked, free=frozenset({"image_size"}))
    config = {
        "image_size": sizes["image_size"],
        "patch_size": sizes["patch_size"],
        "hidden_size": sizes["hidden_size"],
        "num_hidden_layers": sizes["depth"],
        "num_attention_heads": heads(sizes["hidden_size"], asked.get("num_heads"), "vision", "num_heads"),
        "mlp_ratio": sizes["mlp_ratio"],
    }
    if sizes["depth"] == _LARGE_DEPTH:
        config["drop_path_rate"] = _LARGE_DROP_PATH  # parity: the original's ViT-L takes no other value
    return config | {ours: asked[name] for name, ours in _VISION_OPTIONS.items() if asked.get(name) is not None}


def text_config(
    shapes: Shapes,
    prefix: str,
    asked: dict[str, Any],
    encoder_width: int,
    first_reader: str | None = None,
    free: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """
    Fields of a `LavisBertConfig`.

    Args:
        shapes: shapes of the checkpoint's weights.
        prefix: what the transformer's weights begin with.
        asked: section of the settings.
        encoder_width: width of the states that layers attend to.
        first_reader: name of a map from those states, whose width is checked; `None` where there is none.
        free: sizes that may differ from the checkpoint's.

    Raises:
        ValueError: sizes do not fit each other or the settings.
    """
    measured = text_sizes(shapes, prefix)
    sizes = agree("text", measured, asked, free=free)
    if first_reader is not None and size_of(shapes, first_reader, 1) != encoder_width:
        raise ValueError(
            f"The text layers attend to states of width {size_of(shapes, first_reader, 1)}, but those that they are "
            f"given have a width of {encoder_width}. The checkpoint mixes parts of different models."
        )
    config = {
        **{name: sizes[name] for name in measured},
        "num_attention_heads": heads(
            sizes["hidden_size"], asked.get("num_attention_heads"), "text", "num_attention_heads"
        ),
        "encoder_hidden_size": encoder_width,
    }
    return config | {name: asked[name] for name in TEXT_OPTIONS if asked.get(name) is not None}


def sizes_between_towers(
    classifies: bool,
    shapes: Shapes,
    settings: Mapping[str, Any],
    published_labels: Mapping[int, str] | None,
    head: str = "cls_head",
) -> dict[str, Any]:
    """Common width, length of the queue and, for heads that classify, the labels; `head` is the classifier's name."""
    measured: dict[str, Any] = {}
    if "vision_proj.weight" in shapes:
        measured["embed_dim"] = size_of(shapes, "vision_proj.weight", 0)
    if "image_queue" in shapes:
        measured["queue_size"] = size_of(shapes, "image_queue", 1)
    if classifies and f"{head}.2.weight" in shapes:
        measured["num_classes"] = size_of(shapes, f"{head}.2.weight", 0)
    sizes = agree("top", measured, settings, free=frozenset({"queue_size"}))
    fields = {
        ours: sizes[name]
        for name, ours in {"embed_dim": "projection_dim", "queue_size": "queue_size"}.items()
        if sizes.get(name) is not None
    }
    if classifies:
        fields["id2label"] = _labels(sizes, published_labels)
        fields["label2id"] = {name: index for index, name in fields["id2label"].items()}
    return fields


def _labels(sizes: Mapping[str, Any], published: Mapping[int, str] | None) -> dict[int, str]:
    names: Any = sizes.get("labels") or published
    number = sizes.get("num_classes") or (len(names) if names else None)
    if number is None:
        raise ValueError(
            "The number of classes is not known: the checkpoint has no classification head, and the published "
            'configuration names none. Say it in --config: {"num_classes": 3}.'
        )
    if sizes.get("labels"):
        return _named(names, number)
    if names and len(names) == number:
        return {int(index): str(name) for index, name in names.items()}
    return {index: f"LABEL_{index}" for index in range(number)}


def _named(labels: Any, number: int) -> dict[int, str]:
    """Names by class, of a list or of a mapping in either direction; the original's lists of answers are mappings."""
    if not isinstance(labels, Mapping):
        labels = dict(enumerate(labels))
    elif all(isinstance(value, int) for value in labels.values()):
        if len(set(labels.values())) < len(labels):
            raise ValueError("Two labels have the same number; give each its own.")
        labels = {index: name for name, index in labels.items()}
    if len(labels) != number or len(set(labels.values())) != number:
        raise ValueError(
            f"{len(labels)} labels are given, {len(set(labels.values()))} of them different, for {number} classes; "
            "name each class once."
        )
    try:
        named = {int(index): str(name) for index, name in labels.items()}
    except ValueError as error:
        raise ValueError(
            f"The labels are {labels!r:.80}; expected a list of names, or a mapping between names and numbers."
        ) from error
    if sorted(named) != list(range(number)):
        raise ValueError(f"The labels are numbered {min(named)} to {max(named)}; expected 0 to {number - 1} for all.")
    return dict(sorted(named.items()))


def check_tokenizer(tokenizer: Any, vocab_size: int) -> None:
    """Raise `ValueError` unless the tokenizer has as many tokens as the checkpoint."""
    if len(tokenizer) != vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tokenizer):,} tokens (added ones included) and the checkpoint's table of "
            f"words {vocab_size:,} rows. Give the tokenizer that the checkpoint was trained with (--tokenizer)."
        )


def text_limit(longest: int | None, settings: Mapping[str, Any], config: Any) -> int:
    """Tokens kept of a text: what is asked for or `longest`, and no more than there are positions."""
    positions: int = config.text_config.max_position_embeddings
    return positions if longest is None else min(positions, settings.get("max_txt_len") or longest)


def generation_config(defaults: Mapping[str, Any] | None, config: Any) -> Any:
    """A `GenerationConfig` with a family's defaults and tokens; `None` where nothing is generated."""
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
