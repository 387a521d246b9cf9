# SPDX-License-Identifier: Apache-2.0
"""ALBEF's table: the keys of LAVIS's and of the original ALBEF repository's checkpoints, and what becomes of them.

The text transformer of pre-training carries its head for hidden words inside (`text_encoder.bert`, `text_encoder.cls`);
here it is `text_encoder` and `mlm_head` everywhere.
"""

from pathlib import Path
from typing import Any

from modeling_lavis.hub import albef_settings, initial_values
from modeling_lavis.hub import image_text as common
from modeling_lavis.hub.families import Architecture, Drop, Family, Fresh, Signature
from modeling_lavis.hub.key_maps import KeyMap, Rename

_SUFFIXES = ("", "_m")
# The layers from here on read images, and become the decoder of answers; the original fixes the number.
FUSION_LAYER = 6
_MOST_LAYERS = 48

KEY_MAP = KeyMap(
    (
        Rename("visual_encoder.{rest}", "vision_model.{rest}"),
        Rename("visual_encoder_m.{rest}", "vision_model_m.{rest}"),
        Rename("text_encoder.bert.{rest}", "text_encoder.{rest}", spelling=True),
        Rename("text_encoder_m.bert.{rest}", "text_encoder_m.{rest}", spelling=True),
        Rename("text_encoder.cls.{rest}", "mlm_head.{rest}"),
        Rename("text_encoder_m.cls.{rest}", "mlm_head_m.{rest}"),
        Rename("ptr_queue", "queue_ptr", spelling=True),
    )
)
# What pre-training calls its text transformer.
_WITH_HEAD = tuple(Rename(f"text_encoder{s}.bert.{{rest}}", f"text_encoder{s}.{{rest}}") for s in _SUFFIXES)


def _answers_from_pretraining() -> tuple[Rename, ...]:
    """The decoder of answers starts as the fusion layers and the head for hidden words."""
    rows = []
    for suffix in _SUFFIXES:
        old, encoder, decoder = f"text_encoder{suffix}.bert", f"text_encoder{suffix}", f"text_decoder{suffix}"
        rows.append(
            Rename(
                f"{old}.embeddings.{{rest}}", (f"{encoder}.embeddings.{{rest}}", f"{decoder}.bert.embeddings.{{rest}}")
            )
        )
        rows.append(Rename(f"text_encoder{suffix}.cls.{{rest}}", f"{decoder}.cls.{{rest}}"))
        for layer in range(FUSION_LAYER, _MOST_LAYERS):
            to = f"{decoder}.bert.encoder.layer.{layer - FUSION_LAYER}.{{rest}}"
            rows.append(
                Rename(f"{old}.encoder.layer.{layer}.{{rest}}", (f"{encoder}.encoder.layer.{layer}.{{rest}}", to))
            )
    return tuple(rows)


def _first_of_pairs() -> tuple[Drop, ...]:
    """Keys and values that a pair of layers cannot both keep: the original keeps those of the second."""
    return tuple(
        Drop(
            f"text_encoder{suffix}.bert.encoder.layer.{layer}.crossattention.self.{part}.{{kind}}",
            "shared with the next layer here, whose keys and values both take, as in the original",
        )
        for suffix in _SUFFIXES
        for layer in range(FUSION_LAYER, _MOST_LAYERS, 2)
        for part in ("key", "value")
    )


_NO_HIDDEN_WORDS = tuple(
    Drop(f"text_encoder{suffix}.cls.{{rest}}", "head for hidden words, which only pre-training uses")
    for suffix in _SUFFIXES
)
_NO_ASSIGNMENT = (Drop("ta_head.{rest}", "head for assigning texts to images, which only pre-training uses"),)
_PRETRAINED = ("albef_pretrain", "albef_feature_extractor")
_NEW_LAYERS = Fresh(
    "text_encoder.encoder.layer.{rest}",
    initial_values.bert_layer,
    "new layer, normal weights, norms one and biases zero",
)

