# SPDX-License-Identifier: Apache-2.0
"""ALPRO's table: the keys of checkpoints of LAVIS and of the original ALPRO repository, and how they are converted."""

from torch import Tensor

from modeling_lavis.hub import alpro_settings, initial_values
from modeling_lavis.hub import image_text as common
from modeling_lavis.hub.families import Architecture, Drop, Family, NewWeights, Shape, Signature
from modeling_lavis.hub.key_maps import KeyMap, Rename
from modeling_lavis.models.vision_vit import interpolate_sequence_positions

KEY_MAP = KeyMap(
    (
        Rename("visual_encoder.model.{rest}", "vision_model.{rest}"),
        Rename("text_encoder.bert.{rest}", "text_encoder.{rest}", alias=True),  # pretraining checkpoints
    )
)

_NEW_CLASSIFIER = NewWeights(
    "classifier.{rest}", initial_values.linear, "new classifier, normal weights and zero biases"
)
# The prompter and the head of prompting entity modeling, which only pretraining uses.
_PRETRAINING_MODULES = frozenset({"prompter", "mpm_head"})

ARCHITECTURES = {
    "alpro_retrieval": Architecture(
        modules=common.ENCODERS | common.PROJECTIONS | {"itm_head", "temp"},
        sources=("alpro_pretrain",),
    ),
    "alpro_qa": Architecture(
        modules=common.ENCODERS | {"classifier"},
        sources=("alpro_pretrain", "alpro_retrieval"),
        new_weights=(_NEW_CLASSIFIER,),
    ),
    # alpro_pretrain.pt, which LAVIS only fine-tunes from
    "alpro_pretrain": Architecture(
        modules=common.ENCODERS | common.PROJECTIONS | _PRETRAINING_MODULES | {"itm_head", "temp"},
    ),
}

SIGNATURES = (
    Signature("alpro_qa", has=(alpro_settings.VIDEO_ENCODER, "text_encoder.", "classifier.")),
    Signature("alpro_pretrain", has=(alpro_settings.VIDEO_ENCODER, "text_encoder.bert.", "vision_proj.", "itm_head.")),
    Signature("alpro_retrieval", has=(alpro_settings.VIDEO_ENCODER, "text_encoder.", "vision_proj.", "itm_head.")),
)


def resize_positions(name: str, table: Tensor, shape: Shape) -> Tensor:
    """Resize spatial position embeddings (after the class token) or temporal ones to another length."""
    # parity: the original uses nearest-neighbour interpolation in one dimension, also for the 2D patch grid
    prefix = 1 if name.endswith("pos_embed") else 0
    return interpolate_sequence_positions(table, shape[1] - prefix, prefix)


FAMILY = Family(
    name="alpro",
    key_map=KEY_MAP,
    architectures=ARCHITECTURES,
    signatures=SIGNATURES,
    drops=(
        common.POSITION_IDS,
        Drop("text_encoder.cls.{rest}", "MLM head, which only pretraining uses"),
    ),
    reset={},
    positions="vision_model.{kind}_embed",
    resizable_queues=frozenset(),
    build_config=alpro_settings.build_config,
    build_processor=alpro_settings.build_processor,
    build_generation_config=alpro_settings.build_generation_config,
    load_tokenizer=common.load_bert_tokenizer,
    known_settings=alpro_settings.KNOWN_SETTINGS,
    pretraining=frozenset({"alpro_pretrain"}),
    resize_positions=resize_positions,
)
