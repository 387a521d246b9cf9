# SPDX-License-Identifier: Apache-2.0
"""BLIP's table: the keys of checkpoints of LAVIS and of the original BLIP repository, and how they are converted."""

from pathlib import Path
from typing import Any

from modeling_lavis.hub import blip_settings, initial_values
from modeling_lavis.hub import image_text as common
from modeling_lavis.hub.families import Architecture, Family, NewWeights, Signature
from modeling_lavis.hub.key_maps import KeyMap, Rename

KEY_MAP = KeyMap(
    (
        Rename("visual_encoder.{rest}", "vision_model.{rest}"),
        Rename("visual_encoder_m.{rest}", "vision_model_m.{rest}"),
        Rename("ptr_queue", "queue_ptr", alias=True),  # retrieval model of the original BLIP repository
    )
)

_CROSS = "text_encoder.encoder.layer.{layer:d}.crossattention"
# Both images get a copy of the pretrained cross-attention, as in the original.
_COPY_CROSS_ATTENTION = (
    Rename(f"{_CROSS}.self.{{rest}}", (f"{_CROSS}.self0.{{rest}}", f"{_CROSS}.self1.{{rest}}")),
    Rename(f"{_CROSS}.output.dense.{{rest}}", (f"{_CROSS}.output.dense0.{{rest}}", f"{_CROSS}.output.dense1.{{rest}}")),
)
# The published checkpoint for blip_classification is a captioning model, whose text layers are in the decoder.
_ENCODER_FROM_DECODER = (Rename("text_decoder.bert.{rest}", "text_encoder.{rest}"),)

_WITH_TEXT_ENCODER = ("blip_pretrain", "blip_retrieval", "blip_image_text_matching", "blip_feature_extractor")

_NEW_MERGE_LAYERS = NewWeights(
    "{rest}.merge_layer.{part}", initial_values.linear, "new merge layer, normal weights and zero biases"
)

ARCHITECTURES = {
    "blip_pretrain": Architecture(
        modules=common.ENCODERS | common.PROJECTIONS | {"itm_head", "temp", "text_decoder"},
        momentum_modules=common.ENCODERS | common.PROJECTIONS,
        queues=common.QUEUES,
        new_weights=common.NEW_QUEUES,
    ),
    "blip_retrieval": Architecture(
        modules=common.ENCODERS | common.PROJECTIONS | {"itm_head", "temp"},
        momentum_modules=common.ENCODERS | common.PROJECTIONS,
        queues=common.QUEUES | common.ID_QUEUE,
        sources=("blip_pretrain", "blip_image_text_matching"),
        new_weights=(*common.NEW_QUEUES, common.NEW_ID_QUEUE, common.NEW_TEMPERATURE),
    ),
    "blip_image_text_matching": Architecture(
        modules=common.ENCODERS | common.PROJECTIONS | {"itm_head", "temp"},
        sources=("blip_retrieval", "blip_pretrain"),
        new_weights=(common.OPTIONAL_TEMPERATURE,),  # missing from checkpoints that LAVIS saved: its class has none
    ),
    "blip_feature_extractor": Architecture(
        modules=common.ENCODERS | common.PROJECTIONS | {"temp"},
        sources=("blip_pretrain", "blip_retrieval", "blip_image_text_matching"),
        new_weights=(common.NEW_TEMPERATURE,),
    ),
    "blip_caption": Architecture(
        modules=frozenset({"visual_encoder", "text_decoder"}),
        sources=("blip_pretrain",),
    ),
    "blip_vqa": Architecture(
        modules=common.ENCODERS | {"text_decoder"},
        sources=("blip_pretrain",),
    ),
    "blip_nlvr": Architecture(
        modules=common.ENCODERS | {"cls_head"},
        sources=_WITH_TEXT_ENCODER,
        transfer_renames=dict.fromkeys(_WITH_TEXT_ENCODER, _COPY_CROSS_ATTENTION),
        new_weights=(common.NEW_HEAD, _NEW_MERGE_LAYERS),
    ),
    "blip_classification": Architecture(
        modules=common.ENCODERS | {"cls_head"},
        momentum_modules=common.ENCODERS | {"cls_head"},
        sources=(*_WITH_TEXT_ENCODER, "blip_caption"),
        transfer_renames={"blip_caption": _ENCODER_FROM_DECODER},
        new_weights=(common.NEW_HEAD,),
    ),
}

SIGNATURES = (
    Signature("blip_nlvr", has=("visual_encoder.", "text_encoder.encoder.layer.0.crossattention.self0.")),
    Signature("blip_pretrain", has=("visual_encoder.", "text_encoder.", "text_decoder.", "itm_head.")),
    Signature("blip_vqa", has=("visual_encoder.", "text_encoder.", "text_decoder."), lacks=("itm_head.",)),
    Signature("blip_caption", has=("visual_encoder.", "text_decoder."), lacks=("text_encoder.",)),
    Signature("blip_classification", has=("visual_encoder.", "text_encoder.", "cls_head.")),
    Signature("blip_retrieval", has=("visual_encoder.", "text_encoder.", "itm_head.", "temp", "image_queue")),
    Signature("blip_image_text_matching", has=("visual_encoder.", "text_encoder.", "itm_head.")),
    Signature("blip_feature_extractor", has=("visual_encoder.", "text_encoder.", "vision_proj.")),
)


def load_tokenizer(source: str | Path | None) -> Any:
    """Load BERT's tokenizer with `[DEC]` and `[ENC]`; see [`modeling_lavis.hub.image_text.load_tokenizer`]."""
    from modeling_lavis.models.tokenization_lavis import blip_tokenizer

    return common.load_tokenizer(source, blip_tokenizer)


FAMILY = Family(
    name="blip",
    key_map=KEY_MAP,
    architectures=ARCHITECTURES,
    signatures=SIGNATURES,
    drops=(common.POSITION_IDS,),
    reset={"queue_ptr": "reset to 0 after loading, as in the original"},
    positions="{encoder}.pos_embed",
    resizable_queues=common.QUEUES | common.ID_QUEUE,
    build_config=blip_settings.build_config,
    build_processor=blip_settings.build_processor,
    build_generation_config=blip_settings.build_generation_config,
    load_tokenizer=load_tokenizer,
    known_settings=blip_settings.KNOWN_SETTINGS,
    pretraining=frozenset({"blip_pretrain"}),
)
