# SPDX-License-Identifier: Apache-2.0
"""BLIP-2's table: the keys of LAVIS's checkpoints and of their frozen parts, and how they are converted."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeling_lavis.hub import blip2_settings, initial_values
from modeling_lavis.hub import image_text as common
from modeling_lavis.hub.families import Architecture, Drop, Family, NewWeights, Signature
from modeling_lavis.hub.key_maps import KeyMap, Rename
from modeling_lavis.hub.parts import CompletedCheckpoint, image_encoder_weights, language_model_weights
from modeling_lavis.models.vision_vit import interpolate_grid_positions

IMAGE_ENCODER = "visual_encoder."
_CLIP = IMAGE_ENCODER + "transformer.resblocks.{block:d}."
_BLOCK = "vision_model.blocks.{block}."
KEY_MAP = KeyMap(
    (
        # CLIP's keys are aliases: the way back gives those of the EVA encoder.
        Rename(f"{IMAGE_ENCODER}class_embedding", "vision_model.cls_token", alias=True),
        Rename(f"{IMAGE_ENCODER}positional_embedding", "vision_model.pos_embed", alias=True),
        Rename(f"{IMAGE_ENCODER}conv1.{{rest}}", "vision_model.patch_embed.proj.{rest}", alias=True),
        Rename(f"{_CLIP}attn.in_proj_{{part}}", f"{_BLOCK}attn.qkv.{{part}}", alias=True),
        Rename(f"{_CLIP}attn.out_proj.{{part}}", f"{_BLOCK}attn.proj.{{part}}", alias=True),
        Rename(f"{_CLIP}ln_1.{{part}}", f"{_BLOCK}norm1.{{part}}", alias=True),
        Rename(f"{_CLIP}ln_2.{{part}}", f"{_BLOCK}norm2.{{part}}", alias=True),
        Rename(f"{_CLIP}mlp.c_fc.{{part}}", f"{_BLOCK}mlp.fc1.{{part}}", alias=True),
        Rename(f"{_CLIP}mlp.c_proj.{{part}}", f"{_BLOCK}mlp.fc2.{{part}}", alias=True),
        Rename(f"{IMAGE_ENCODER}{{rest}}", "vision_model.{rest}"),
        Rename("Qformer.bert.{rest}", "qformer.{rest}"),
        Rename("Qformer.cls.{rest}", "cls.{rest}"),
    )
)

_SHARED_MODULES = frozenset({"query_tokens", "visual_encoder", "ln_vision", "Qformer"})
_FIRST_STAGE = _SHARED_MODULES | common.PROJECTIONS | {"itm_head", "temp"}
_DROP_CAPTION_HEAD = Drop("Qformer.cls.{rest}", "captioning head, which only blip2 has")
_DROP_ITM_HEAD = Drop("itm_head.{rest}", "ITM head, which the feature extractor does not have")
# In the second stage the Q-Former processes query tokens only.
_DROP_TEXT_WEIGHTS = (
    Drop("Qformer.cls.{rest}", "captioning head, which the language model replaces"),
    Drop("Qformer.bert.embeddings.word_embeddings.{rest}", "word embeddings, which the language model replaces"),
    Drop("Qformer.bert.embeddings.position_embeddings.{rest}", "text positions, which the language model replaces"),
    Drop("Qformer.bert.encoder.layer.{layer:d}.intermediate.{rest}", "feed-forward layers for text"),
    Drop("Qformer.bert.encoder.layer.{layer:d}.output.{rest}", "feed-forward layers for text"),
)
_NEW_PROJECTION = NewWeights(
    "language_projection.{part}", initial_values.linear, "new projection, normal weights and zero biases"
)
_LANGUAGE_MODEL_DTYPES = {"blip2_opt": torch.float16, "blip2_t5": torch.bfloat16}


def _second_stage(name: str, part: str) -> Architecture:
    return Architecture(
        modules=_SHARED_MODULES | {f"{part}_proj", f"{part}_model"},
        sources=("blip2",),
        new_weights=(_NEW_PROJECTION,),
        renames=(
            Rename(f"{part}_proj.{{rest}}", "language_projection.{rest}"),
            Rename(f"{part}_model.{{rest}}", "language_model.{rest}"),
        ),
        transfer_renames={"blip2": (Rename(f"{part}_model.{{rest}}", "language_model.{rest}"),)},
        drops={name: _DROP_TEXT_WEIGHTS, "blip2": _DROP_TEXT_WEIGHTS},
        # parity: the original rounds the frozen language model to half precision, even if it computes in float32
        frozen_dtypes={"language_model": _LANGUAGE_MODEL_DTYPES[name]},
    )


ARCHITECTURES = {
    "blip2": Architecture(modules=_FIRST_STAGE),
    "blip2_feature_extractor": Architecture(
        modules=_FIRST_STAGE - {"itm_head"},
        sources=("blip2",),
        drops={"blip2": (_DROP_CAPTION_HEAD, _DROP_ITM_HEAD)},
    ),
    "blip2_image_text_matching": Architecture(
        modules=_FIRST_STAGE,
        sources=("blip2",),
        drops={"blip2": (_DROP_CAPTION_HEAD,)},
    ),
    "blip2_opt": _second_stage("blip2_opt", "opt"),
    "blip2_t5": _second_stage("blip2_t5", "t5"),
}
SIGNATURES = (
    Signature("blip2_opt", has=("Qformer.", "query_tokens", "opt_proj.")),
    Signature("blip2_t5", has=("Qformer.", "query_tokens", "t5_proj.")),
    Signature("blip2", has=("Qformer.", "query_tokens", "vision_proj.", "itm_head.")),
)
_LANGUAGE_MODEL_PREFIXES = {"blip2_opt": "opt_model.", "blip2_t5": "t5_model."}


def add_parts(
    architecture: str,
    weights: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    vision_checkpoint: str | Path | None,
    language_model: str | Path | None,
) -> CompletedCheckpoint:
    """
    Add the frozen image encoder and language model that a checkpoint was trained with.

    Args:
        architecture (`str`): the architecture to convert to.
        weights (`Mapping[str, torch.Tensor]`): the weights of the checkpoint.
        settings (`Mapping[str, Any]`): the settings.
        vision_checkpoint (`str` or `Path`, *optional*): file or URL of the image encoder, for checkpoints that do not
            contain one.
        language_model (`str` or `Path`, *optional*): folder or Hub id of the language model, for architectures that
            have one.

    Returns:
        [`~modeling_lavis.hub.parts.CompletedCheckpoint`]: The checkpoint with these parts.

    Raises:
        ValueError: If a part is missing, is given although it is not needed, or differs from the one that the
            checkpoint was trained with.
        OSError: If a part cannot be read.
    """
    tensors, dropped = dict(weights), dict[str, str]()
    added: dict[str, Any] = {}
    has_image_encoder = any(name.startswith(IMAGE_ENCODER) for name in tensors)
    kind = blip2_settings.image_encoder_kind(settings)
    if has_image_encoder and vision_checkpoint is not None:
        raise ValueError(
            "The checkpoint contains a fine-tuned image encoder of its own. Leave out --vision-checkpoint."
        )
    if not has_image_encoder:
        if vision_checkpoint is None:
            raise ValueError(
                "The checkpoint contains trained weights only; the image encoder is missing. Give it with "
                f"--vision-checkpoint (published: {kind.published})."
            )
        depth = (settings.get("vision") or {}).get("depth") or kind.depths.get(_vision_hidden_size(tensors) or 0)
        found, unused = image_encoder_weights(vision_checkpoint, depth, kind.block_prefix, kind.unused, IMAGE_ENCODER)
        tensors.update(found)
        dropped.update(unused)
    clip_shapes = {"class_embedding": (1, 1, -1), "positional_embedding": (1, *_clip_positions_shape(tensors))}
    for name, shape in clip_shapes.items():
        if IMAGE_ENCODER + name in tensors:
            tensors[IMAGE_ENCODER + name] = tensors[IMAGE_ENCODER + name].reshape(shape)
    resized = _resize_clip_positions(tensors, (settings.get("vision") or {}).get("image_size"))
    prefix = _LANGUAGE_MODEL_PREFIXES.get(architecture)
    if prefix is None:
        if language_model is not None:
            raise ValueError(f"{architecture} has no language model. Leave out --language-model.")
        return CompletedCheckpoint(tensors, dropped, added, resized)
    if language_model is None:
        raise ValueError(
            "The checkpoint contains trained weights only; the language model is missing. Give it with --language-model"
            f"{' (published: ' + settings['language_model'] + ')' if settings.get('language_model') else ''}."
        )
    config = blip2_settings.language_model_config(architecture, language_model)
    meta_model = blip2_settings.meta_language_model(config)
    frozen = language_model_weights(language_model, meta_model, prefix)
    for name in [name for name in tensors if name.startswith(prefix)]:
        _check_same(name, tensors.pop(name), frozen, meta_model, prefix, _LANGUAGE_MODEL_DTYPES[architecture])
        dropped[name] = "copy of a frozen weight of the language model, equal to it"
    tensors.update(frozen)
    added["language_model"] = str(language_model)
    added["language_model_config"] = config
    return CompletedCheckpoint(tensors, dropped, added, resized)


def _resize_clip_positions(tensors: dict[str, Tensor], image_size: int | None) -> dict[str, tuple[int, ...]]:
    """
    Resize the position embeddings of a CLIP encoder in place, and return their previous shape if it changes.

    parity: the original resizes only these with aligned corners, and keeps them in the dtype of the checkpoint.
    """
    table, patches = tensors.get(f"{IMAGE_ENCODER}positional_embedding"), tensors.get(f"{IMAGE_ENCODER}conv1.weight")
    if table is None or patches is None or not image_size:
        return {}
    side, name = image_size // patches.shape[-1], f"{IMAGE_ENCODER}positional_embedding"
    tensors[name] = interpolate_grid_positions(table, (side, side), align_corners=True)
    return {} if tensors[name] is table else {name: tuple(table.shape)}


def _vision_hidden_size(tensors: Mapping[str, Tensor]) -> int | None:
    norm = tensors.get("ln_vision.weight")
    return None if norm is None else norm.shape[0]


def _clip_positions_shape(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    table = tensors.get(f"{IMAGE_ENCODER}positional_embedding")
    return (1,) if table is None else tuple(table.shape[-2:])


def _check_same(
    name: str, value: Tensor, frozen: Mapping[str, Tensor], meta_model: torch.nn.Module, prefix: str, dtype: torch.dtype
) -> None:
    """Raise `ValueError` if a language model weight that the checkpoint contains differs from the given model's."""
    own = name.removeprefix(prefix)
    tied = dict(getattr(meta_model, "all_tied_weights_keys", None) or {})
    other = frozen.get(name, frozen.get(prefix + tied.get(own, own)))
    if other is None or other.shape != value.shape or not torch.equal(other.to(dtype), value.to(dtype)):
        raise ValueError(
            f"The language model is not the one that the checkpoint was trained with: {name} differs. Give the right "
            "one with --language-model."
        )


