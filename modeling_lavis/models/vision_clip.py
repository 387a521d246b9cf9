# SPDX-License-Identifier: Apache-2.0
"""The CLIP image tower of BLIP-2: a ViT with a norm before its first block and none after its last."""

from .configuration_vision_clip import LavisClipVisionConfig
from .vision_vit import LavisViTModel, ViTBlock


class ClipBlock(ViTBlock):
    """Pre-norm block of CLIP."""


class LavisClipVisionModel(LavisViTModel):
    """
    Vision transformer of CLIP (https://arxiv.org/abs/2103.00020) that returns the state of every token as the last
    block leaves it.

    Args:
        config ([`LavisClipVisionConfig`]): sizes of the tower.
    """

    config: LavisClipVisionConfig
    _no_split_modules = ["ClipBlock"]
    block_class = ClipBlock
    patch_bias = False
    first_norm = True
    final_norm = False
    # parity: the original resizes the positions of this tower, and of no other, with aligned corners
    align_position_corners = True


__all__ = ["ClipBlock", "LavisClipVisionModel"]
