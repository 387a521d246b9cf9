# SPDX-License-Identifier: Apache-2.0
"""Configuration, processor and generation defaults of BLIP, from a checkpoint's shapes and a few settings.

Settings have the form of a golden set's `config.json`: sections `vision` and `text`, and names such as `embed_dim`,
`queue_size`, `prompt`, `max_txt_len`.
"""

import re
from collections.abc import Mapping
from typing import Any

from modeling_lavis.hub import settings as shared
from modeling_lavis.hub.shapes import Shapes, text_sizes

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
GENERATION_DEFAULTS = {
    "blip_caption": CAPTION_DEFAULTS,
    "blip_pretrain": CAPTION_DEFAULTS,
    "blip_vqa": shared.ANSWER_DEFAULTS,
}
LABELS = {"blip_nlvr": {0: "False", 1: "True"}}
WITH_TWINS = frozenset({"blip_pretrain", "blip_retrieval", "blip_classification"})

_TOP_OPTIONS = {
    **shared.TOP_OPTIONS,
    "negative_all_rank": "negative_all_rank",
    "attend_question_padding": "attend_question_padding",
}
KNOWN_SETTINGS = shared.KNOWN_SETTINGS | {*_TOP_OPTIONS, "prompt"}


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

    vision = shared.vision_config(shapes, shared.section(settings, "vision", shared.KNOWN_VISION))
    text_prefix = (
        "text_encoder." if "text_encoder.embeddings.word_embeddings.weight" in shapes else "text_decoder.bert."
    )
    text = _text_config(shapes, text_prefix, shared.section(settings, "text", shared.KNOWN_TEXT), vision["hidden_size"])
    shared.check_tokenizer(tokenizer, text["vocab_size"])
    fields = {ours: settings[name] for name, ours in _TOP_OPTIONS.items() if settings.get(name) is not None}
    if architecture not in WITH_TWINS:
        fields["use_momentum"] = False
    classifies = architecture in ("blip_nlvr", "blip_classification")
    fields |= shared.sizes_between_towers(classifies, shapes, settings, LABELS.get(architecture))
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


def _text_config(shapes: Shapes, prefix: str, asked: dict[str, Any], vision_width: int) -> dict[str, Any]:
    if (asked.get("vocab_size") or 0) < text_sizes(shapes, prefix)["vocab_size"]:
        asked.pop("vocab_size", None)  # the original's pre-training names the vocabulary before it adds its tokens
    cross = f"{prefix}encoder.layer.0.crossattention.self"
    key = f"{cross}0.key.weight" if f"{cross}0.key.weight" in shapes else f"{cross}.key.weight"
    config = shared.text_config(shapes, prefix, asked, vision_width, key)
    merges = {
        int(match[1]) for name in shapes if (match := re.search(r"layer\.(\d+)\.crossattention\.output\.merge", name))
    }
    return config | ({"merge_from_layer": min(merges)} if merges else {})


def build_processor(architecture: str, settings: Mapping[str, Any], config: Any, tokenizer: Any) -> Any:
    """Make the `LavisBlipProcessor` that prepares images and texts as the original does for this architecture."""
    from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
    from modeling_lavis.models.processing_lavis_blip import LavisBlipProcessor

    side = config.vision_config.image_size
    # those that are not named never cut a text, whatever the settings say
    length = shared.text_limit(MAX_TEXT_LENGTHS.get(architecture), settings, config)
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
    return shared.generation_config(GENERATION_DEFAULTS.get(architecture), config)
