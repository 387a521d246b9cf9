# SPDX-License-Identifier: Apache-2.0
"""Positions of new image and video encoders of which neighbours are alike, so that small data can teach their order."""

import torch
from torch import nn

from modeling_lavis.models.vision_timesformer import LavisTimesformerModel
from modeling_lavis.models.vision_vit import LavisViTModel

_PATCH_STD = 0.03


def random_walk(steps: int, hidden_size: int) -> torch.Tensor:
    """
    A standardized random walk of the global generator: vectors of which neighbours are alike.

    Args:
        steps (`int`): number of vectors.
        hidden_size (`int`): their size.

    Returns:
        `torch.Tensor` of shape `(steps, hidden_size)`: mean 0 for each entry, standard deviation 1; zeros for one step.
    """
    walk = torch.randn(steps, hidden_size).cumsum(dim=0)
    walk = walk - walk.mean(dim=0)
    return walk if steps == 1 else walk / walk.std()


@torch.no_grad()
def smooth_positions(encoder: LavisViTModel) -> None:
    """
    Give a new image or video encoder positions, and times, of which neighbours are alike.

    The position of a patch is the sum of a random walk over rows and one over columns; times are a third. Patches start
    small beside them. A video encoder that starts from an image encoder has temporal layers that start at zero; here,
    they start like the others, since there is nothing to keep.

    Args:
        encoder ([`LavisViTModel`]): the new encoder; changed in-place.
    """
    config = encoder.config
    side = config.image_size // config.patch_size
    rows, columns = random_walk(side, config.hidden_size), random_walk(side, config.hidden_size)
    encoder.pos_embed[0, 1:] = (rows[:, None] + columns[None]).flatten(0, 1)
    encoder.patch_embed.proj.weight.normal_(std=_PATCH_STD)
    if isinstance(encoder, LavisTimesformerModel):
        encoder.time_embed[0] = random_walk(config.num_frames, config.hidden_size)
        for block in encoder.blocks:
            weight = block.get_parameter("temporal_fc.weight")
            nn.init.trunc_normal_(weight, std=config.initializer_range)


__all__ = ["random_walk", "smooth_positions"]
