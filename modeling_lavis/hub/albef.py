# SPDX-License-Identifier: Apache-2.0
"""ALBEF's table: the keys of checkpoints of LAVIS and of the original ALBEF repository, and how they are converted.

The text encoder of pretraining checkpoints contains the MLM head (`text_encoder.bert`, `text_encoder.cls`). Here the
two are always separate: `text_encoder` and `mlm_head`.
"""

from modeling_lavis.hub import albef_settings, initial_values
from modeling_lavis.hub import image_text as common
from modeling_lavis.hub.families import Architecture, Drop, Family, NewWeights, Signature
from modeling_lavis.hub.key_maps import KeyMap, Rename

_SUFFIXES = ("", "_m")
# First fusion layer in the original code, and first layer of the answer decoder that is initialized from it.
FUSION_LAYER = 6
_MAX_LAYERS = 48

KEY_MAP = KeyMap(
    (
        Rename("visual_encoder.{rest}", "vision_model.{rest}"),
        Rename("visual_encoder_m.{rest}", "vision_model_m.{rest}"),
        Rename("text_encoder.bert.{rest}", "text_encoder.{rest}", alias=True),
        Rename("text_encoder_m.bert.{rest}", "text_encoder_m.{rest}", alias=True),
        Rename("text_encoder.cls.{rest}", "mlm_head.{rest}"),
        Rename("text_encoder_m.cls.{rest}", "mlm_head_m.{rest}"),
        Rename("ptr_queue", "queue_ptr", alias=True),
    )
)
_PRETRAINING_RENAMES = tuple(Rename(f"text_encoder{s}.bert.{{rest}}", f"text_encoder{s}.{{rest}}") for s in _SUFFIXES)


def _answer_decoder_from_pretraining() -> tuple[Rename, ...]:
    """Initialize the answer decoder from the fusion layers and the MLM head, as the original does."""
    rows = []
    for suffix in _SUFFIXES:
        old, encoder, decoder = f"text_encoder{suffix}.bert", f"text_encoder{suffix}", f"text_decoder{suffix}"
        rows.append(
            Rename(
                f"{old}.embeddings.{{rest}}", (f"{encoder}.embeddings.{{rest}}", f"{decoder}.bert.embeddings.{{rest}}")
            )
        )
        rows.append(Rename(f"text_encoder{suffix}.cls.{{rest}}", f"{decoder}.cls.{{rest}}"))
        for layer in range(FUSION_LAYER, _MAX_LAYERS):
            to = f"{decoder}.bert.encoder.layer.{layer - FUSION_LAYER}.{{rest}}"
            rows.append(
                Rename(f"{old}.encoder.layer.{layer}.{{rest}}", (f"{encoder}.encoder.layer.{layer}.{{rest}}", to))
            )
    return tuple(rows)


def _first_layers_of_pairs() -> tuple[Drop, ...]:
    """Drop the keys and values of the first layer of each pair. The pair shares the second's, as in the original."""
    return tuple(
        Drop(
            f"text_encoder{suffix}.bert.encoder.layer.{layer}.crossattention.self.{part}.{{kind}}",
            "shared with the next layer, whose keys and values both use, as in the original",
        )
        for suffix in _SUFFIXES
        for layer in range(FUSION_LAYER, _MAX_LAYERS, 2)
        for part in ("key", "value")
    )


_DROP_MLM_HEAD = tuple(
    Drop(f"text_encoder{suffix}.cls.{{rest}}", "MLM head, which only pretraining uses") for suffix in _SUFFIXES
)
_DROP_ASSIGNMENT_HEAD = (Drop("ta_head.{rest}", "text-assignment head, which only pretraining uses"),)
_PRETRAINED = ("albef_pretrain", "albef_feature_extractor")
_NEW_LAYERS = NewWeights(
    "text_encoder.encoder.layer.{rest}",
    initial_values.bert_layer,
    "new layer, normal weights, LayerNorm weights one, zero biases",
)

