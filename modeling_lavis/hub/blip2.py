# SPDX-License-Identifier: Apache-2.0
"""BLIP-2's table: the keys of LAVIS's checkpoints, of the image towers and language models beside them, and ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeling_lavis.hub import blip2_settings, initial_values
from modeling_lavis.hub import image_text as common
from modeling_lavis.hub.families import Architecture, Drop, Family, Fresh, Signature
from modeling_lavis.hub.key_maps import KeyMap, Rename
from modeling_lavis.hub.parts import WithParts, language_model_weights, tower_weights
from modeling_lavis.models.vision_vit import interpolate_grid_positions

TOWER = "visual_encoder."
_CLIP = TOWER + "transformer.resblocks.{block:d}."
_OURS = "vision_model.blocks.{block}."
KEY_MAP = KeyMap(
    (
        # CLIP's names are read, but the way back is that of the usual tower.
        Rename(f"{TOWER}class_embedding", "vision_model.cls_token", spelling=True),
        Rename(f"{TOWER}positional_embedding", "vision_model.pos_embed", spelling=True),
        Rename(f"{TOWER}conv1.{{rest}}", "vision_model.patch_embed.proj.{rest}", spelling=True),
        Rename(f"{_CLIP}attn.in_proj_{{part}}", f"{_OURS}attn.qkv.{{part}}", spelling=True),
        Rename(f"{_CLIP}attn.out_proj.{{part}}", f"{_OURS}attn.proj.{{part}}", spelling=True),
        Rename(f"{_CLIP}ln_1.{{part}}", f"{_OURS}norm1.{{part}}", spelling=True),
        Rename(f"{_CLIP}ln_2.{{part}}", f"{_OURS}norm2.{{part}}", spelling=True),
        Rename(f"{_CLIP}mlp.c_fc.{{part}}", f"{_OURS}mlp.fc1.{{part}}", spelling=True),
        Rename(f"{_CLIP}mlp.c_proj.{{part}}", f"{_OURS}mlp.fc2.{{part}}", spelling=True),
        Rename(f"{TOWER}{{rest}}", "vision_model.{rest}"),
        Rename("Qformer.bert.{rest}", "qformer.{rest}"),
        Rename("Qformer.cls.{rest}", "cls.{rest}"),
    )
)

_TRUNK = frozenset({"query_tokens", "visual_encoder", "ln_vision", "Qformer"})
_FIRST_STAGE = _TRUNK | common.PROJECTIONS | {"itm_head", "temp"}
_CAPTION_HEAD = Drop("Qformer.cls.{rest}", "captioning head, which only blip2 has")
_MATCHING_HEAD = Drop("itm_head.{rest}", "matching head, which a feature extractor has not")
# What a Q-Former that serves a language model has not: everything for text.
_TEXT_PARTS = (
    Drop("Qformer.cls.{rest}", "captioning head, which a language model replaces"),
    Drop("Qformer.bert.embeddings.word_embeddings.{rest}", "words, which a language model reads"),
    Drop("Qformer.bert.embeddings.position_embeddings.{rest}", "positions of words, which a language model reads"),
    Drop("Qformer.bert.encoder.layer.{layer:d}.intermediate.{rest}", "feed-forward part for text"),
    Drop("Qformer.bert.encoder.layer.{layer:d}.output.{rest}", "feed-forward part for text"),
)
_NEW_PROJECTION = Fresh("language_projection.{part}", initial_values.linear, "new projection, normal and zero")
_HALF = {"blip2_opt": torch.float16, "blip2_t5": torch.bfloat16}


def _second_stage(name: str, part: str) -> Architecture:
    return Architecture(
        model_class="LavisBlip2ForConditionalGeneration",
        modules=_TRUNK | {f"{part}_proj", f"{part}_model"},
        sources=("blip2",),
        fresh=(_NEW_PROJECTION,),
        renames=(
            Rename(f"{part}_proj.{{rest}}", "language_projection.{rest}"),
            Rename(f"{part}_model.{{rest}}", "language_model.{rest}"),
        ),
        transfer_renames={"blip2": (Rename(f"{part}_model.{{rest}}", "language_model.{rest}"),)},
        drops={name: _TEXT_PARTS, "blip2": _TEXT_PARTS},
        # parity: the original rounds the frozen language model, also where it computes in float32
        stored_as={"language_model": _HALF[name]},
    )


ARCHITECTURES = {
    "blip2": Architecture(model_class="LavisBlip2ForPreTraining", modules=_FIRST_STAGE),
    "blip2_feature_extractor": Architecture(
        model_class="LavisBlip2Model",
        modules=_FIRST_STAGE - {"itm_head"},
        sources=("blip2",),
        drops={"blip2": (_CAPTION_HEAD, _MATCHING_HEAD)},
    ),
    "blip2_image_text_matching": Architecture(
        model_class="LavisBlip2ForImageTextRetrieval",
        modules=_FIRST_STAGE,
        sources=("blip2",),
        drops={"blip2": (_CAPTION_HEAD,)},
    ),
    "blip2_opt": _second_stage("blip2_opt", "opt"),
    "blip2_t5": _second_stage("blip2_t5", "t5"),
}
SIGNATURES = (
    Signature("blip2_opt", has=("Qformer.", "query_tokens", "opt_proj.")),
    Signature("blip2_t5", has=("Qformer.", "query_tokens", "t5_proj.")),
    Signature("blip2", has=("Qformer.", "query_tokens", "vision_proj.", "itm_head.")),
)
_LANGUAGE_MODELS = {"blip2_opt": "opt_model.", "blip2_t5": "t5_model."}


def add_parts(
    architecture: str,
    weights: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    vision_checkpoint: str | Path | None,
    language_model: str | Path | None,
) -> WithParts:
    """
    Complete a checkpoint by the image tower and the language model that it was trained with.

    Args:
        architecture: what is made.
        weights: the checkpoint.
        settings: what is known about it.
        vision_checkpoint: file or URL of the image tower, for checkpoints that have none of their own.
        language_model: folder or Hub id, for the architectures that have one.

    Raises:
        ValueError: a part is missing, is given although it is not needed, or is not the one that was trained with.
    """
    tensors, dropped = dict(weights), dict[str, str]()
    added: dict[str, Any] = {}
    has_tower = any(name.startswith(TOWER) for name in tensors)
    kind = blip2_settings.tower_kind(settings)
    if has_tower and vision_checkpoint is not None:
        raise ValueError(
            "The checkpoint has an image tower of its own, which was trained. Leave --vision-checkpoint out."
        )
    if not has_tower:
        if vision_checkpoint is None:
            raise ValueError(
                "The checkpoint holds only what was trained; its image tower is missing. Give it with "
                f"--vision-checkpoint (published: {kind.published})."
            )
        depth = (settings.get("vision") or {}).get("depth") or kind.depths.get(_width(tensors) or 0)
        found, left = tower_weights(vision_checkpoint, depth, kind.block, kind.leftovers, TOWER)
        tensors.update(found)
        dropped.update(left)
    for name, axes in (("class_embedding", (1, 1, -1)), ("positional_embedding", (1, *_shape(tensors, "positional")))):
        if TOWER + name in tensors:
            tensors[TOWER + name] = tensors[TOWER + name].reshape(axes)
    resized = _resize_clip_positions(tensors, (settings.get("vision") or {}).get("image_size"))
    prefix = _LANGUAGE_MODELS.get(architecture)
    if prefix is None:
        if language_model is not None:
            raise ValueError(f"{architecture} has no language model. Leave --language-model out.")
        return WithParts(tensors, dropped, added, resized)
    if language_model is None:
        raise ValueError(
            "The checkpoint holds only what was trained; its language model is missing. Give it with --language-model"
            f"{' (published: ' + settings['language_model'] + ')' if settings.get('language_model') else ''}."
        )
    config = blip2_settings.language_model_config(architecture, language_model)
    meta = blip2_settings.language_model_on_meta(config)
    frozen = language_model_weights(language_model, meta, prefix)
    for name in [name for name in tensors if name.startswith(prefix)]:
        _check_same(name, tensors.pop(name), frozen, meta, prefix, _HALF[architecture])
        dropped[name] = "second name of a frozen weight of the language model, equal to it"
    tensors.update(frozen)
    added["language_model"] = str(language_model)
    added["language_model_config"] = config
    return WithParts(tensors, dropped, added, resized)


def _resize_clip_positions(tensors: dict[str, Tensor], image_size: int | None) -> dict[str, tuple[int, ...]]:
    """Fit the positions of a CLIP tower to another image size, in place; the shape before, if it was another.

    parity: the original resizes these alone with aligned corners, and rounds them to the dtype of the file.
    """
    table, patches = tensors.get(f"{TOWER}positional_embedding"), tensors.get(f"{TOWER}conv1.weight")
    if table is None or patches is None or not image_size:
        return {}
    side, name = image_size // patches.shape[-1], f"{TOWER}positional_embedding"
    tensors[name] = interpolate_grid_positions(table, (side, side), align_corners=True)
    return {} if tensors[name] is table else {name: tuple(table.shape)}


def _width(tensors: Mapping[str, Tensor]) -> int | None:
    norm = tensors.get("ln_vision.weight")
    return None if norm is None else norm.shape[0]


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    table = tensors.get(f"{TOWER}{name}_embedding")
    return (1,) if table is None else tuple(table.shape[-2:])


def _check_same(
    name: str, value: Tensor, frozen: Mapping[str, Tensor], meta: torch.nn.Module, prefix: str, half: torch.dtype
) -> None:
    """A weight of the language model that a checkpoint has kept shows whether it is the right one."""
    own = name.removeprefix(prefix)
    tied = dict(getattr(meta, "all_tied_weights_keys", None) or {})
    other = frozen.get(name, frozen.get(prefix + tied.get(own, own)))
    if other is None or other.shape != value.shape or not torch.equal(other.to(half), value.to(half)):
        raise ValueError(
            f"The language model is not the one that the checkpoint was trained with: {name} differs. Give that one "
            "with --language-model."
        )


def load_tokenizer(source: str | Path | None) -> Any:
    """The Q-Former's tokenizer; see [`modeling_lavis.hub.image_text.load_tokenizer`]."""
    from modeling_lavis.models.processing_lavis_blip_2 import qformer_tokenizer

    return common.load_tokenizer(source, qformer_tokenizer)


FAMILY = Family(
    name="blip2",
    key_map=KEY_MAP,
    architectures=ARCHITECTURES,
    signatures=SIGNATURES,
    drops=(common.CONSTANT_POSITIONS,),
    reset={},
    positions="vision_model.pos_embed",
    resizable_queues=frozenset(),
    build_config=blip2_settings.build_config,
    build_processor=blip2_settings.build_processor,
    build_generation_config=blip2_settings.build_generation_config,
    load_tokenizer=load_tokenizer,
    known_settings=blip2_settings.KNOWN_SETTINGS,
    pretraining=frozenset({"blip2"}),
    separate_parts=frozenset({"vision_checkpoint", "language_model"}),
    add_parts=add_parts,
    without_tokenizer=frozenset(_LANGUAGE_MODELS),
)
