"""Counts the rows that a model computes."""

from collections import Counter
from typing import Any

import torch
from torch import nn


class RowCounter(Counter[str]):
    """
    Rows that passed the vision encoder (`images`), the first layer of the text encoder (`texts`) and the first fusion
    layer (`pairs`) of a model that fuses text hidden states.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(images=0, texts=0, pairs=0)
        layers = model.text_encoder.encoder.layer
        fusion_layer = layers[model.config.text_config.fusion_layer]
        for name, module in {"images": model.vision_model, "texts": layers[0], "pairs": fusion_layer}.items():
            module.register_forward_hook(self._count(name), with_kwargs=True)

    def _count(self, name: str) -> Any:
        def count(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
            self[name] += next(tensors).shape[0]

        return count

    def pop_counts(self) -> dict[str, int]:
        """The rows since the last call."""
        counts = dict(self)
        self.update({name: -count for name, count in counts.items()})
        return counts
