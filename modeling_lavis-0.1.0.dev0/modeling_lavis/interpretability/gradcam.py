# SPDX-License-Identifier: Apache-2.0
"""Grad-CAM maps of the cross-attention from text tokens to image patches.

Shapes: B pairs, T text tokens, P patches, H rows and W columns of the patch grid.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modeling_lavis.models.modeling_base import mask_padding


@dataclass
class GradCamOutput:
    """
    Maps, and the logits that they explain.

    Args:
        maps (`list[Tensor]`, each of shape `(T + 1, H, W)`): one entry per pair: the map of `[CLS]`, then the mean of
            the maps between `[CLS]` and `[SEP]`, then the maps of all further tokens. Maps of padding are zero.
        logits (`Tensor` of shape `(B, 2)`): matching logits.
    """

    maps: list[Tensor]
    logits: Tensor


@contextmanager
def _eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Switch to eager attention, the only implementation that returns attention weights."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def _cross_attention_layers(model: PreTrainedModel) -> dict[int, torch.nn.Module]:
    """Cross-attention modules of a retrieval head's text encoder, by layer; `ValueError` for other models."""
    found: dict[int, torch.nn.Module] = {}
    if hasattr(model, "itm_head") and hasattr(model, "text_encoder"):
        for index, layer in enumerate(model.text_encoder.encoder.layer):
            if hasattr(layer, "crossattention"):
                found[index] = layer.crossattention.self
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no matching head whose text tokens cross-attend to image patches; Grad-CAM "
            "needs one: ForImageTextRetrieval or ForPreTraining of ALBEF or BLIP. (In BLIP-2 the query tokens attend "
            "to the image, in ALPRO text and video attend to each other; captioning and question answering have no "
            "matching head.)"
        )
    return found


def gradcam(
    model: PreTrainedModel,
    pixel_values: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    layer: int = 6,
    **kwargs: Any,
) -> GradCamOutput:
    """
    Grad-CAM of cross-attention (https://arxiv.org/abs/1610.02391; ALBEF, section 6.3,
    https://arxiv.org/abs/2107.07651): the attention weights of one layer, times the positive part of the gradient of
    the "match" logit, averaged over heads.

    Gradients of parameters are not touched, and the attention implementation is restored, also after an error.

    Args:
        model ([`PreTrainedModel`]): a retrieval head whose `text_encoder` cross-attends to images.
        pixel_values (`Tensor` of shape `(B, num_channels, height, width)`): images.
        input_ids, attention_mask (`Tensor` of shape `(B, T)`): texts, padded on the right; without a mask, pad tokens
            are padding.
        layer (`int`, *optional*, defaults to 6): index of the text encoder layer. In the last layer only `[CLS]` has a
            gradient, so that the maps of the other tokens are zero.
        kwargs: further arguments of the model's `forward`, such as `interpolate_pos_encoding`.

    Returns:
        [`GradCamOutput`].

    Raises:
        ValueError: If the model is another one, it has no such layer, the layer has no cross-attention, all parameters
            that the attention depends on are frozen, or the patches do not form the grid of the image size.
        RuntimeError: under `torch.inference_mode()`, which has no gradients.
    """
    layers = _cross_attention_layers(model)
    if layer not in layers:
        raise ValueError(f"Layer {layer} has no cross-attention; choose one of the layers {sorted(layers)}.")
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Grad-CAM needs gradients, which torch.inference_mode() switches off for good; call it outside, or under "
            "torch.no_grad() instead."
        )
    attention_mask = mask_padding(input_ids, attention_mask, model.config.pad_token_id)
    weights: list[Tensor] = []

    def record(module: torch.nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
        weights.append(output[1])

    hook = layers[layer].register_forward_hook(record)
    try:
        with _eager_attention(model.text_encoder), torch.enable_grad():
            logits = model(
                pixel_values=pixel_values,
                input_ids=input_ids,
                attention_mask=attention_mask,
                match_head="itm",
                **kwargs,
            ).logits
            attention = weights[-1]
            if not attention.requires_grad:
                raise ValueError(
                    "Grad-CAM needs gradients, but all parameters that the attention depends on are frozen; call "
                    "requires_grad_() on the text encoder."
                )
            # autograd.grad leaves the gradients of parameters alone, unlike backward
            (gradient,) = torch.autograd.grad(logits[:, 1].sum(), attention)
    finally:
        hook.remove()

    patch_size = model.config.vision_config.patch_size
    grid = (pixel_values.shape[-2] // patch_size, pixel_values.shape[-1] // patch_size)
    if math.prod(grid) != attention.shape[-1] - 1:
        raise ValueError(f"{attention.shape[-1] - 1} patches do not form a grid of {grid[0]} x {grid[1]}.")
    weighted = attention.detach()[..., 1:] * gradient[..., 1:].clamp(min=0)  # (B, heads, T, P)
    per_token = weighted.mean(dim=1) * attention_mask[:, :, None].to(weighted.dtype)
    maps = []
    for tokens, mask in zip(per_token.unflatten(-1, grid), attention_mask, strict=True):
        length = max(int(mask.sum()) - 2, 1)  # without [CLS] and [SEP]
        mean = tokens[1 : length + 1].sum(dim=0, keepdim=True) / length
        maps.append(torch.cat([tokens[:1], mean, tokens[1:]]))
    return GradCamOutput(maps, logits.detach())


__all__ = ["GradCamOutput", "gradcam"]
