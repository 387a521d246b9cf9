"""Tiny ALPRO models and batches for the contract tests.

Shapes: B batch size, F frames.
"""

from typing import Any

from torch import Tensor

from modeling_lavis import AlproConfig, AlproForVideoQuestionAnswering, AlproForVideoTextRetrieval, AlproModel
from tests.models.contract import Case
from tests.models.lavis_blip_cases import (
    CLS,
    PAD,
    PATCH,
    SEP,
    SIZE,
    VOCAB,
    class_labels,
    contrastive_inputs,
    pixels,
    texts,
)

FRAMES, HIDDEN_SIZE = 3, 16


def alpro_config(text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **options: Any) -> Any:
    """A configuration with two space-time blocks, one text layer and one multimodal layer."""
    return AlproConfig(
        vision_config={
            "image_size": SIZE,
            "patch_size": PATCH,
            "num_frames": FRAMES,
            "hidden_size": HIDDEN_SIZE,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "drop_path_rate": 0.0,
            **(vision or {}),
        },
        text_config={
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN_SIZE,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 40,
            **(text or {}),
        },
        **{"projection_dim": 8, "pad_token_id": PAD, "cls_token_id": CLS, "eos_token_id": SEP, **options},
    )


def one_clip(batch: int, padded: bool = True) -> dict[str, Tensor]:
    return {"pixel_values_videos": pixels(batch, FRAMES), **texts(batch, padded=padded)}


_NEEDED = ("pixel_values_videos", "input_ids")
FEATURES = Case(
    AlproModel,
    alpro_config,
    one_clip,
    lambda batch: {},
    modes={"both": {}, "video": {"input_ids": None, "attention_mask": None}, "text": {"pixel_values_videos": None}},
    required=(),
    pixel_name="pixel_values_videos",
)
RETRIEVAL = Case(
    AlproForVideoTextRetrieval,
    alpro_config,
    one_clip,
    contrastive_inputs,
    modes={name: {"match_head": name} for name in ("vtc", "vtm", "both")},
    required=_NEEDED,
    auto_classes=("AutoModelForVideoTextRetrieval",),
    needs_negatives=True,
    pixel_name="pixel_values_videos",
)
ANSWERING = Case(
    AlproForVideoQuestionAnswering,
    lambda **options: alpro_config(**{"num_labels": 5, **options}),
    one_clip,
    class_labels,
    required=_NEEDED,
    auto_classes=("AutoModelForVideoQuestionAnswering",),
    pixel_name="pixel_values_videos",
)
CASES = (FEATURES, RETRIEVAL, ANSWERING)
