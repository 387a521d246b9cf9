"""Tiny BLIP models and batches for the contract tests.

Shapes: B batch size, T text tokens.
"""

from typing import Any

import torch
from torch import Tensor

from modeling_lavis import (
    LavisBlipConfig,
    LavisBlipForConditionalGeneration,
    LavisBlipForImageAndTextClassification,
    LavisBlipForImagesAndTextClassification,
    LavisBlipForImageTextRetrieval,
    LavisBlipForPreTraining,
    LavisBlipForQuestionAnswering,
    LavisBlipModel,
)
from tests.models.contract import Case

PAD, CLS, SEP, DEC, ENC, VOCAB = 0, 2, 3, 58, 59, 60
SIZE, PATCH, QUEUE = 32, 16, 10


def blip_config(text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **options: Any) -> Any:
    """A configuration with hidden size 24 for images and 16 for texts."""
    return LavisBlipConfig(
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
            "num_hidden_layers": 2,
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
            "bos_token_id": DEC,
            "enc_token_id": ENC,
            **options,
        },
    )


def pixels(*shape: int, seed: int = 0) -> Tensor:
    """Normal noise of shape `(*shape, 3, SIZE, SIZE)`."""
    return torch.randn(*shape, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def texts(batch: int, length: int = 6, padded: bool = True, seed: int = 1) -> dict[str, Tensor]:
    """`[CLS] tokens [SEP]`; in a padded batch, every second row is two tokens shorter."""
    ids = torch.randint(5, DEC, (batch, length), generator=torch.Generator().manual_seed(seed))
    ids[:, 0], ids[:, -1] = CLS, SEP
    mask = torch.ones_like(ids)
    if padded:
        ids[1::2, -3], ids[1::2, -2:], mask[1::2, -2:] = SEP, PAD, 0
    return {"input_ids": ids, "attention_mask": mask}


def one_image(batch: int, padded: bool = True) -> dict[str, Tensor]:
    return {"pixel_values": pixels(batch), **texts(batch, padded=padded)}


def two_images(batch: int, padded: bool = True) -> dict[str, Tensor]:
    return {"pixel_values": pixels(batch, 2), **texts(batch, padded=padded)}


def caption_labels(batch: int) -> dict[str, Tensor]:
    text = texts(batch)
    labels = text["input_ids"].masked_fill(text["attention_mask"] == 0, -100)
    labels[:, :2] = -100
    return {"labels": labels}


def answer_labels(batch: int) -> dict[str, Tensor]:
    """Two answers for the first question, one for each of the others."""
    text = texts(batch + 1, length=4, seed=5)
    labels = text["input_ids"].masked_fill(text["attention_mask"] == 0, -100)
    labels[:, 0] = DEC
    counts = torch.ones(batch, dtype=torch.long)
    counts[0] = 2
    return {"labels": labels, "answer_counts": counts, "answer_weights": torch.rand(batch + 1) + 0.1}


def contrastive_inputs(batch: int) -> dict[str, Any]:
    return {"image_ids": torch.arange(batch) + 7, "return_loss": True}


def class_labels(batch: int) -> dict[str, Tensor]:
    return {"labels": torch.arange(batch) % 2}


_MATCHING = {name: {"match_head": name} for name in ("itc", "itm", "both")}
_DECODER = {"decoder_input_ids": torch.tensor([[DEC, 5, 6, 7], [DEC, 8, 9, 10], [DEC, 11, 12, 13]])}

FEATURES = Case(
    LavisBlipModel,
    blip_config,
    one_image,
    lambda batch: {},
    modes={"both": {}, "image": {"input_ids": None, "attention_mask": None}, "text": {"pixel_values": None}},
    required=(),
)
RETRIEVAL = Case(
    LavisBlipForImageTextRetrieval,
    blip_config,
    one_image,
    contrastive_inputs,
    modes=_MATCHING,
    variants={
        "no momentum": {"use_momentum": False},
        "no distillation": {"use_distill": False},
        "negatives of all ranks": {"negative_all_rank": True},
        "no enc token": {"enc_token_id": None},
    },
    auto_classes=("AutoModelForZeroShotImageClassification", "AutoModelForImageTextRetrieval"),
    needs_negatives=True,
)
PRETRAINING = Case(
    LavisBlipForPreTraining,
    blip_config,
    one_image,
    contrastive_inputs,
    modes={**_MATCHING, "decoder": _DECODER},
    variants={"no momentum": {"use_momentum": False}, "no distillation": {"use_distill": False}},
    auto_classes=("AutoModelForPreTraining",),
    needs_negatives=True,
)
CAPTIONING = Case(
    LavisBlipForConditionalGeneration,
    blip_config,
    one_image,
    caption_labels,
    auto_classes=("AutoModelForImageTextToText",),
)
ANSWERING = Case(
    LavisBlipForQuestionAnswering,
    blip_config,
    one_image,
    answer_labels,
    modes={"decoder": _DECODER},
    auto_classes=("AutoModelForVisualQuestionAnswering",),
)
IMAGE_PAIRS = Case(
    LavisBlipForImagesAndTextClassification,
    lambda **options: blip_config(**{**options, "text": {"merge_from_layer": 1, **options.get("text", {})}}),
    two_images,
    class_labels,
    auto_classes=("AutoModelForImagesAndTextClassification",),
)
CLASSIFICATION = Case(
    LavisBlipForImageAndTextClassification,
    blip_config,
    one_image,
    class_labels,
    variants={"no momentum": {"use_momentum": False}, "no distillation": {"use_distill": False}},
    auto_classes=("AutoModelForImageAndTextClassification",),
)
CASES = (FEATURES, RETRIEVAL, PRETRAINING, CAPTIONING, ANSWERING, IMAGE_PAIRS, CLASSIFICATION)

__all__ = ["CASES", "blip_config", "one_image", "pixels", "texts", "two_images"]
