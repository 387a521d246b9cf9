# SPDX-License-Identifier: Apache-2.0
"""Configuration of the ViT image tower that ALBEF and BLIP share."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class LavisViTConfig(PreTrainedConfig):
    r"""
    Configuration of [`LavisViTModel`], a pre-norm vision transformer with a learned position for every patch
    (Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929). The defaults are those of ViT-B/16 at 224 px.

    Args:
        image_size (`int`, *optional*, defaults to 224): side of the (square) input in pixels.
        patch_size (`int`, *optional*, defaults to 16): side of a patch in pixels.
        num_channels (`int`, *optional*, defaults to 3): colour channels of the input.
        hidden_size (`int`, *optional*, defaults to 768): width of the tower.
        num_hidden_layers (`int`, *optional*, defaults to 12): number of blocks.
        num_attention_heads (`int`, *optional*, defaults to 12): heads per block.
        mlp_ratio (`float`, *optional*, defaults to 4.0): width of the feed-forward part over `hidden_size`.
        hidden_act (`str`, *optional*, defaults to `"gelu"`): activation of the feed-forward part.
        layer_norm_eps (`float`, *optional*, defaults to 1e-6): epsilon of every layer norm.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0): dropout after positions, attention and MLP.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0): dropout of the attention weights.
        drop_path_rate (`float`, *optional*, defaults to 0.0): stochastic depth of the last block; it grows
            linearly from 0 at the first.
        initializer_range (`float`, *optional*, defaults to 0.02): deviation of the truncated normal for new weights.
    """

    model_type = "lavis_vit"
    base_config_key = "vision_config"

    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float | int = 4.0
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    initializer_range: float = 0.02

    def validate_vit(self) -> None:
        """Raise `ValueError` when sizes do not divide."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} attention heads; "
                "change one of them in the vision configuration."
            )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}; "
                "the tower cuts the image into whole patches."
            )

    @property
    def num_patches(self) -> int:
        """Patches of one image at `image_size`, the class token not counted."""
        return (self.image_size // self.patch_size) ** 2


__all__ = ["LavisViTConfig"]
