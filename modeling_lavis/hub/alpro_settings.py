# SPDX-License-Identifier: Apache-2.0
"""Configuration and processor of ALPRO, from a checkpoint's shapes and a few settings."""

from collections.abc import Mapping
from typing import Any

from modeling_lavis.hub import settings as shared
from modeling_lavis.hub.shapes import Shapes, size_of

# Longest text in tokens, [CLS] and [SEP] included.
MAX_TEXT_LENGTHS = {"alpro_retrieval": 35, "alpro_qa": 40}

_TOWER = "visual_encoder.model."
_TOP_OPTIONS = {"temp": "logit_temperature"}
_KNOWN_VISION = shared.KNOWN_VISION | {"num_frames"}
_KNOWN_TEXT = shared.KNOWN_TEXT | {"fusion_layer", "type_vocab_size"}
KNOWN_SETTINGS = frozenset(
    {*_TOP_OPTIONS, "arch", "family", "vision", "text", "embed_dim", "num_classes", "labels", "max_txt_len"}
)


def build_config(
    architecture: str, source_architecture: str, shapes: Shapes, settings: Mapping[str, Any], tokenizer: Any
) -> Any:
    """Make an `AlproConfig`.

    Args:
        architecture: what is made.
        source_architecture: what the checkpoint is.
        shapes: shapes of the checkpoint's weights, by the original's names.
        settings: what shapes cannot say; sizes in it must be those of the checkpoint, except `vision.image_size` and
            `vision.num_frames` (positions are resized).
        tokenizer: the tokenizer; gives the ids.

    Raises:
        ValueError: settings that do not fit the checkpoint or are unknown, or a tokenizer of another size.
    """
    from modeling_lavis.hub.families import family_of
    from modeling_lavis.models.configuration_alpro import AlproConfig

    asked = shared.section(settings, "vision", _KNOWN_VISION)
    vision = shared.vision_config(shapes, asked, prefix=_TOWER)
    vision["num_frames"] = asked.get("num_frames") or size_of(shapes, f"{_TOWER}time_embed", 1)
    prefix = "text_encoder.bert." if any(name.startswith("text_encoder.bert.") for name in shapes) else "text_encoder."
    asked = shared.section(settings, "text", _KNOWN_TEXT)
    text = shared.text_config(shapes, prefix, asked, vision["hidden_size"])
    text["type_vocab_size"] = size_of(shapes, f"{prefix}embeddings.token_type_embeddings.weight", 0)
    text["fusion_layer"] = asked.get("fusion_layer")  # half of the layers by default, as published
    text["pad_token_id"] = tokenizer.pad_token_id
    shared.check_tokenizer(tokenizer, text["vocab_size"])
    fields = {ours: settings[name] for name, ours in _TOP_OPTIONS.items() if settings.get(name) is not None}
    fields |= shared.sizes_between_towers(architecture == "alpro_qa", shapes, settings, None, head="classifier")
    return AlproConfig(
        architectures=[family_of(architecture).architectures[architecture].model_class],
        vision_config=vision,
        text_config=text,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        **fields,
    )


def build_processor(architecture: str, settings: Mapping[str, Any], config: Any, tokenizer: Any) -> Any:
    """Make the `AlproProcessor` that prepares videos and texts as the original does for this architecture."""
    from modeling_lavis.models.processing_alpro import AlproProcessor
    from modeling_lavis.models.video_processing_lavis import LavisVideoProcessor

    side = config.vision_config.image_size
    return AlproProcessor(
        LavisVideoProcessor(size={"height": side, "width": side}, num_frames=config.vision_config.num_frames),
        tokenizer,
        max_text_length=shared.text_limit(MAX_TEXT_LENGTHS[architecture], settings, config),
        cleaning="question" if architecture == "alpro_qa" else "caption",
    )


def build_generation_config(architecture: str, settings: Mapping[str, Any], config: Any) -> None:
    """Nothing: no architecture of the family writes text."""
    return None
