# SPDX-License-Identifier: Apache-2.0
"""Configuration of the CLIP image tower of BLIP-2."""

from huggingface_hub.dataclasses import strict

from .configuration_vision_vit import LavisViTConfig


@strict
class LavisClipVisionConfig(LavisViTConfig):
    r"""
    Configuration of [`LavisClipVisionModel`], the vision transformer of CLIP (Radford et al., 2021,
    https://arxiv.org/abs/2103.00020) without its last block, final norm and projection. Fields are those of
    [`LavisViTConfig`]; the defaults are CLIP ViT-L/14 at 224 px.

    `num_hidden_layers` is 23 as in LAVIS's main branch, with which the published checkpoints were trained. LAVIS 1.0.2
    builds 21 blocks by mistake; give 21 to get its numbers.
    """

    model_type = "lavis_clip_vision"

    patch_size: int = 14
    hidden_size: int = 1024
    num_hidden_layers: int = 23
    num_attention_heads: int = 16
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


__all__ = ["LavisClipVisionConfig"]
