# SPDX-License-Identifier: Apache-2.0
"""Configurations of the vision encoders: ViT, CLIP, EVA and TimeSformer."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class LavisViTConfig(PreTrainedConfig):
    r"""
    Configuration of [`LavisViTModel`], the image encoder of ALBEF and BLIP: a pre-norm vision transformer with learned
    position embeddings (Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929). The defaults are those of ViT-B/16
    at 224 px.

    Args:
        image_size (`int`, *optional*, defaults to 224): height and width of the input in pixels.
        patch_size (`int`, *optional*, defaults to 16): height and width of a patch in pixels.
        num_channels (`int`, *optional*, defaults to 3): number of input channels.
        hidden_size (`int`, *optional*, defaults to 768): hidden size.
        num_hidden_layers (`int`, *optional*, defaults to 12): number of blocks.
        num_attention_heads (`int`, *optional*, defaults to 12): attention heads per block.
        mlp_ratio (`float`, *optional*, defaults to 4.0): size of the MLP's intermediate layer over `hidden_size`.
        hidden_act (`str`, *optional*, defaults to `"gelu"`): activation of the MLP.
        layer_norm_eps (`float`, *optional*, defaults to 1e-6): epsilon of the layer norms.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0): dropout after position embeddings, attention and
            MLP.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0): dropout of the attention weights.
        drop_path_rate (`float`, *optional*, defaults to 0.0): stochastic depth rate of the last block; rates grow
            linearly from 0 at the first.
        initializer_range (`float`, *optional*, defaults to 0.02): standard deviation of the truncated normal
            distribution for new weights.
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
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}; "
                "change one of them in the vision configuration."
            )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}; an image is split "
                "into whole patches. Change one of them in the vision configuration."
            )

    @property
    def num_patches(self) -> int:
        """Number of patches of an image of `image_size`, without the class token."""
        return (self.image_size // self.patch_size) ** 2


@strict
class LavisClipVisionConfig(LavisViTConfig):
    r"""
    Configuration of [`LavisClipVisionModel`], the vision transformer of CLIP (Radford et al., 2021,
    https://arxiv.org/abs/2103.00020) without its last block, final norm and projection. Fields are those of
    [`LavisViTConfig`]; the defaults are CLIP ViT-L/14 at 224 px.

    `num_hidden_layers` is 23, as in LAVIS's main branch, with which the published checkpoints were trained. LAVIS 1.0.2
    builds 21 blocks by mistake; set 21 to reproduce its numbers.
    """

    model_type = "lavis_clip_vision"

    patch_size: int = 14
    hidden_size: int = 1024
    num_hidden_layers: int = 23
    num_attention_heads: int = 16
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


@strict
class LavisEvaConfig(LavisViTConfig):
    r"""
    Configuration of [`LavisEvaModel`], the vision transformer of EVA (Fang et al., 2023,
    https://arxiv.org/abs/2211.07636) as BLIP-2 uses it, without its last block and final norm. Fields are those of
    [`LavisViTConfig`]; the defaults are EVA-ViT-g at 224 px with 39 of its 40 blocks.
    """

    model_type = "lavis_eva"

    patch_size: int = 14
    hidden_size: int = 1408
    num_hidden_layers: int = 39
    num_attention_heads: int = 16
    mlp_ratio: float | int = 4.3637


@strict
class LavisTimesformerConfig(LavisViTConfig):
    r"""
    Configuration of [`LavisTimesformerModel`], a vision transformer whose blocks attend over time and over space in
    turn (Bertasius et al., 2021, https://arxiv.org/abs/2102.05095). Fields are those of [`LavisViTConfig`] and the
    number of frames; the defaults are ViT-B/16 on 8 frames of 224 px.

    Args:
        num_frames (`int`, *optional*, defaults to 8): frames of a clip.
    """

    model_type = "lavis_timesformer"

    num_frames: int = 8
    drop_path_rate: float | int = 0.1

    def validate_frames(self) -> None:
        """Raise `ValueError` when a clip has no frame."""
        if self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}; expected at least 1.")


__all__ = ["LavisClipVisionConfig", "LavisEvaConfig", "LavisTimesformerConfig", "LavisViTConfig"]
