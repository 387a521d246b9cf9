# SPDX-License-Identifier: Apache-2.0
"""Means of the losses of a head's output, kept on the device until they are logged."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor


class LossAverages:
    """
    Weighted means of every `loss_*` of the outputs (`loss_itc`, `loss_itm`, `loss_lm`, ...), over batches and
    processes.

    Adding values does not wait for the device.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}

    def add(self, outputs: Any, weight: float = 1.0) -> None:
        """
        Add the losses of a batch.

        Args:
            outputs (`ModelOutput`): output of the head; other outputs are ignored.
            weight (`float`, *optional*, defaults to 1): weight of the batch.
        """
        if not isinstance(outputs, Mapping):
            return
        for name, value in outputs.items():
            if name.startswith("loss_") and isinstance(value, Tensor):
                value = value.detach().float().mean() * weight
                self._sums[name] = self._sums[name] + value if name in self._sums else value
                self._weights[name] = self._weights.get(name, 0.0) + weight

    def pop(self) -> dict[str, float]:
        """
        The means since the last call, by the name of the loss. Every process has to call it at the same time.

        Returns:
            `dict[str, float]`: means over all processes.
        """
        names = list(self._sums)
        sums = torch.stack([self._sums[name] for name in names]).tolist() if names else []
        # Objects: a process whose batches had no such loss has other names.
        totals: dict[str, list[float]] = {}
        own = [{name: (total, self._weights[name]) for name, total in zip(names, sums, strict=True)}]
        for part in gather_object(own):
            for name, (total, weight) in part.items():
                entry = totals.setdefault(name, [0.0, 0.0])
                entry[0] += total
                entry[1] += weight
        self._sums, self._weights = {}, {}
        return {name: total / weight for name, (total, weight) in sorted(totals.items())}


__all__ = ["LossAverages"]
