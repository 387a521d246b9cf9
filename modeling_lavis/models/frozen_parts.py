# SPDX-License-Identifier: Apache-2.0
"""Parts that are not trained: kept frozen through loading, `train()` and saving."""

from typing import Any

from torch import nn

from .modeling_base import LavisPreTrainedModel


class FrozenPartsMixin(LavisPreTrainedModel):
    """
    Freezes `vision_model` and `language_model` as `freeze_vision` and `freeze_language_model` of the configuration say.
    """

    def frozen_modules(self) -> list[nn.Module]:
        """The modules that are not trained."""
        names = {"vision_model": self.config.freeze_vision, "language_model": self.config.freeze_language_model}
        return [getattr(self, name) for name, frozen in names.items() if frozen and hasattr(self, name)]

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Tie shared weights and freeze what is frozen; called after construction and after loading."""
        super().tie_weights(*args, **kwargs)
        # Loading replaces parameters, so a freeze in the constructor would be lost.
        for module in self.frozen_modules():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenPartsMixin":
        """Switch to training; a frozen image tower stays in evaluation mode, as in the original."""
        super().train(mode)
        if self.config.freeze_vision:
            self.vision_model.eval()
        return self


__all__ = ["FrozenPartsMixin"]
