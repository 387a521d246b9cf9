# SPDX-License-Identifier: Apache-2.0
"""Texts in any order that share encoder states without copying keys and values.

Letters: R rows of text, B rows of encoder states, G places for texts beside each row of states, T tokens, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class RowGroups:
    """
    Where each text stands when the texts of one row of states are lined up.

    Args:
        places (`Tensor` of shape `(R,)`): int64 place of each text among `B * G`.
        num_states (`int`): B.
        size (`int`): G.
    """

    places: Tensor
    num_states: int
    size: int

    def spread(self, rows: Tensor) -> Tensor:
        """Texts (R, T, D) to their places (B * G, T, D); empty places are zero."""
        empty = rows.new_zeros(self.num_states * self.size, *rows.shape[1:])
        return empty.index_copy(0, self.places, rows)

    def gather(self, rows: Tensor) -> Tensor:
        """What stands at the places of the texts: (B * G, ...) to (R, ...)."""
        return rows.index_select(0, self.places)


def group_rows(encoder_index: Tensor, num_states: int) -> RowGroups:
    """
    Give every text a place beside the row of states that it attends to.

    Args:
        encoder_index (`Tensor` of shape `(R,)`): row of states of each text.
        num_states (`int`): B.
    """
    member = encoder_index[:, None] == torch.arange(num_states, device=encoder_index.device)  # (R, B)
    before = member.cumsum(dim=0).gather(1, encoder_index[:, None])[:, 0] - 1
    # How many texts a row has depends on the values, which would break a graph; no row has more than there are.
    size = encoder_index.shape[0] if torch.compiler.is_compiling() else max(int(before.max()) + 1, 1)
    return RowGroups(encoder_index * size + before, num_states, size)


__all__ = ["RowGroups", "group_rows"]
