# SPDX-License-Identifier: Apache-2.0
"""Image encoders of new models from timm, or from other models of this package.

timm's ViT and EVA have the names of [`LavisViTModel`]; what differs is listed here and accounted for weight by weight.
Features stay the same: layer scale is folded into the layers before it, and biases of keys, which have no effect in
softmax, are left out where the encoder has none.

Shapes: P patches, D hidden size.
"""

import os
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modeling_lavis.import_utils import require
from modeling_lavis.models.configuration_vision import (
    LavisClipVisionConfig,
    LavisEvaConfig,
    LavisTimesformerConfig,
    LavisViTConfig,
)
from modeling_lavis.models.vision_vit import LavisViTModel, interpolate_grid_positions
from modeling_lavis.training.text_parts import part_folder
from modeling_lavis.training.transfers import Transfer, Value, fill

_HEADS = r"^(head|head_dist|fc_norm|attn_pool)\."
_BLOCK = re.compile(r"^blocks\.(\d+)\.")


@dataclass(frozen=True)
class VisionPart:
    """
    An image encoder to start from.

    Args:
        what (`str`): its name, for messages.
        config (`dict[str, Any]`): fields of a vision configuration: sizes, activation, epsilon.
        state (`dict[str, Tensor]`): its weights.
        has_pre_norm (`bool`): whether there is a layer norm before the first block, as in CLIP.
        is_published_depth (`bool`): whether it already has the depth of BLIP-2's encoders, one block less than the
            original.
        image_mean, image_std (`tuple[float, ...]`, *optional*): statistics that it was trained with.
    """

    what: str
    config: dict[str, Any]
    state: dict[str, Tensor]
    has_pre_norm: bool = False
    is_published_depth: bool = False
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None


def read_vision_part(source: Any, pretrained: bool = True) -> VisionPart:
    """
    Read an image encoder.

    Args:
        source (`str`, `os.PathLike` or `nn.Module`): name of a model of timm, a model of timm, a folder of a model of
            this package, such a model, or `"embedded"` for the model that is part of the package.
        pretrained (`bool`, *optional*, defaults to `True`): whether to load timm's weights for a name.

    Raises:
        ValueError: the model is not a plain ViT or EVA.
        OSError: there are no weights.
    """
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(part_folder(source))
        if os.path.isdir(name) and os.path.isfile(os.path.join(name, "config.json")) and not _is_timm_folder(name):
            from transformers import AutoModel

            return _from_own(AutoModel.from_pretrained(name), name)
        timm: Any = require("timm", extra="train", purpose=f"the image encoder {name}")
        hub_name = f"local-dir:{name}" if os.path.isdir(name) else name
        try:
            source = timm.create_model(hub_name, pretrained=pretrained, num_classes=0)
        except RuntimeError as error:
            if "Unknown model" not in str(error):
                raise
            raise ValueError(
                f"{name} is neither a folder nor a model of timm. Give a folder, or one of timm.list_models()."
            ) from error
        return _from_timm(source, name)
    if hasattr(source, "pretrained_cfg"):
        return _from_timm(source, f"timm's {type(source).__name__}")
    return _from_own(source, f"The {type(source).__name__}")


def _is_timm_folder(folder: str) -> bool:
    """Whether `config.json` is one that timm has written."""
    import json

    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        return "pretrained_cfg" in json.load(file)


def _from_own(model: Any, what: str) -> VisionPart:
    encoder = getattr(model, "vision_model", model)
    if not isinstance(encoder, LavisViTModel):
        raise ValueError(
            f"{what} has no image encoder of this package. Give one of its models, or a ViT or an EVA of timm."
        )
    config = encoder.config
    names = ("image_size", "patch_size", "num_channels", "hidden_size", "num_hidden_layers", "num_attention_heads")
    fields = {name: getattr(config, name) for name in (*names, "intermediate_size", "hidden_act", "layer_norm_eps")}
    is_blip_2 = isinstance(config, (LavisEvaConfig, LavisClipVisionConfig))
    return VisionPart(what, fields, _as_vit(dict(encoder.state_dict())), encoder.has_pre_norm, is_blip_2)


def _from_timm(model: Any, what: str) -> VisionPart:
    blocks, patches = getattr(model, "blocks", None), getattr(model, "patch_embed", None)
    kind = type(model).__name__
    if blocks is None or patches is None or kind not in ("VisionTransformer", "Eva"):
        raise ValueError(f"{what} is a {kind}; expected a plain ViT (VisionTransformer) or EVA (Eva) of timm.")
    state = dict(model.state_dict())
    positions, extra = state.get("pos_embed"), getattr(model, "num_prefix_tokens", 1)
    grid = patches.grid_size
    if extra != 1 or "cls_token" not in state or positions is None or positions.shape[1] != grid[0] * grid[1] + 1:
        raise ValueError(
            f"{what} has {extra} tokens before its patches and position embeddings of shape "
            f"{None if positions is None else tuple(positions.shape)}; expected one class token, and absolute positions"
            " for it and the patches."
        )
    if grid[0] != grid[1] or patches.patch_size[0] != patches.patch_size[1]:
        raise ValueError(f"{what} has a grid of {grid} patches of {patches.patch_size} pixels; expected squares.")
    first = blocks[0]
    fields = {
        "image_size": patches.img_size[0],
        "patch_size": patches.patch_size[0],
        "num_channels": patches.proj.in_channels,
        "hidden_size": positions.shape[2],
        "num_hidden_layers": len(blocks),
        "num_attention_heads": first.attn.num_heads,
        "intermediate_size": first.mlp.fc1.out_features if hasattr(first.mlp, "fc1") else None,
        "hidden_act": _activation(getattr(first.mlp, "act", None), what),
        "layer_norm_eps": first.norm1.eps,
    }
    cfg = model.pretrained_cfg
    state = {name.replace("norm_pre.", "ln_pre."): value for name, value in state.items()}
    return VisionPart(
        what,
        fields,
        _as_vit(_fold_layer_scale(state)),
        has_pre_norm="ln_pre.weight" in state,
        image_mean=tuple(cfg["mean"]) if cfg.get("mean") else None,
        image_std=tuple(cfg["std"]) if cfg.get("std") else None,
    )


