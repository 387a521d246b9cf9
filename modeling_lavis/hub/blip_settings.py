# SPDX-License-Identifier: Apache-2.0
"""Configuration, processor and generation defaults of BLIP, from the shapes of a checkpoint and a few settings."""

import re
from collections.abc import Mapping
from typing import Any

from modeling_lavis.hub import settings as shared
from modeling_lavis.hub.shapes import Shapes, text_sizes
from modeling_lavis.hub.zoo import model_class_of

PROMPT = "a picture of "
# Maximum number of tokens of a text, [CLS] and [SEP] included. Other architectures are bounded by the positions only.
MAX_TEXT_LENGTHS = {
    "blip_pretrain": 30,
    "blip_retrieval": 35,
    "blip_image_text_matching": 35,
    "blip_caption": 40,
    "blip_vqa": 35,
    "blip_classification": 40,
}
GENERATION_DEFAULTS = {
    "blip_caption": shared.CAPTION_DEFAULTS,
    "blip_pretrain": shared.CAPTION_DEFAULTS,
    "blip_vqa": shared.ANSWER_DEFAULTS,
}
LABELS = {"blip_nlvr": {0: "False", 1: "True"}}
WITH_MOMENTUM_ENCODERS = frozenset({"blip_pretrain", "blip_retrieval", "blip_classification"})

_TOP_OPTIONS = {
    **shared.TOP_OPTIONS,
    "negative_all_rank": "negative_all_rank",
    "attend_question_padding": "attend_question_padding",
}
KNOWN_SETTINGS = shared.KNOWN_SETTINGS | {*_TOP_OPTIONS, "prompt"}


def build_config(
    architecture: str, source_architecture: str, shapes: Shapes, settings: Mapping[str, Any], tokenizer: Any
) -> Any:
    """
    Build a `LavisBlipConfig`.

    Args:
        architecture (`str`): the architecture to convert to.
        source_architecture (`str`): the architecture of the checkpoint.
        shapes (`Mapping[str, tuple[int, ...]]`): shapes of the checkpoint's weights by the original keys.
        settings (`Mapping[str, Any]`): what cannot be inferred from shapes. Sizes must be those of the checkpoint,
            except `vision.image_size` (position embeddings are resized) and `queue_size` (the queue is reinitialized).
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer with BLIP's added tokens, for the special token ids.

    Raises:
        ValueError: If settings are unknown or do not fit the checkpoint, or the tokenizer has another vocabulary size.
    """
    from modeling_lavis.models.configuration_lavis_blip import LavisBlipConfig

    vision = shared.vision_config(shapes, shared.section(settings, "vision", shared.KNOWN_VISION))
    text_prefix = (
        "text_encoder." if "text_encoder.embeddings.word_embeddings.weight" in shapes else "text_decoder.bert."
    )
    text = _text_config(shapes, text_prefix, shared.section(settings, "text", shared.KNOWN_TEXT), vision["hidden_size"])
    shared.check_tokenizer(tokenizer, text["vocab_size"])
    fields = shared.options_of(settings, _TOP_OPTIONS)
    if architecture not in WITH_MOMENTUM_ENCODERS:
        fields["use_momentum"] = False
    classifies = architecture in ("blip_nlvr", "blip_classification")
    fields |= shared.top_level_config(classifies, shapes, settings, LABELS.get(architecture))
    text["pad_token_id"] = tokenizer.pad_token_id
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "enc_token_id": tokenizer.convert_tokens_to_ids("[ENC]"),
    }
    return LavisBlipConfig(
        vision_config=vision, text_config=text, architectures=[model_class_of(architecture)], **fields, **ids
    )


def _text_config(shapes: Shapes, prefix: str, requested: dict[str, Any], encoder_hidden_size: int) -> dict[str, Any]:
    if (requested.get("vocab_size") or 0) < text_sizes(shapes, prefix)["vocab_size"]:
        requested.pop("vocab_size", None)  # the original's pretraining gives the size before it adds its tokens
    cross = f"{prefix}encoder.layer.0.crossattention.self"
    key = f"{cross}0.key.weight" if f"{cross}0.key.weight" in shapes else f"{cross}.key.weight"
    config = shared.text_config(shapes, prefix, requested, encoder_hidden_size, key)
    merges = {
        int(match[1]) for name in shapes if (match := re.search(r"layer\.(\d+)\.crossattention\.output\.merge", name))
    }
    return config | ({"merge_from_layer": min(merges)} if merges else {})


def build_processor(architecture: str, settings: Mapping[str, Any], config: Any, tokenizer: Any) -> Any:
    """Build the `LavisBlipProcessor` that preprocesses images and texts as the original does for this architecture."""
    from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
    from modeling_lavis.models.processing_lavis_blip import LavisBlipProcessor

    side = config.vision_config.image_size
    prompt = settings.get("prompt")
    if prompt is None or architecture != "blip_caption":
        prompt = PROMPT if architecture == "blip_caption" else ""
    return LavisBlipProcessor(
        LavisImageProcessor(size={"height": side, "width": side}),
        tokenizer,
        prompt=prompt,
        max_text_length=shared.max_text_length(MAX_TEXT_LENGTHS.get(architecture), settings, config),
        cleaning="question" if architecture == "blip_vqa" else "caption",
    )


def build_generation_config(architecture: str, settings: Mapping[str, Any], config: Any) -> Any:
    """Build the `GenerationConfig` with the original's defaults, or return `None` if the model does not generate."""
    return shared.generation_config(GENERATION_DEFAULTS.get(architecture), config)