ARCHITECTURES = {
    "albef_pretrain": Architecture(
        model_class="AlbefForPreTraining",
        modules=common.TOWERS | common.PROJECTIONS | {"itm_head", "temp"},
        twins=common.TOWERS | common.PROJECTIONS,
        queues=common.QUEUES,
        fresh=common.FRESH_QUEUES,
        renames=_WITH_HEAD,
    ),
    "albef_feature_extractor": Architecture(
        model_class="AlbefModel",
        modules=common.TOWERS | common.PROJECTIONS | {"temp"},
        sources=("albef_pretrain", "albef_retrieval"),
        renames=_WITH_HEAD,
        drops=dict.fromkeys(_PRETRAINED, _NO_HIDDEN_WORDS),
    ),
    "albef_retrieval": Architecture(
        model_class="AlbefForImageTextRetrieval",
        modules=common.TOWERS | common.PROJECTIONS | {"itm_head", "temp"},
        twins=common.TOWERS | common.PROJECTIONS,
        queues=common.QUEUES | common.ID_QUEUE,
        sources=("albef_pretrain",),
        fresh=(*common.FRESH_QUEUES, common.FRESH_IDS),
        drops={"albef_pretrain": _NO_HIDDEN_WORDS},
    ),
    "albef_vqa": Architecture(
        model_class="AlbefForQuestionAnswering",
        modules=common.TOWERS | {"text_decoder"},
        twins=common.TOWERS | {"text_decoder"},
        sources=_PRETRAINED,
        transfer_renames=dict.fromkeys(_PRETRAINED, _answers_from_pretraining()),
    ),
    "albef_nlvr": Architecture(
        model_class="AlbefForImagesAndTextClassification",
        modules=common.TOWERS | {"cls_head"},
        twins=common.TOWERS | {"cls_head"},
        sources=("albef_nlvr_pretrain", *_PRETRAINED),
        fresh=(common.NEW_HEAD, _NEW_LAYERS),
        drops={
            "albef_nlvr_pretrain": _NO_ASSIGNMENT + _NO_HIDDEN_WORDS,
            **dict.fromkeys(_PRETRAINED, _NO_HIDDEN_WORDS + _first_of_pairs()),
        },
    ),
    "albef_classification": Architecture(
        model_class="AlbefForImageAndTextClassification",
        modules=common.TOWERS | {"cls_head"},
        twins=common.TOWERS | {"cls_head"},
        sources=(*_PRETRAINED, "albef_retrieval"),
        fresh=(common.NEW_HEAD,),
        drops=dict.fromkeys(_PRETRAINED, _NO_HIDDEN_WORDS),
    ),
    # pretrain_model_nlvr.pth: the text transformer in pairs of layers, trained to assign texts to images
    "albef_nlvr_pretrain": Architecture(
        model_class="AlbefForImagesAndTextClassification",
        modules=common.TOWERS | {"ta_head"},
        twins=common.TOWERS,
        is_start_only=True,
    ),
}

_PAIRS = "encoder.layer.12."  # only the text transformer for two images has more than 12 layers
SIGNATURES = (
    Signature("albef_vqa", has=("visual_encoder.", "text_encoder.", "text_decoder.")),
    Signature("albef_nlvr", has=("visual_encoder.", f"text_encoder.{_PAIRS}", "cls_head.")),
    Signature("albef_nlvr_pretrain", has=("visual_encoder.", f"text_encoder.{_PAIRS}"), lacks=("itm_head.",)),
    Signature("albef_nlvr_pretrain", has=("visual_encoder.", f"text_encoder.bert.{_PAIRS}"), lacks=("itm_head.",)),
    Signature("albef_pretrain", has=("visual_encoder.", "text_encoder.bert.", "text_encoder.cls.", "itm_head.")),
    Signature("albef_feature_extractor", has=("visual_encoder.", "text_encoder.bert.", "vision_proj.")),
    Signature("albef_classification", has=("visual_encoder.", "text_encoder.", "cls_head.")),
    Signature("albef_retrieval", has=("visual_encoder.", "text_encoder.", "itm_head.")),
)


def load_tokenizer(source: str | Path | None) -> Any:
    """BERT's tokenizer without added tokens; see [`modeling_lavis.hub.image_text.load_tokenizer`]."""
    from modeling_lavis.models.tokenization_lavis import bert_tokenizer

    return common.load_tokenizer(source, bert_tokenizer)


FAMILY = Family(
    name="albef",
    key_map=KEY_MAP,
    architectures=ARCHITECTURES,
    signatures=SIGNATURES,
    drops=(common.CONSTANT_POSITIONS,),
    reset={},
    positions="{tower}.pos_embed",
    resizable_queues=common.QUEUES | common.ID_QUEUE,
    build_config=albef_settings.build_config,
    build_processor=albef_settings.build_processor,
    build_generation_config=albef_settings.build_generation_config,
    load_tokenizer=load_tokenizer,
    known_settings=albef_settings.KNOWN_SETTINGS,
    pretraining=frozenset({"albef_pretrain", "albef_nlvr_pretrain"}),
    leftovers=("{twin}_m.cls.predictions.decoder.{part}",),
)
