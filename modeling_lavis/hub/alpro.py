# SPDX-License-Identifier: Apache-2.0
"""ALPRO's table: the keys of LAVIS's and of the original ALPRO repository's checkpoints, and what becomes of them."""

from pathlib import Path
from typing import Any

from torch import Tensor

from modeling_lavis.hub import alpro_settings, initial_values
from modeling_lavis.hub import image_text as common
from modeling_lavis.hub.families import Architecture, Drop, Family, Fresh, Shape, Signature
from modeling_lavis.hub.key_maps import KeyMap, Rename
from modeling_lavis.models.vision_vit import interpolate_sequence_positions

KEY_MAP = KeyMap(
    (
        Rename("visual_encoder.model.{rest}", "vision_model.{rest}"),
        Rename("text_encoder.bert.{rest}", "text_encoder.{rest}", spelling=True),  # of pre-training
    )
)

_NEW_ANSWERS = Fresh("classifier.{rest}", initial_values.linear, "new classifier, normal weights and zero biases")
# Pre-training teaches with prompts and predicts their entities; neither is used again.
_ONLY_PRETRAINING = frozenset({"prompter", "mpm_head"})

ARCHITECTURES = {
    "alpro_retrieval": Architecture(
        model_class="AlproForVideoTextRetrieval",
        modules=common.TOWERS | common.PROJECTIONS | {"itm_head", "temp"},
        sources=("alpro_pretrain",),
    ),
    "alpro_qa": Architecture(
        model_class="AlproForVideoQuestionAnswering",
        modules=common.TOWERS | {"classifier"},
        sources=("alpro_pretrain", "alpro_retrieval"),
        fresh=(_NEW_ANSWERS,),
    ),
    # alpro_pretrain.pt, which LAVIS only starts others from
    "alpro_pretrain": Architecture(
        model_class="AlproForVideoTextRetrieval",
        modules=common.TOWERS | common.PROJECTIONS | _ONLY_PRETRAINING | {"itm_head", "temp"},
        is_start_only=True,
    ),
}

_TOWER = "visual_encoder.model."
SIGNATURES = (
    Signature("alpro_qa", has=(_TOWER, "text_encoder.", "classifier.")),
    Signature("alpro_pretrain", has=(_TOWER, "text_encoder.bert.", "vision_proj.", "itm_head.")),
    Signature("alpro_retrieval", has=(_TOWER, "text_encoder.", "vision_proj.", "itm_head.")),
)


def resize_positions(name: str, table: Tensor, shape: Shape) -> Tensor:
    """Positions of places (after the class token) or of frames for another number of them."""
    # parity: the original takes the nearest along the row of all places, also where they form a grid.
    prefix = 1 if name.endswith("pos_embed") else 0
    return interpolate_sequence_positions(table, shape[1] - prefix, prefix)


def load_tokenizer(source: str | Path | None) -> Any:
    """BERT's tokenizer without added tokens; see [`modeling_lavis.hub.image_text.load_tokenizer`]."""
    from modeling_lavis.models.tokenization_lavis import bert_tokenizer

    return common.load_tokenizer(source, bert_tokenizer)


FAMILY = Family(
    name="alpro",
    key_map=KEY_MAP,
    architectures=ARCHITECTURES,
    signatures=SIGNATURES,
    drops=(
        common.CONSTANT_POSITIONS,
        Drop("text_encoder.cls.{rest}", "head for hidden words, which only pre-training uses"),
    ),
    reset={},
    positions="vision_model.{kind}_embed",
    resizable_queues=frozenset(),
    build_config=alpro_settings.build_config,
    build_processor=alpro_settings.build_processor,
    build_generation_config=alpro_settings.build_generation_config,
    load_tokenizer=load_tokenizer,
    known_settings=alpro_settings.KNOWN_SETTINGS,
    pretraining=frozenset({"alpro_pretrain"}),
    resize_positions=resize_positions,
)
