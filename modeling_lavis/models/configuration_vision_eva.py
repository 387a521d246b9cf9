# SPDX-License-Identifier: Apache-2.0
"""Configuration of EVA-ViT-g, the usual image tower of BLIP-2."""

from huggingface_hub.dataclasses import strict

from .configuration_vision_vit import LavisViTConfig


@strict
class LavisEvaConfig(LavisViTConfig):
    r"""
    Configuration of [`LavisEvaModel`], the vision transformer of EVA (Fang et al., 2023,
    https://arxiv.org/abs/2211.07636) as BLIP-2 uses it: the last block and the final norm are left out. Fields are
    those of [`LavisViTConfig`]; the defaults are EVA-ViT-g at 224 px with 39 of its 40 blocks.
    """

    model_type = "lavis_eva"

    patch_size: int = 14
    hidden_size: int = 1408
    num_hidden_layers: int = 39
    num_attention_heads: int = 16
    mlp_ratio: float | int = 4.3637


__all__ = ["LavisEvaConfig"]
