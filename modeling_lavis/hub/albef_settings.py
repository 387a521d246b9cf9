# SPDX-License-Identifier: Apache-2.0
"""Configuration, processor and generation defaults of ALBEF, from a checkpoint's shapes and a few settings."""

import re
from collections.abc import Mapping
from typing import Any

from modeling_lavis.hub import settings as shared
from modeling_lavis.hub.shapes import Shapes

# Longest text in tokens, [CLS] and [SEP] included; features take what the position table holds.
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
_SWITCH = "use_token_type_embeddings"
KNOWN_SETTINGS = shared.KNOWN_SETTINGS | {*_TOP_OPTIONS, "text_decoder", _SWITCH}


def build_config(
    architecture: str, source_architecture: str, shapes: Shapes, settings: Mapping[str, Any], tokenizer: Any
) -> Any:
    """Make an `AlbefConfig`.

    Args:
        architecture: what is made.
        source_architecture: what the checkpoint is.
        shapes: shapes of the checkpoint's weights, by the original's names.
        settings: what shapes cannot say; sizes in it must be those of the checkpoint, except `vision.image_size`
            (positions are resized) and `queue_size` (a new queue).
        tokenizer: the tokenizer; gives the ids.

    Raises:
        ValueError: settings that do not fit the checkpoint or are unknown, or a tokenizer of another size.
    """
    from modeling_lavis.hub.families import family_of
    from modeling_lavis.models.configuration_albef import AlbefConfig

    vision = shared.vision_config(shapes, shared.section(settings, "vision", shared.KNOWN_VISION))
    prefix = "text_encoder.bert." if any(name.startswith("text_encoder.bert.") for name in shapes) else "text_encoder."
    asked = shared.section(settings, "text", _KNOWN_TEXT)
    fusion_layer = _first_reader(shapes, prefix)
    if asked.get("fusion_layer") not in (None, fusion_layer):
        raise ValueError(
            f"fusion_layer is {asked['fusion_layer']} in the configuration, but in the checkpoint layer {fusion_layer} "
            "is the first that reads images. Correct it or leave it out."
        )
    # Two-image models can be started from others, which have half as many layers that read images.
    started = architecture == "albef_nlvr" and source_architecture not in ("albef_nlvr", "albef_nlvr_pretrain")
    text = _text_config(shapes, prefix, asked, vision["hidden_size"], {"num_hidden_layers"} if started else set())
    if started and not asked.get("num_hidden_layers"):
        text["num_hidden_layers"] += text["num_hidden_layers"] - fusion_layer
    shared.check_tokenizer(tokenizer, text["vocab_size"])
    parts: dict[str, Any] = {"vision_config": vision, "text_config": {**text, "fusion_layer": fusion_layer}}
    if architecture == "albef_vqa":
        parts["answer_config"] = _answer_config(shapes, settings, text, fusion_layer)
    fields = {ours: settings[name] for name, ours in _TOP_OPTIONS.items() if settings.get(name) is not None}
    if architecture == "albef_feature_extractor":
        fields["use_momentum"] = False
    classifies = architecture in LABELS
    fields |= shared.sizes_between_towers(classifies, shapes, settings, LABELS.get(architecture))
    fields[_SWITCH] = _use_token_types(architecture == source_architecture != "albef_pretrain", parts, settings)
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "mask_token_id": tokenizer.mask_token_id,
    }
    for config in (parts["text_config"], parts.get("answer_config", {})):
        config["pad_token_id"] = tokenizer.pad_token_id
    model_class = family_of(architecture).architectures[architecture].model_class
    return AlbefConfig(architectures=[model_class], **parts, **fields, **ids)


def _first_reader(shapes: Shapes, prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"encoder\.layer\.(\d+)\.crossattention\.")
    layers = [int(match[1]) for name in shapes if (match := pattern.match(name))]
    if not layers:
        raise ValueError("No layer of the text transformer reads images. Check that the checkpoint is complete.")
    return min(layers)


def _text_config(
    shapes: Shapes, prefix: str, asked: dict[str, Any], encoder_width: int, free: set[str]
) -> dict[str, Any]:
    reader = f"{prefix}encoder.layer.{_first_reader(shapes, prefix)}.crossattention.self.key.weight"
    config = shared.text_config(shapes, prefix, asked, encoder_width, reader, frozenset(free))
    types = shapes.get(f"{prefix}embeddings.token_type_embeddings.weight")
    return {**config, "type_vocab_size": types[0] if types else 0}


def _answer_config(
    shapes: Shapes, settings: Mapping[str, Any], text: dict[str, Any], fusion_layer: int
) -> dict[str, Any]:
    asked = shared.section(settings, "text_decoder", _KNOWN_TEXT)
    if any(name.startswith("text_decoder.") for name in shapes):
        return _text_config(shapes, "text_decoder.bert.", asked, text["hidden_size"], set())
    options = {name: asked[name] for name in shared.TEXT_OPTIONS if asked.get(name) is not None}
    layers = text["num_hidden_layers"] - fusion_layer
    return {**text, "num_hidden_layers": layers, "encoder_hidden_size": text["hidden_size"], **options}


def _use_token_types(is_fine_tuned: bool, parts: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether the first token type counts: what is asked for, else what the checkpoint was made for."""
    present = bool(parts["text_config"]["type_vocab_size"])
    if settings.get(_SWITCH) is not None:
        if settings[_SWITCH] and not present:
            raise ValueError(f"{_SWITCH} is asked for, but the checkpoint has no token types. Leave it out.")
        return bool(settings[_SWITCH])
    # parity: LAVIS leaves out those of pre-training; files that the authors fine-tuned make no sense without.
    return present and is_fine_tuned


def build_processor(architecture: str, settings: Mapping[str, Any], config: Any, tokenizer: Any) -> Any:
    """Make the `AlbefProcessor` that prepares images and texts as the original does for this architecture."""
    from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
    from modeling_lavis.models.processing_albef import AlbefProcessor

    side = config.vision_config.image_size
    return AlbefProcessor(
        LavisImageProcessor(size={"height": side, "width": side}),
        tokenizer,
        max_text_length=shared.text_limit(MAX_TEXT_LENGTHS.get(architecture), settings, config),
        cleaning="question" if architecture == "albef_vqa" else "caption",
    )


def build_generation_config(architecture: str, settings: Mapping[str, Any], config: Any) -> Any:
    """Make the `GenerationConfig` for answers; `None` where nothing is generated."""
    return shared.generation_config(GENERATION_DEFAULTS.get(architecture), config)
