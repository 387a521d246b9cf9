# SPDX-License-Identifier: Apache-2.0
"""BLIP's table: the keys of LAVIS's and of the original BLIP repository's checkpoints, and what becomes of them."""

from pathlib import Path
from typing import Any

from modeling_lavis.hub import blip_settings, initial_values
from modeling_lavis.hub.families import Architecture, Drop, Family, Fresh, Signature
from modeling_lavis.hub.key_maps import KeyMap, Rename

PUBLISHED_TOKENIZER = "bert-base-uncased"

KEY_MAP = KeyMap(
    (
        Rename("visual_encoder.{rest}", "vision_model.{rest}"),
        Rename("visual_encoder_m.{rest}", "vision_model_m.{rest}"),
        Rename("ptr_queue", "queue_ptr", spelling=True),  # the original BLIP repository's retrieval model
    )
)

_CROSS = "text_encoder.encoder.layer.{layer:d}.crossattention"
# One image reader becomes two equal ones, as the original does when it starts NLVR from pre-training.
_TWO_IMAGES = (
    Rename(f"{_CROSS}.self.{{rest}}", (f"{_CROSS}.self0.{{rest}}", f"{_CROSS}.self1.{{rest}}")),
    Rename(f"{_CROSS}.output.dense.{{rest}}", (f"{_CROSS}.output.dense0.{{rest}}", f"{_CROSS}.output.dense1.{{rest}}")),
)
# The published start of blip_classification is a captioner: its text layers are in the decoder.
_ENCODER_FROM_DECODER = (Rename("text_decoder.bert.{rest}", "text_encoder.{rest}"),)

_TOWERS = frozenset({"visual_encoder", "text_encoder"})
_PROJECTIONS = frozenset({"vision_proj", "text_proj"})
_QUEUES = frozenset({"image_queue", "text_queue", "queue_ptr"})
_ID_QUEUE = frozenset({"idx_queue"})

_WITH_TEXT_ENCODER = ("blip_pretrain", "blip_retrieval", "blip_image_text_matching", "blip_feature_extractor")

_NEW_HEAD = Fresh("cls_head.{rest}", initial_values.linear, "new classification head, normal weights and zero biases")
_NEW_MERGE = Fresh("{rest}.merge_layer.{part}", initial_values.linear, "new merge of two images, normal and zero")
_TEMPERATURE = Fresh("temp", initial_values.temperature, "temperature at its start", only_in_transfer=False)
_FRESH_QUEUES = (
    Fresh("image_queue", initial_values.feature_queue, "random features", only_in_transfer=False),
    Fresh("text_queue", initial_values.feature_queue, "random features", only_in_transfer=False),
    Fresh("queue_ptr", initial_values.zero_pointer, "zero", only_in_transfer=False),
)
_FRESH_IDS = Fresh("idx_queue", initial_values.empty_id_queue, "-100, the id of no image", only_in_transfer=False)

ARCHITECTURES = {
    "blip_pretrain": Architecture(
        model_class="LavisBlipForPreTraining",
        modules=_TOWERS | _PROJECTIONS | {"itm_head", "temp", "text_decoder"},
        twins=_TOWERS | _PROJECTIONS,
        queues=_QUEUES,
        fresh=_FRESH_QUEUES,
    ),
    "blip_retrieval": Architecture(
        model_class="LavisBlipForImageTextRetrieval",
        modules=_TOWERS | _PROJECTIONS | {"itm_head", "temp"},
        twins=_TOWERS | _PROJECTIONS,
        queues=_QUEUES | _ID_QUEUE,
        sources=("blip_pretrain", "blip_image_text_matching"),
        fresh=(*_FRESH_QUEUES, _FRESH_IDS, Fresh("temp", initial_values.temperature, "temperature at its start")),
    ),
    "blip_image_text_matching": Architecture(
        model_class="LavisBlipForImageTextRetrieval",
        modules=_TOWERS | _PROJECTIONS | {"itm_head", "temp"},
        sources=("blip_retrieval", "blip_pretrain"),
        fresh=(_TEMPERATURE,),  # LAVIS's class has none, so files that it saved have none either
    ),
    "blip_feature_extractor": Architecture(
        model_class="LavisBlipModel",
        modules=_TOWERS | _PROJECTIONS | {"temp"},
        sources=("blip_pretrain", "blip_retrieval", "blip_image_text_matching"),
        fresh=(Fresh("temp", initial_values.temperature, "temperature at its start"),),
    ),
    "blip_caption": Architecture(
        model_class="LavisBlipForConditionalGeneration",
        modules=frozenset({"visual_encoder", "text_decoder"}),
        sources=("blip_pretrain",),
    ),
    "blip_vqa": Architecture(
        model_class="LavisBlipForQuestionAnswering",
        modules=_TOWERS | {"text_decoder"},
        sources=("blip_pretrain",),
    ),
    "blip_nlvr": Architecture(
        model_class="LavisBlipForImagesAndTextClassification",
        modules=_TOWERS | {"cls_head"},
        sources=_WITH_TEXT_ENCODER,
        transfer_renames=dict.fromkeys(_WITH_TEXT_ENCODER, _TWO_IMAGES),
        fresh=(_NEW_HEAD, _NEW_MERGE),
    ),
    "blip_classification": Architecture(
        model_class="LavisBlipForImageAndTextClassification",
        modules=_TOWERS | {"cls_head"},
        twins=_TOWERS | {"cls_head"},
        sources=(*_WITH_TEXT_ENCODER, "blip_caption"),
        transfer_renames={"blip_caption": _ENCODER_FROM_DECODER},
        fresh=(_NEW_HEAD,),
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
    """BLIP's tokenizer: BERT's with `[DEC]` and `[ENC]` added.

    Args:
        source: folder or Hub id of a BERT tokenizer; `bert-base-uncased` when not given.

    Raises:
        OSError: there is no tokenizer, or no network to fetch the published one; says what to give.
    """
    from modeling_lavis.models.tokenization_lavis import blip_tokenizer

    name = str(source or PUBLISHED_TOKENIZER)
    try:
        tokenizer = blip_tokenizer(name)
    except Exception as error:  # tokenizers raises bare exceptions for damaged files
        raise _no_tokenizer(name, (str(error).strip().splitlines() or ["it cannot be read"])[0]) from error
    # Offline, transformers answers the name of a repository that it has not cached with an empty vocabulary.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise _no_tokenizer(name, "it has no words, so it is not in the cache and cannot be fetched.")
    return tokenizer


def _no_tokenizer(name: str, reason: str) -> OSError:
    return OSError(
        f"The tokenizer {name!r} could not be loaded: {reason} Give the folder of a BERT tokenizer (or just of its "
        "vocab.txt), or a Hub id that is reachable, with --tokenizer."
    )


FAMILY = Family(
    name="blip",
    key_map=KEY_MAP,
    architectures=ARCHITECTURES,
    signatures=SIGNATURES,
    drops=(Drop("{rest}.position_ids", "a constant, the numbers of the positions"),),
    reset={"queue_ptr": "starts at 0 after loading, as in the original"},
    positions="{tower}.pos_embed",
    resizable_queues=_QUEUES | _ID_QUEUE,
    build_config=blip_settings.build_config,
    build_processor=blip_settings.build_processor,
    build_generation_config=blip_settings.build_generation_config,
    load_tokenizer=load_tokenizer,
    known_settings=blip_settings.KNOWN_SETTINGS,
    pretraining="blip_pretrain",
)
