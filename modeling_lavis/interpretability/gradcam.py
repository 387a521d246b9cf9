# SPDX-License-Identifier: Apache-2.0
"""Grad-CAM maps of tokens from a batch of tensors, as LAVIS's `compute_gradcam` makes them.

Shapes: B pairs, T text tokens, P patches, H rows and W columns of the patch grid.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modeling_lavis.interpretability.recording import evaluation_mode, grad_cam, recorded_attention
from modeling_lavis.interpretability.routes import CrossAttentionRoute, patch_grid
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
    the "match" logit, averaged over heads. [`explain`] makes maps of words at the size of the image, for all heads.

    Gradients of parameters are not touched; the attention implementation and the mode of the model are restored, also
    after an error.

    Args:
        model ([`PreTrainedModel`]): a retrieval head whose `text_encoder` cross-attends to images.
        pixel_values (`Tensor` of shape `(B, num_channels, height, width)`): images.
        input_ids, attention_mask (`Tensor` of shape `(B, T)`): texts, padded on the right; without a mask, pad tokens
            are padding.
        layer (`int`, *optional*, defaults to 6): index of the text encoder layer. In the last layer only `[CLS]` has a
            gradient, so that the maps of the other tokens are zero.
        kwargs: further arguments of the model's `forward`, such as `interpolate_pos_encoding`.

    Returns:
        [`GradCamOutput`]: on the CPU.

    Raises:
        ValueError: If the model is another one, it has no such layer, the layer has no cross-attention, all parameters
            that the attention depends on are frozen, or the patches do not form the grid of the image size.
        RuntimeError: under `torch.inference_mode()`, which has no gradients.
    """
    route = (
        CrossAttentionRoute(model, model.text_encoder)
        if hasattr(model, "itm_head") and hasattr(model, "text_encoder")
        else None
    )
    if route is None or not route.layers:
        raise ValueError(
            f"{type(model).__name__} has no matching head whose text tokens cross-attend to image patches; gradcam "
            "needs one: ForImageTextRetrieval or ForPreTraining of ALBEF or BLIP. For other heads use explain."
        )
    if layer not in route.layers:
        raise ValueError(f"Layer {layer} has no cross-attention; choose one of the layers {route.layers}.")
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Grad-CAM needs gradients, which torch.inference_mode() switches off for good; call it outside, or under "
            "torch.no_grad() instead."
        )
    attention_mask = mask_padding(input_ids, attention_mask, model.config.pad_token_id)
    encoders = route.encoders(all_layers=False)
    with evaluation_mode(model), recorded_attention(encoders, keep_graph=True) as record, torch.enable_grad():
        texts = {"input_ids": input_ids, "attention_mask": attention_mask}
        logits = model(pixel_values=pixel_values, **texts, match_head="itm", **kwargs).logits
        (weighted,) = grad_cam(logits[:, 1].sum(), *(record[module] for module in route.cross_attention(layer)))
    grid = patch_grid(model, pixel_values, weighted.shape[-1] - 1)
    per_token = weighted[..., 1:] * attention_mask[:, :, None].to(weighted)  # (B, T, P)
    maps = []
    for tokens, mask in zip(per_token.unflatten(-1, grid), attention_mask, strict=True):
        length = max(int(mask.sum()) - 2, 1)  # without [CLS] and [SEP]
        mean = tokens[1 : length + 1].sum(dim=0, keepdim=True) / length
        maps.append(torch.cat([tokens[:1], mean, tokens[1:]]))
    return GradCamOutput(maps, logits.detach())


__all__ = ["GradCamOutput", "gradcam"]
