# SPDX-License-Identifier: Apache-2.0
"""Configurations of the vision encoders: ViT, CLIP, EVA and TimeSformer."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_base import RANGES, LavisPreTrainedConfig, check_range


def size_from_ratio(hidden_size: int, ratio: float) -> int:
    """
    The largest integer up to `hidden_size * ratio`, where a product that rounding put just below an integer counts as
    that integer: `100 * 1.15` is 114.99999999999999.
    """
    return math.floor(hidden_size * ratio * (1 + 1e-9))


@strict
class LavisViTConfig(LavisPreTrainedConfig):
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
        intermediate_size (`int`, *optional*): size of the MLP's intermediate layer; `4 * hidden_size` by default.
        mlp_ratio (`float`, *optional*): the same as a multiple of `hidden_size`, instead of `intermediate_size`; files
            of earlier versions have it. As an attribute, the quotient of the two sizes.
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
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    layer_norm_eps: float | int = 1e-6
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    initializer_range: float | int = 0.02

    # ratio of the default `intermediate_size`
    default_mlp_ratio = 4.0

    def __post_init__(self, **kwargs: Any) -> None:
        check_range("hidden_size", self.hidden_size, *RANGES["hidden_size"])
        ratio = kwargs.pop("mlp_ratio", None)
        if ratio is not None:
            check_range("mlp_ratio", ratio, 1e-3, 1000)
            size = size_from_ratio(self.hidden_size, ratio)
            if self.intermediate_size not in (None, size):
                raise ValueError(
                    f"intermediate_size is {self.intermediate_size}, but mlp_ratio {ratio} makes it {size}. Give one "
                    "of the two."
                )
            self.intermediate_size = size
        elif self.intermediate_size is None:
            self.intermediate_size = size_from_ratio(self.hidden_size, self.default_mlp_ratio)
        super().__post_init__(**kwargs)

    @property
    def mlp_ratio(self) -> float:
        """`intermediate_size` as a multiple of `hidden_size`."""
        return (self.intermediate_size or 0) / self.hidden_size

    @mlp_ratio.setter
    def mlp_ratio(self, value: float) -> None:
        check_range("mlp_ratio", value, 1e-3, 1000)
        self.intermediate_size = size_from_ratio(self.hidden_size, value)

    def validate_vit(self) -> None:
        """Raise `ValueError` when sizes are out of range or do not divide."""
        self.check_ranges()
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
    layer_norm_eps: float | int = 1e-5


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

    default_mlp_ratio = 4.3637


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


__all__ = [
    "LavisClipVisionConfig",
    "LavisEvaConfig",
    "LavisTimesformerConfig",
    "LavisViTConfig",
    "size_from_ratio",
]
