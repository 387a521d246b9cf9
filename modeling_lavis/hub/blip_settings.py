# SPDX-License-Identifier: Apache-2.0
"""Configuration, processor and generation defaults of BLIP, from a checkpoint's shapes and a few settings.

Settings have the form of a golden set's `config.json`: sections `vision` and `text`, and names such as `embed_dim`,
`queue_size`, `prompt`, `max_txt_len`.
"""

import re
from collections.abc import Mapping
from typing import Any

from modeling_lavis.hub.shapes import Shapes, agree, heads, size_of, text_sizes, vision_sizes

PROMPT = "a picture of "
# Longest text in tokens, [CLS] and [SEP] included; the others take what the position table holds.
MAX_TEXT_LENGTHS = {
    "blip_pretrain": 30,
    "blip_retrieval": 35,
    "blip_image_text_matching": 35,
    "blip_caption": 40,
    "blip_vqa": 35,
    "blip_classification": 40,
}
CAPTION_DEFAULTS = {"num_beams": 3, "max_length": 30, "min_length": 10}
ANSWER_DEFAULTS = {"num_beams": 3, "max_length": 10, "min_length": 1}
GENERATION_DEFAULTS = {
    "blip_caption": CAPTION_DEFAULTS,
    "blip_pretrain": CAPTION_DEFAULTS,
    "blip_vqa": ANSWER_DEFAULTS,
}
LABELS = {"blip_nlvr": {0: "False", 1: "True"}}
WITH_TWINS = frozenset({"blip_pretrain", "blip_retrieval", "blip_classification"})

_LARGE_DEPTH = 24
_LARGE_DROP_PATH = 0.1
# Names of the settings -> names in our configurations, besides the sizes.
_VISION_OPTIONS = {"layer_norm_eps": "layer_norm_eps", "drop_path_rate": "drop_path_rate"}
_TEXT_OPTIONS = (
    "hidden_act",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
)
_TOP_OPTIONS = {
    "temp": "logit_temperature",
    "momentum": "momentum",
    "alpha": "alpha",
    "use_momentum": "use_momentum",
    "use_distill": "use_distill",
    "negative_all_rank": "negative_all_rank",
    "label_smoothing": "label_smoothing",
    "attend_question_padding": "attend_question_padding",
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
        *_TEXT_OPTIONS,
    }
)
KNOWN_SETTINGS = frozenset(
    {
        *_TOP_OPTIONS,
        "arch",
        "family",
        "vision",
        "text",
        "embed_dim",
        "queue_size",
        "num_classes",
        "labels",
        "prompt",
        "max_txt_len",
        "reset_queue_ptr_after_load",
    }
)


def build_config(
    architecture: str, source_architecture: str, shapes: Shapes, settings: Mapping[str, Any], tokenizer: Any
) -> Any:
    """Make a `LavisBlipConfig`.

    Args:
        architecture: what is made.
        source_architecture: what the checkpoint is.
        shapes: shapes of the checkpoint's weights, by the original's names.
        settings: what shapes cannot say; sizes in it must be those of the checkpoint, except `vision.image_size`
            (positions are resized) and `queue_size` (a new queue).
        tokenizer: the tokenizer with BLIP's extra tokens; gives the ids.

    Raises:
        ValueError: settings that do not fit the checkpoint or are unknown, or a tokenizer of another size.
    """
    from modeling_lavis.models.configuration_lavis_blip import LavisBlipConfig

    vision = _vision_config(shapes, _section(settings, "vision", KNOWN_VISION))
    text_prefix = (
        "text_encoder." if "text_encoder.embeddings.word_embeddings.weight" in shapes else "text_decoder.bert."
    )
    text = _text_config(shapes, text_prefix, _section(settings, "text", KNOWN_TEXT), vision["hidden_size"])
    _check_tokenizer(tokenizer, text["vocab_size"])
    fields = {ours: settings[name] for name, ours in _TOP_OPTIONS.items() if settings.get(name) is not None}
    if architecture not in WITH_TWINS:
        fields["use_momentum"] = False
    fields |= _sizes_between_towers(architecture, source_architecture, shapes, settings)
    text["pad_token_id"] = tokenizer.pad_token_id
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "enc_token_id": tokenizer.convert_tokens_to_ids("[ENC]"),
    }
    model_class = _architecture_class(architecture)
    return LavisBlipConfig(vision_config=vision, text_config=text, architectures=[model_class], **fields, **ids)


def _architecture_class(architecture: str) -> str:
    from modeling_lavis.hub.families import family_of

    return family_of(architecture).architectures[architecture].model_class


def _section(settings: Mapping[str, Any], name: str, known: frozenset[str]) -> dict[str, Any]:
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


def _vision_config(shapes: Shapes, asked: dict[str, Any]) -> dict[str, Any]:
    sizes = agree("vision", vision_sizes(shapes), asked, free=frozenset({"image_size"}))
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