def _activation(act: Any, what: str) -> str:
    if isinstance(act, nn.GELU):
        return "gelu" if act.approximate == "none" else "gelu_pytorch_tanh"
    names = {"GELUTanh": "gelu_pytorch_tanh", "QuickGELU": "quick_gelu", "GELU": "gelu"}
    name = type(act).__name__
    if name not in names:
        raise ValueError(f"{what} has feed-forward layers with the activation {name}; expected GELU.")
    return names[name]


def _fold_layer_scale(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Multiply the layers before a layer scale by it; the same features without one."""
    state = dict(state)
    for name in [name for name in state if re.search(r"\.ls[12]\.gamma$", name)]:
        layer = name.replace("ls1.gamma", "attn.proj").replace("ls2.gamma", "mlp.fc2")
        gamma = state.pop(name)
        state[f"{layer}.weight"] = state[f"{layer}.weight"] * gamma[:, None]
        state[f"{layer}.bias"] = state[f"{layer}.bias"] * gamma
    return state


def _as_vit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Biases of queries and values of EVA as one bias of queries, keys and values, with zeros for keys."""
    state = dict(state)
    for name in [name for name in state if name.endswith(".attn.q_bias")]:
        query, value = state.pop(name), state.pop(name.replace("q_bias", "v_bias"))
        state.pop(name.replace("q_bias", "k_bias"), None)  # zeros that timm keeps as a buffer
        state[name.replace("q_bias", "qkv.bias")] = torch.cat([query, torch.zeros_like(query), value])
    return state


def vision_config(part: VisionPart, family: str, changes: dict[str, Any]) -> dict[str, Any]:
    """
    The vision configuration of a new model.

    Args:
        part ([`VisionPart`]): encoder to start from.
        family (`str`): model type of the new model.
        changes (`dict[str, Any]`): fields to set in addition to those of the encoder, such as `image_size` and
            `drop_path_rate`.

    Raises:
        ValueError: the encoder does not fit the family.
    """
    fields = dict(part.config)
    if family == "lavis_blip_2":
        fields["model_type"] = "lavis_clip_vision" if part.has_pre_norm else "lavis_eva"
        if not part.is_published_depth:
            fields["num_hidden_layers"] -= 1  # as published: the output of the last block but one
    elif part.has_pre_norm:
        raise ValueError(
            f"{part.what} has a layer norm before its first block, as CLIP; such an encoder fits BLIP-2 only."
        )
    return {**fields, **changes}


def fill_vision(encoder: LavisViTModel, part: VisionPart) -> Transfer:
    """
    Fill the image or video encoder of a new model.

    Position embeddings of another image size are interpolated. A video encoder gets the image encoder's weights for
    attention over space and, as in TimeSformer (https://arxiv.org/abs/2102.05095), the same for attention over time,
    whose output layers and time embeddings start at zero.

    Args:
        encoder ([`LavisViTModel`]): encoder of the new model; changed in-place.
        part ([`VisionPart`]): encoder to start from.

    Returns:
        [`Transfer`]: the account.

    Raises:
        ValueError: a weight does not fit, or is without use.
    """
    config: LavisViTConfig = encoder.config
    side = config.image_size // config.patch_size
    values: dict[str, Value] = {}
    for name, tensor in part.state.items():
        if name == "pos_embed":
            tensor = interpolate_grid_positions(tensor, (side, side), align_corners=encoder.align_position_corners)
        if name.endswith("attn.qkv.bias") and isinstance(config, LavisEvaConfig):
            query, _, value = tensor.chunk(3)
            values[name.replace("qkv.bias", "q_bias")] = Value(query, (name,))
            values[name.replace("qkv.bias", "v_bias")] = Value(value, (name,))
            continue
        values[name] = Value(tensor, (name,))
        if isinstance(config, LavisTimesformerConfig) and re.search(r"\.(attn|norm1)\.", name):
            values[re.sub(r"\.(attn|norm1)\.", r".temporal_\1.", name)] = Value(tensor, (name,))
    dropped = {_HEADS: "the head of another task"}
    if not encoder.has_final_norm:
        dropped[r"^norm\."] = "BLIP-2 has a layer norm of its own after the encoder"
    unused = {
        f"^blocks\\.{match[1]}\\.": "above the last block that is used"
        for name in part.state
        if (match := _BLOCK.match(name)) and int(match[1]) >= config.num_hidden_layers
    }
    new = {}
    if isinstance(config, LavisTimesformerConfig):
        new = {r"temporal_fc|time_embed": "as initialized: zero, so that frames are encoded as images"}
        with torch.no_grad():
            for name, parameter in encoder.named_parameters():
                if re.search(r"temporal_fc|time_embed", name):
                    parameter.zero_()
    return fill(encoder, values, new, part.state, {**dropped, **unused}, part.what)


__all__ = ["VisionPart", "fill_vision", "read_vision_part", "vision_config"]
