# SPDX-License-Identifier: Apache-2.0
"""Learned positions at another resolution.

Letters: P patches of one image, L entries of a row, D width.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_grid_positions(
    positions: Tensor,
    new_grid: tuple[int, int],
    num_prefix_tokens: int = 1,
    align_corners: bool = False,
    mode: str = "bicubic",
) -> Tensor:
    """
    Resize a table of learned image positions by interpolation without antialiasing.

    Args:
        positions (`Tensor` of shape `(1, num_prefix_tokens + P, D)`): table of a square grid; the first rows belong
            to prefix tokens (the class token) and are kept as they are.
        new_grid (`tuple[int, int]`): rows and columns of patches wanted.
        num_prefix_tokens (`int`, *optional*, defaults to 1): rows that are no patches.
        align_corners (`bool`, *optional*, defaults to `False`): `True` for the CLIP towers of BLIP-2.
        mode (`str`, *optional*, defaults to `"bicubic"`): or `"nearest"`, which takes no `align_corners`.

    Returns:
        `Tensor` of shape `(1, num_prefix_tokens + new_grid[0] * new_grid[1], D)` in the dtype of `positions`; the
        very same tensor when the grid already fits.

    Raises:
        ValueError: the table does not belong to a square grid.
    """
    prefix, grid = positions[:, :num_prefix_tokens], positions[:, num_prefix_tokens:]
    side = math.isqrt(grid.shape[1])
    if side * side != grid.shape[1]:
        raise ValueError(
            f"A table of {positions.shape[1]} positions with {num_prefix_tokens} prefix tokens leaves {grid.shape[1]} "
            "patches, which form no square grid; give the number of prefix tokens that the table really has."
        )
    if (side, side) == tuple(new_grid):
        return positions
    image = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    corners = None if mode == "nearest" else align_corners
    image = F.interpolate(image, size=tuple(new_grid), mode=mode, align_corners=corners)
    grid = image.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)  # (1, P, D)
    return torch.cat([prefix, grid], dim=1)


def resize_row_positions(positions: Tensor, length: int, num_prefix_tokens: int = 0) -> Tensor:
    """
    Resize a table of learned positions in a row, of frames for instance, by repeating or leaving out entries.

    Args:
        positions (`Tensor` of shape `(1, num_prefix_tokens + L, D)`): table; the first rows are kept as they are.
        length (`int`): entries wanted after those.
        num_prefix_tokens (`int`, *optional*, defaults to 0): first rows that are not resized.

    Returns:
        `Tensor` of shape `(1, num_prefix_tokens + length, D)`; the very same tensor when the length already fits.
    """
    prefix, row = positions[:, :num_prefix_tokens], positions[:, num_prefix_tokens:]
    if row.shape[1] == length:
        return positions
    row = F.interpolate(row.transpose(1, 2), size=length, mode="nearest").transpose(1, 2)
    return torch.cat([prefix, row], dim=1)


__all__ = ["resize_grid_positions", "resize_row_positions"]
