# SPDX-License-Identifier: Apache-2.0
"""Gradient-weighted maps of what each word reads in an image.

Letters: B pairs, T text tokens, P patches, h rows and w columns of the patch grid.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass
class GradCamOutput:
    """
    Maps and the logits that they explain.

    Args:
        maps (`list[Tensor]`, each of shape `(T + 1, h, w)`): per pair, slot 0, the mean over the words, then every
            token from slot 1 on; padding gives zeros.
        logits (`Tensor` of shape `(B, 2)`): matching logits.
    """

    maps: list[Tensor]
    logits: Tensor


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    """Attention weights exist in eager attention alone."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def gradcam(
    model: PreTrainedModel,
    pixel_values: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    layer: int = 6,
    **kwargs: Any,
) -> GradCamOutput:
    """
    Grad-CAM of cross-attention (Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391; ALBEF, section 6.3): the
    attention of one layer, weighted by the positive part of the gradient of the matching logit, averaged over heads.

    Args:
        model ([`PreTrainedModel`]): a retrieval head with `text_encoder`, whose forward takes `match_head="itm"`.
        pixel_values (`Tensor` of shape `(B, channels, height, width)`): images.
        input_ids, attention_mask (`Tensor` of shape `(B, T)`): texts.
        layer (`int`, *optional*, defaults to 6): layer of the text encoder to look at.
        kwargs: passed to the model's forward.

    Returns:
        [`GradCamOutput`].

    Raises:
        ValueError: the layer does not exist or has no cross-attention.
    """
    layers = model.text_encoder.encoder.layer
    if not 0 <= layer < len(layers) or not hasattr(layers[layer], "crossattention"):
        attending = [i for i, block in enumerate(layers) if hasattr(block, "crossattention")]
        raise ValueError(f"Layer {layer} has no cross-attention to look at; these layers have: {attending}.")
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    weights: list[Tensor] = []

    def keep(module: torch.nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
        weights.append(output[1])

    # Looking must not depend on the images being trainable, nor leave gradients behind.
    hook = layers[layer].crossattention.self.register_forward_hook(keep)
    try:
        with _eager(model), torch.enable_grad():
            logits = model(
                pixel_values=pixel_values,
                input_ids=input_ids,
                attention_mask=attention_mask,
                match_head="itm",
                **kwargs,
            ).logits
            attention = weights[-1]
            if not attention.requires_grad:
                raise ValueError("Grad-CAM needs gradients, but all parameters of the text encoder are frozen.")
            (gradient,) = torch.autograd.grad(logits[:, 1].sum(), attention)
    finally:
        hook.remove()

    patch = model.config.vision_config.patch_size
    grid = (pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch)
    if math.prod(grid) != attention.shape[-1] - 1:
        raise ValueError(f"{attention.shape[-1] - 1} patches do not form a grid of {grid[0]} x {grid[1]}.")
    weighted = attention.detach()[..., 1:] * gradient[..., 1:].clamp(min=0)  # (B, heads, T, P)
    per_token = weighted.mean(dim=1) * attention_mask[:, :, None].to(weighted.dtype)
    maps = []
    for tokens, mask in zip(per_token.unflatten(-1, grid), attention_mask, strict=True):
        words = max(int(mask.sum()) - 2, 1)
        mean = tokens[1 : words + 1].sum(dim=0, keepdim=True) / words
        maps.append(torch.cat([tokens[:1], mean, tokens[1:]]))
    return GradCamOutput(maps, logits.detach())


__all__ = ["GradCamOutput", "gradcam"]
