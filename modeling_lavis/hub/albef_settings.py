# SPDX-License-Identifier: Apache-2.0
"""Configuration, processor and generation defaults of ALBEF, from the shapes of a checkpoint and a few settings."""

import re
from collections.abc import Mapping
from typing import Any

from modeling_lavis.hub import settings as shared
from modeling_lavis.hub.shapes import Shapes, text_encoder_prefix
from modeling_lavis.hub.zoo import model_class_of

# Maximum number of tokens of a text, [CLS] and [SEP] included. The feature extractor is bounded by the positions only.
MAX_TEXT_LENGTHS = {
    "albef_pretrain": 30,
    "albef_retrieval": 30,
    "albef_vqa": 25,
    "albef_classification": 40,
    "albef_nlvr": 40,
}
LABELS = {
    "albef_nlvr": {0: "False", 1: "True"},
    "albef_classification": {0: "contradiction", 1: "neutral", 2: "entailment"},
}
GENERATION_DEFAULTS = {"albef_vqa": shared.ANSWER_DEFAULTS}

_TOP_OPTIONS = {**shared.TOP_OPTIONS, "mlm_mask_prob": "mlm_probability"}
_KNOWN_TEXT = shared.KNOWN_TEXT | {"fusion_layer"}
_TOKEN_TYPES = "use_token_type_embeddings"
KNOWN_SETTINGS = shared.KNOWN_SETTINGS | {*_TOP_OPTIONS, "text_decoder", _TOKEN_TYPES}


def build_config(
    architecture: str, source_architecture: str, shapes: Shapes, settings: Mapping[str, Any], tokenizer: Any
) -> Any:
    """
    Build an `AlbefConfig`.

    Args:
        architecture (`str`): the architecture to convert to.
        source_architecture (`str`): the architecture of the checkpoint.
        shapes (`Mapping[str, tuple[int, ...]]`): shapes of the checkpoint's weights by the original keys.
        settings (`Mapping[str, Any]`): what cannot be inferred from shapes. Sizes must be those of the checkpoint,
            except `vision.image_size` (position embeddings are resized) and `queue_size` (the queue is reinitialized).
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer, for the special token ids.

    Raises:
        ValueError: If settings are unknown or do not fit the checkpoint, or the tokenizer has another vocabulary size.
    """
    from modeling_lavis.models.configuration_albef import AlbefConfig

    vision = shared.vision_config(shapes, shared.section(settings, "vision", shared.KNOWN_VISION))
    prefix = text_encoder_prefix(shapes)
    requested = shared.section(settings, "text", _KNOWN_TEXT)
    fusion_layer = _fusion_layer(shapes, prefix)
    if requested.get("fusion_layer") not in (None, fusion_layer):
        raise ValueError(
            f"fusion_layer is {requested['fusion_layer']} in the configuration, but layer {fusion_layer} is the first "
            "with cross-attention in the checkpoint. Correct it or leave it out."
        )
    # The text encoder for two images has a pair of layers for each fusion layer of the other text encoders.
    doubles = architecture == "albef_nlvr" and source_architecture not in ("albef_nlvr", "albef_nlvr_pretrain")
    overridable = frozenset({"num_hidden_layers"} if doubles else ())
    text = _text_config(shapes, prefix, requested, vision["hidden_size"], overridable)
    if doubles and not requested.get("num_hidden_layers"):
        text["num_hidden_layers"] += text["num_hidden_layers"] - fusion_layer
    shared.check_tokenizer(tokenizer, text["vocab_size"])
    parts: dict[str, Any] = {"vision_config": vision, "text_config": {**text, "fusion_layer": fusion_layer}}
    if architecture == "albef_vqa":
        parts["answer_config"] = _answer_config(shapes, settings, text, fusion_layer)
    fields = shared.options_of(settings, _TOP_OPTIONS)
    if architecture == "albef_feature_extractor":
        fields["use_momentum"] = False
    classifies = architecture in LABELS
    fields |= shared.top_level_config(classifies, shapes, settings, LABELS.get(architecture))
    fields[_TOKEN_TYPES] = _use_token_types(architecture == source_architecture != "albef_pretrain", parts, settings)
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "mask_token_id": tokenizer.mask_token_id,
    }
    for config in (parts["text_config"], parts.get("answer_config", {})):
        config["pad_token_id"] = tokenizer.pad_token_id
    return AlbefConfig(architectures=[model_class_of(architecture)], **parts, **fields, **ids)


def _fusion_layer(shapes: Shapes, prefix: str) -> int:
    """Return the first layer with cross-attention."""
    pattern = re.compile(re.escape(prefix) + r"encoder\.layer\.(\d+)\.crossattention\.")
    layers = [int(match[1]) for name in shapes if (match := pattern.match(name))]
    if not layers:
        raise ValueError("No layer of the text encoder has cross-attention. Check that the checkpoint is complete.")
    return min(layers)


def _text_config(
    shapes: Shapes, prefix: str, requested: dict[str, Any], encoder_hidden_size: int, overridable: frozenset[str]
) -> dict[str, Any]:
    key = f"{prefix}encoder.layer.{_fusion_layer(shapes, prefix)}.crossattention.self.key.weight"
    config = shared.text_config(shapes, prefix, requested, encoder_hidden_size, key, overridable)
    types = shapes.get(f"{prefix}embeddings.token_type_embeddings.weight")
    return {**config, "type_vocab_size": types[0] if types else 0}


def _answer_config(
    shapes: Shapes, settings: Mapping[str, Any], text: dict[str, Any], fusion_layer: int
) -> dict[str, Any]:
    requested = shared.section(settings, "text_decoder", _KNOWN_TEXT)
    if any(name.startswith("text_decoder.") for name in shapes):
        return _text_config(shapes, "text_decoder.bert.", requested, text["hidden_size"], frozenset())
    layers = text["num_hidden_layers"] - fusion_layer
    return {
        **text,
        "num_hidden_layers": layers,
        "encoder_hidden_size": text["hidden_size"],
        **shared.options_of(requested, shared.TEXT_OPTIONS),
    }


def _use_token_types(is_fine_tuned: bool, parts: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Return whether token type embeddings are added: as requested, otherwise as the checkpoint was trained."""
    present = bool(parts["text_config"]["type_vocab_size"])
    if settings.get(_TOKEN_TYPES) is not None:
        if settings[_TOKEN_TYPES] and not present:
            raise ValueError(f"{_TOKEN_TYPES} is set, but the checkpoint has no token type embeddings. Leave it out.")
        return bool(settings[_TOKEN_TYPES])
    # parity: LAVIS ignores them in pretraining checkpoints; those that the authors fine-tuned were trained with them.
    return present and is_fine_tuned


def build_processor(architecture: str, settings: Mapping[str, Any], config: Any, tokenizer: Any) -> Any:
    """Build the `AlbefProcessor` that preprocesses images and texts as the original does for this architecture."""
    from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
    from modeling_lavis.models.processing_albef import AlbefProcessor

    side = config.vision_config.image_size
    return AlbefProcessor(
        LavisImageProcessor(size={"height": side, "width": side}),
        tokenizer,
        max_text_length=shared.max_text_length(MAX_TEXT_LENGTHS.get(architecture), settings, config),
        cleaning="question" if architecture == "albef_vqa" else "caption",
    )


def build_generation_config(architecture: str, settings: Mapping[str, Any], config: Any) -> Any:
    """Build the `GenerationConfig` for answers, or return `None` if the model does not generate."""
    return shared.generation_config(GENERATION_DEFAULTS.get(architecture), config)
