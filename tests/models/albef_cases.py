"""Tiny ALBEF models for the contract tests, with the batches of BLIP's cases."""

from typing import Any

from modeling_lavis import (
    AlbefConfig,
    AlbefForImageAndTextClassification,
    AlbefForImagesAndTextClassification,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefModel,
)
from tests.models.contract import Case
from tests.models.lavis_blip_cases import _DECODER as DECODER
from tests.models.lavis_blip_cases import _MATCHING as MATCHING
from tests.models.lavis_blip_cases import (
    CLS,
    PAD,
    PATCH,
    QUEUE,
    SEP,
    SIZE,
    VOCAB,
    answer_labels,
    class_labels,
    contrastive_inputs,
    one_image,
    two_images,
)

MASK = 4
VARIANTS = {
    "no momentum": {"use_momentum": False},
    "no distillation": {"use_distill": False},
    "token types": {"use_token_type_embeddings": True},
}


def albef_config(text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **options: Any) -> Any:
    """A configuration with hidden size 24 for images and 16 for texts, and one text layer below the fusion layers."""
    return AlbefConfig(
        vision_config={
            "image_size": SIZE,
            "patch_size": PATCH,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            **(vision or {}),
        },
        text_config={
            "vocab_size": VOCAB,
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "fusion_layer": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 40,
            **(text or {}),
        },
        **{
            "projection_dim": 8,
            "queue_size": QUEUE,
            "pad_token_id": PAD,
            "cls_token_id": CLS,
            "eos_token_id": SEP,
            "mask_token_id": MASK,
            **options,
        },
    )


FEATURES = Case(
    AlbefModel,
    albef_config,
    one_image,
    lambda batch: {},
    modes={"both": {}, "image": {"input_ids": None, "attention_mask": None}, "text": {"pixel_values": None}},
    required=(),
)
RETRIEVAL = Case(
    AlbefForImageTextRetrieval,
    albef_config,
    one_image,
    contrastive_inputs,
    modes=MATCHING,
    variants=VARIANTS,
    auto_classes=("AutoModelForZeroShotImageClassification", "AutoModelForImageTextRetrieval"),
    needs_negatives=True,
)
PRETRAINING = Case(
    AlbefForPreTraining,
    albef_config,
    one_image,
    contrastive_inputs,
    modes=MATCHING,
    variants=VARIANTS,
    auto_classes=("AutoModelForPreTraining",),
    needs_negatives=True,
)
ANSWERING = Case(
    AlbefForQuestionAnswering,
    albef_config,
    one_image,
    answer_labels,
    modes={"decoder": DECODER},
    variants=VARIANTS,
    auto_classes=("AutoModelForVisualQuestionAnswering",),
)
IMAGE_PAIRS = Case(
    AlbefForImagesAndTextClassification,
    albef_config,
    two_images,
    class_labels,
    variants=VARIANTS,
    auto_classes=("AutoModelForImagesAndTextClassification",),
)
CLASSIFICATION = Case(
    AlbefForImageAndTextClassification,
    albef_config,
    one_image,
    class_labels,
    variants=VARIANTS,
    auto_classes=("AutoModelForImageAndTextClassification",),
)
CASES = (FEATURES, RETRIEVAL, PRETRAINING, ANSWERING, IMAGE_PAIRS, CLASSIFICATION)

__all__ = ["CASES", "albef_config"]
