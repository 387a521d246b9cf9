# SPDX-License-Identifier: Apache-2.0
"""Configuration of TimeSformer, the video tower of ALPRO."""

from huggingface_hub.dataclasses import strict

from .configuration_vision_vit import LavisViTConfig


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
        """Raise `ValueError` when a clip would have no frame."""
        if self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}; a clip has at least one frame.")


__all__ = ["LavisTimesformerConfig"]
