# SPDX-License-Identifier: Apache-2.0
"""The base of all ALBEF heads."""

from typing import Any

from .configuration_albef import AlbefConfig
from .image_text_base import ImageTextPreTrainedModel
from .text_bert import BertEmbeddings


class AlbefPreTrainedModel(ImageTextPreTrainedModel):
    """An image tower and a text transformer with fusion layers that are configured by [`AlbefConfig`]."""

    config: AlbefConfig
    #: whether the class is for two images, whose layers come in pairs
    reads_pairs = False

    def __init__(self, config: AlbefConfig, *args: Any, **kwargs: Any) -> None:
        if config.text_config.pair_image_layers and not self.reads_pairs:
            raise ValueError(
                f"This configuration is that of a model for two images (text_config.pair_image_layers), whose layers "
                f"come in pairs; {type(self).__name__} reads one image. Use AlbefForImagesAndTextClassification, or "
                "start from a checkpoint for one image."
            )
        # from_pretrained(..., use_token_type_embeddings=...) changes a configuration that is complete already.
        config.pass_on_token_types()
        super().__init__(config, *args, **kwargs)

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Tie shared weights, and freeze token types that are kept but not used; called after loading, too."""
        super().tie_weights(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, BertEmbeddings) and hasattr(module, "token_type_embeddings"):
                if not module.implicit_type:
                    module.token_type_embeddings.requires_grad_(False)


__all__ = ["AlbefPreTrainedModel"]