def _text_config(shapes: Shapes, prefix: str, asked: dict[str, Any], vision_width: int) -> dict[str, Any]:
    measured = text_sizes(shapes, prefix)
    if (asked.get("vocab_size") or 0) < measured["vocab_size"]:
        asked.pop("vocab_size", None)  # the original's pre-training names the vocabulary before it adds its tokens
    sizes = agree("text", measured, asked, free=frozenset())
    cross = f"{prefix}encoder.layer.0.crossattention.self"
    key = f"{cross}0.key.weight" if f"{cross}0.key.weight" in shapes else f"{cross}.key.weight"
    if size_of(shapes, key, 1) != vision_width:
        raise ValueError(
            f"The text layers attend to states of width {size_of(shapes, key, 1)}, but the image tower's width is "
            f"{vision_width}. The checkpoint mixes parts of different models."
        )
    merges = {
        int(match[1]) for name in shapes if (match := re.search(r"layer\.(\d+)\.crossattention\.output\.merge", name))
    }
    config = {
        **{name: sizes[name] for name in measured},
        "num_attention_heads": heads(
            sizes["hidden_size"], asked.get("num_attention_heads"), "text", "num_attention_heads"
        ),
        "encoder_hidden_size": vision_width,
    }
    if merges:
        config["merge_from_layer"] = min(merges)
    return config | {name: asked[name] for name in _TEXT_OPTIONS if asked.get(name) is not None}


def _sizes_between_towers(
    architecture: str, source_architecture: str, shapes: Shapes, settings: Mapping[str, Any]
) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    if "vision_proj.weight" in shapes:
        measured["embed_dim"] = size_of(shapes, "vision_proj.weight", 0)
    if "image_queue" in shapes:
        measured["queue_size"] = size_of(shapes, "image_queue", 1)
    classifies = architecture in ("blip_nlvr", "blip_classification")
    if classifies and "cls_head.2.weight" in shapes:
        measured["num_classes"] = size_of(shapes, "cls_head.2.weight", 0)
    sizes = agree("top", measured, settings, free=frozenset({"queue_size"}))
    fields = {
        ours: sizes[name]
        for name, ours in {"embed_dim": "projection_dim", "queue_size": "queue_size"}.items()
        if sizes.get(name) is not None
    }
    if classifies:
        fields["id2label"] = _labels(architecture, sizes)
    return fields


def _labels(architecture: str, sizes: Mapping[str, Any]) -> dict[int, str]:
    names: Any = sizes.get("labels") or LABELS.get(architecture)
    number = sizes.get("num_classes") or (len(names) if names else None)
    if number is None:
        raise ValueError(
            "The number of classes is not known: the checkpoint has no classification head, and the published "
            'configuration names none. Say it in --config: {"num_classes": 3}.'
        )
    if names and len(names) == number:
        items = names.items() if isinstance(names, Mapping) else enumerate(names)
        return {int(index): str(name) for index, name in items}
    if sizes.get("labels"):
        raise ValueError(f"{len(names)} labels are given for {number} classes; name each class once.")
    return {index: f"LABEL_{index}" for index in range(number)}


def _check_tokenizer(tokenizer: Any, vocab_size: int) -> None:
    if len(tokenizer) != vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tokenizer):,} tokens ([DEC] and [ENC] included) and the checkpoint's table of "
            f"words {vocab_size:,} rows. Give the tokenizer that the checkpoint was trained with (--tokenizer)."
        )


def build_processor(architecture: str, settings: Mapping[str, Any], config: Any, tokenizer: Any) -> Any:
    """Make the `LavisBlipProcessor` that prepares images and texts as the original does for this architecture."""
    from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
    from modeling_lavis.models.processing_lavis_blip import LavisBlipProcessor

    side = config.vision_config.image_size
    length = config.text_config.max_position_embeddings
    if architecture in MAX_TEXT_LENGTHS:  # the others never cut a text, whatever the settings say
        length = min(length, settings.get("max_txt_len") or MAX_TEXT_LENGTHS[architecture])
    prompt = settings.get("prompt")
    if prompt is None or architecture != "blip_caption":
        prompt = PROMPT if architecture == "blip_caption" else ""
    return LavisBlipProcessor(
        LavisImageProcessor(size={"height": side, "width": side}),
        tokenizer,
        prompt=prompt,
        max_text_length=length,
        cleaning="question" if architecture == "blip_vqa" else "caption",
    )


def build_generation_config(architecture: str, settings: Mapping[str, Any], config: Any) -> Any:
    """Make the `GenerationConfig` with the original's defaults; `None` where nothing is generated."""
    from transformers import GenerationConfig

    if architecture not in GENERATION_DEFAULTS:
        return None
    return GenerationConfig(
        **GENERATION_DEFAULTS[architecture],
        decoder_start_token_id=config.bos_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