def published_parts(settings: Mapping[str, Any], names: Collection[str] = ()) -> dict[str, str]:
    """
    Return URL of the image encoder and Hub id of the language model that a checkpoint leaves out.

    Args:
        settings (`Mapping[str, Any]`): settings of the published checkpoint.
        names (`Collection[str]`, *optional*, defaults to `()`): weights of the checkpoint, if it is another one.
    """
    parts = {}
    # the runner of the original saves only what was trained
    if settings.get("freeze_vit", True) and not any(name.startswith(IMAGE_ENCODER) for name in names):
        parts["vision_checkpoint"] = blip2_settings.image_encoder_kind(settings).published
    if settings.get("language_model"):
        parts["language_model"] = str(settings["language_model"])
    return parts


def load_tokenizer(source: str | Path | None) -> Any:
    """Load the Q-Former's tokenizer; see [`modeling_lavis.hub.image_text.load_tokenizer`]."""
    from modeling_lavis.models.processing_lavis_blip_2 import qformer_tokenizer

    return common.load_tokenizer(source, qformer_tokenizer)


FAMILY = Family(
    name="blip2",
    key_map=KEY_MAP,
    architectures=ARCHITECTURES,
    signatures=SIGNATURES,
    drops=(common.POSITION_IDS,),
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
    without_tokenizer=frozenset(_LANGUAGE_MODEL_PREFIXES),
    published_parts=published_parts,
)
