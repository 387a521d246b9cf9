# SPDX-License-Identifier: Apache-2.0
"""Hidden states between the two stages of retrieval: in memory, memory-mapped on disk, or computed again.

Shapes: b images of a group, N image tokens, S texts, T text tokens, M tokens of all texts, D hidden size, R text rows.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from modeling_lavis.files import whole_file

#: start of the name of a file that is not complete
PARTIAL = "tmp-"


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, completely or not at all."""
    with whole_file(path, PARTIAL) as partial:
        save_file({name: values.contiguous().cpu() for name, values in tensors.items()}, partial, metadata=metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a safetensors file, memory-mapped, and its metadata."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}


class Budget:
    """
    Bytes that may still be used in memory and on disk.

    Args:
        memory, disk (`int`): bytes.
    """

    def __init__(self, memory: int, disk: int) -> None:
        self.left = {"memory": memory, "disk": disk}

    def take(self, size: int) -> str:
        """Where `size` bytes go, which are then in use: `"memory"`, `"disk"` or `"recomputed"`."""
        for place, left in self.left.items():
            if size <= left:
                self.left[place] = left - size
                return place
        return "recomputed"


class GroupStates:
    """
    Hidden states of images, by group. The first groups that fit into the budget stay in memory, the next ones go to
    files, and the rest has to be computed again.

    Args:
        budget ([`Budget`]): bytes that may be used.
        folder (`Callable`): function that returns the folder of the files, called when the first one is written.
        may_have_files (`bool`): whether files of an earlier run may be there.
    """

    def __init__(self, budget: Budget, folder: Callable[[], Path], may_have_files: bool) -> None:
        self._uses_files = may_have_files or budget.left["disk"] > 0
        self._budget = budget
        self._folder = folder
        self._memory: dict[int, Tensor] = {}
        #: images in each place
        self.images = {"memory": 0, "disk": 0, "recomputed": 0}

    def put(self, group: int, states: Tensor) -> None:
        """Keep the states `(b, N, D)` of a group, if they fit."""
        place = self._budget.take(states.numel() * states.element_size())
        self.images[place] += len(states)
        if place == "memory":
            self._memory[group] = states.cpu()
        elif place == "disk":
            write_tensors(self._file(group), {"states": states})

    def take(self, group: int) -> Tensor | None:
        """States of a group, which are forgotten in memory; `None` if they have to be computed again."""
        if group in self._memory:
            return self._memory.pop(group)
        if self._uses_files and self._file(group).exists():
            return read_tensors(self._file(group))[0]["states"]
        return None

    def discard(self, group: int) -> None:
        """Remove the file of a group."""
        if self._uses_files:
            self._file(group).unlink(missing_ok=True)

    def has(self, group: int) -> bool:
        """Whether the states of a group are there, from this run or in a file of an earlier one."""
        return group in self._memory or (self._uses_files and self._file(group).exists())

    def _file(self, group: int) -> Path:
        return self._folder() / f"image-states-{group:06d}.safetensors"


class TextStates:
    """
    Hidden states of texts without padding, as one tensor in memory or in a memory-mapped file. It is indexed like a
    tensor `(S, T, D)` by rows and a range of columns, which is how `score_pairs` uses `text_embeds`; the states of a
    text beyond its length are those of its last token, and are masked.

    Args:
        lengths (`Tensor` of shape `(S,)`): number of tokens of each text.
        device (`torch.device`): device of what indexing returns.
        encode (`Callable`): function from rows `(R,)` and a length to hidden states `(R, length, D)`, for states that
            were not kept.
    """

    def __init__(self, lengths: Tensor, device: torch.device, encode: Callable[[Tensor, int], Tensor]) -> None:
        self._lengths = lengths.cpu()
        self._starts = self._lengths.cumsum(0) - self._lengths
        self._device = device
        self._encode = encode
        self._values: Tensor | None = None
        #: `"memory"`, `"disk"` or `"recomputed"`
        self.place = "recomputed"

    def allocate(self, width: int, dtype: torch.dtype, budget: Budget, folder: Callable[[], Path]) -> None:
        """Make room for states `(M, width)` where the budget allows it."""
        total = int(self._lengths.sum())
        self.place = budget.take(total * width * dtype.itemsize)
        if self.place == "memory":
            self._values = torch.empty(total, width, dtype=dtype)
        elif self.place == "disk":
            descriptor, name = tempfile.mkstemp(prefix=f"{PARTIAL}text-states-", dir=folder())
            os.close(descriptor)
            values = torch.from_file(name, shared=True, size=total * width, dtype=dtype)
            self._values = values.view(total, width)
            os.unlink(name)  # the mapping keeps the contents until it is closed, also if the process is killed

    def put(self, rows: Tensor, tokens: Tensor) -> None:
        """Keep the states of texts: `(tokens, D)`, one text of `rows` after the other, without padding."""
        if self._values is not None:
            self._values[self._positions(rows, None)] = tokens.to(self._values)

    def __getitem__(self, key: tuple[Tensor, slice]) -> Tensor:
        rows, columns = key
        length = columns.stop
        if self._values is None:
            return self._encode(rows, length)
        return self._values[self._positions(rows.cpu(), length)].to(self._device)

    def _positions(self, rows: Tensor, length: int | None) -> Tensor:
        """Positions of the tokens of texts: one after the other, or `(R, length)`."""
        lengths, starts = self._lengths[rows], self._starts[rows]
        if length is None:
            offsets = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
            return starts.repeat_interleave(lengths) + offsets
        columns = torch.arange(length).expand(len(rows), length)
        return starts[:, None] + columns.minimum(lengths[:, None] - 1)


def tokens_of(text_embeds: Tensor, attention_mask: Tensor) -> Tensor:
    """States `(tokens, D)` of `(R, T, D)` without padding."""
    return text_embeds[attention_mask.bool()]


__all__ = ["Budget", "GroupStates", "TextStates", "read_tensors", "tokens_of", "write_tensors"]
