# SPDX-License-Identifier: Apache-2.0
"""States of images that several passes read, with the keys and values that attention has made of them.

Letters: B images, N image tokens, E width of the states, H heads, d width of a head.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class ReusedStates:
    """
    States that stand in for a tensor where more than one pass reads the same images without learning: each attention
    makes its keys and values in the first pass and finds them in the next.

    Args:
        states (`Tensor` of shape `(B, N, E)`): what an image tower has made of images. Keys and values of all layers
            are kept beside them as long as this object lives.
    """

    def __init__(self, states: Tensor) -> None:
        self.states = states
        self._made: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    @property
    def shape(self) -> torch.Size:
        """`(B, N, E)`."""
        return self.states.shape

    def to(self, dtype: torch.dtype) -> "ReusedStates":
        """The states in another precision, before anything was made of them; this very object if nothing changes."""
        return self if self.states.dtype is dtype else ReusedStates(self.states.to(dtype))

    def projected(self, module: nn.Module, project: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, N, d) of a module, made by `project` the first time that it asks."""
        if module not in self._made:
            self._made[module] = project(self.states)
        return self._made[module]


__all__ = ["ReusedStates"]
