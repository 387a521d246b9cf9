# SPDX-License-Identifier: Apache-2.0
"""Configuration and processor of ALPRO, from the shapes of a checkpoint and a few settings."""

from collections.abc import Mapping
from typing import Any

from modeling_lavis.hub import settings as shared
from modeling_lavis.hub.shapes import Shapes, size_of, text_encoder_prefix
from modeling_lavis.hub.zoo import model_class_of

# Maximum number of tokens of a text, [CLS] and [SEP] included.
MAX_TEXT_LENGTHS = {"alpro_retrieval": 35, "alpro_qa": 40}
VIDEO_ENCODER = "visual_encoder.model."

_TOP_OPTIONS = {"temp": "logit_temperature"}
_KNOWN_VISION = shared.KNOWN_VISION | {"num_frames"}
_KNOWN_TEXT = shared.KNOWN_TEXT | {"fusion_layer", "type_vocab_size"}
KNOWN_SETTINGS = frozenset(
    {*_TOP_OPTIONS, "arch", "family", "vision", "text", "embed_dim", "num_classes", "labels", "max_txt_len"}
)


def build_config(
    architecture: str, source_architecture: str, shapes: Shapes, settings: Mapping[str, Any], tokenizer: Any
) -> Any:
    """
    Build an `AlproConfig`.

    Args:
        architecture (`str`): the architecture to convert to.
        source_architecture (`str`): the architecture of the checkpoint.
        shapes (`Mapping[str, tuple[int, ...]]`): shapes of the checkpoint's weights by the original keys.
        settings (`Mapping[str, Any]`): what cannot be inferred from shapes. Sizes must be those of the checkpoint,
            except `vision.image_size` and `vision.num_frames` (position embeddings are resized).
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer, for the special token ids.

    Raises:
        ValueError: If settings are unknown or do not fit the checkpoint, or the tokenizer has another vocabulary size.
    """
    from modeling_lavis.models.configuration_alpro import AlproConfig

    requested = shared.section(settings, "vision", _KNOWN_VISION)
    vision = shared.vision_config(shapes, requested, prefix=VIDEO_ENCODER)
    vision["num_frames"] = requested.get("num_frames") or size_of(shapes, f"{VIDEO_ENCODER}time_embed", 1)
    prefix = text_encoder_prefix(shapes)
    requested = shared.section(settings, "text", _KNOWN_TEXT)
    text = shared.text_config(shapes, prefix, requested, vision["hidden_size"])
    text["type_vocab_size"] = size_of(shapes, f"{prefix}embeddings.token_type_embeddings.weight", 0)
    text["fusion_layer"] = requested.get("fusion_layer")  # None is half of the layers, as published
    text["pad_token_id"] = tokenizer.pad_token_id
    shared.check_tokenizer(tokenizer, text["vocab_size"])
    fields = shared.options_of(settings, _TOP_OPTIONS)
    fields |= shared.top_level_config(architecture == "alpro_qa", shapes, settings, None, head="classifier")
    return AlproConfig(
        architectures=[model_class_of(architecture)],
        vision_config=vision,
        text_config=text,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        **fields,
    )


def build_processor(architecture: str, settings: Mapping[str, Any], config: Any, tokenizer: Any) -> Any:
    """Build the `AlproProcessor` that preprocesses videos and texts as the original does for this architecture."""
    from modeling_lavis.models.processing_alpro import AlproProcessor
    from modeling_lavis.models.video_processing_lavis import LavisVideoProcessor

    side = config.vision_config.image_size
    return AlproProcessor(
        LavisVideoProcessor(size={"height": side, "width": side}, num_frames=config.vision_config.num_frames),
        tokenizer,
        max_text_length=shared.max_text_length(MAX_TEXT_LENGTHS[architecture], settings, config),
        cleaning="question" if architecture == "alpro_qa" else "caption",
    )


def build_generation_config(architecture: str, settings: Mapping[str, Any], config: Any) -> None:
    """Return `None`: no architecture of the family generates text."""
    return None