ARCHITECTURES = {
    "albef_pretrain": Architecture(
        modules=common.ENCODERS | common.PROJECTIONS | {"itm_head", "temp"},
        momentum_modules=common.ENCODERS | common.PROJECTIONS,
        queues=common.QUEUES,
        new_weights=common.NEW_QUEUES,
        renames=_PRETRAINING_RENAMES,
    ),
    "albef_feature_extractor": Architecture(
        modules=common.ENCODERS | common.PROJECTIONS | {"temp"},
        sources=("albef_pretrain", "albef_retrieval"),
        renames=_PRETRAINING_RENAMES,
        drops=dict.fromkeys(_PRETRAINED, _DROP_MLM_HEAD),
    ),
    "albef_retrieval": Architecture(
        modules=common.ENCODERS | common.PROJECTIONS | {"itm_head", "temp"},
        momentum_modules=common.ENCODERS | common.PROJECTIONS,
        queues=common.QUEUES | common.ID_QUEUE,
        sources=("albef_pretrain",),
        new_weights=(*common.NEW_QUEUES, common.NEW_ID_QUEUE),
        drops={"albef_pretrain": _DROP_MLM_HEAD},
    ),
    "albef_vqa": Architecture(
        modules=common.ENCODERS | {"text_decoder"},
        momentum_modules=common.ENCODERS | {"text_decoder"},
        sources=_PRETRAINED,
        transfer_renames=dict.fromkeys(_PRETRAINED, _answer_decoder_from_pretraining()),
    ),
    "albef_nlvr": Architecture(
        modules=common.ENCODERS | {"cls_head"},
        momentum_modules=common.ENCODERS | {"cls_head"},
        sources=("albef_nlvr_pretrain", *_PRETRAINED),
        new_weights=(common.NEW_HEAD, _NEW_LAYERS),
        drops={
            "albef_nlvr_pretrain": _DROP_ASSIGNMENT_HEAD + _DROP_MLM_HEAD,
            **dict.fromkeys(_PRETRAINED, _DROP_MLM_HEAD + _first_layers_of_pairs()),
        },
    ),
    "albef_classification": Architecture(
        modules=common.ENCODERS | {"cls_head"},
        momentum_modules=common.ENCODERS | {"cls_head"},
        sources=(*_PRETRAINED, "albef_retrieval"),
        new_weights=(common.NEW_HEAD,),
        drops=dict.fromkeys(_PRETRAINED, _DROP_MLM_HEAD),
    ),
    # pretrain_model_nlvr.pth: a text encoder with pairs of fusion layers, trained on text assignment
    "albef_nlvr_pretrain": Architecture(
        modules=common.ENCODERS | {"ta_head"},
        momentum_modules=common.ENCODERS,
    ),
}

_PAIRED_LAYERS = "encoder.layer.12."  # only the text encoder for two images has more than 12 layers
SIGNATURES = (
    Signature("albef_vqa", has=("visual_encoder.", "text_encoder.", "text_decoder.")),
    Signature("albef_nlvr", has=("visual_encoder.", f"text_encoder.{_PAIRED_LAYERS}", "cls_head.")),
    Signature("albef_nlvr_pretrain", has=("visual_encoder.", f"text_encoder.{_PAIRED_LAYERS}"), lacks=("itm_head.",)),
    Signature(
        "albef_nlvr_pretrain", has=("visual_encoder.", f"text_encoder.bert.{_PAIRED_LAYERS}"), lacks=("itm_head.",)
    ),
    Signature("albef_pretrain", has=("visual_encoder.", "text_encoder.bert.", "text_encoder.cls.", "itm_head.")),
    Signature("albef_feature_extractor", has=("visual_encoder.", "text_encoder.bert.", "vision_proj.")),
    Signature("albef_classification", has=("visual_encoder.", "text_encoder.", "cls_head.")),
    Signature("albef_retrieval", has=("visual_encoder.", "text_encoder.", "itm_head.")),
)

FAMILY = Family(
    name="albef",
    key_map=KEY_MAP,
    architectures=ARCHITECTURES,
    signatures=SIGNATURES,
    drops=(common.POSITION_IDS,),
    reset={},
    positions="{encoder}.pos_embed",
    resizable_queues=common.QUEUES | common.ID_QUEUE,
    build_config=albef_settings.build_config,
    build_processor=albef_settings.build_processor,
    build_generation_config=albef_settings.build_generation_config,
    load_tokenizer=common.load_bert_tokenizer,
    known_settings=albef_settings.KNOWN_SETTINGS,
    pretraining=frozenset({"albef_pretrain", "albef_nlvr_pretrain"}),
    orphaned_momentum_keys=("{encoder}_m.cls.predictions.decoder.{part}",),
)
