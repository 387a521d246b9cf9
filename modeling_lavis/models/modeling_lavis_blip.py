# SPDX-License-Identifier: Apache-2.0
"""The BLIP family: the feature extractor, and all heads by name.

Letters: B rows, N image tokens, T text tokens, D width, P width of the common space.
"""

from .configuration_lavis_blip import LavisBlipConfig
from .feature_extraction import FeatureExtractionMixin
from .modeling_lavis_blip_answering import LavisBlipForQuestionAnswering
from .modeling_lavis_blip_base import LavisBlipPreTrainedModel
from .modeling_lavis_blip_captioning import LavisBlipForConditionalGeneration
from .modeling_lavis_blip_classification import (
    LavisBlipForImageAndTextClassification,
    LavisBlipForImagesAndTextClassification,
)
from .modeling_lavis_blip_retrieval import LavisBlipForImageTextRetrieval, LavisBlipForPreTraining


class LavisBlipModel(FeatureExtractionMixin, LavisBlipPreTrainedModel):
    """
    BLIP as a feature extractor for images, texts and pairs (https://arxiv.org/abs/2201.12086): the LAVIS architecture
    `blip_feature_extractor`.

    Args:
        config ([`LavisBlipConfig`]): sizes; this head has no twins.

    Example:

    ```python
    >>> import torch
    >>> from modeling_lavis import LavisBlipConfig, LavisBlipModel

    >>> config = LavisBlipConfig(
    ...     vision_config={"image_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    ...     text_config={"vocab_size": 30524, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    ... )
    >>> model = LavisBlipModel(config).eval()
    >>> features = model(pixel_values=torch.rand(1, 3, 32, 32), input_ids=torch.tensor([[101, 2023, 102]]))
    >>> tuple(features.multimodal_embeds.shape)
    (1, 3, 32)

    ```
    """

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        self.build_features(config)
        self.post_init()


__all__ = [
    "LavisBlipForConditionalGeneration",
    "LavisBlipForImageAndTextClassification",
    "LavisBlipForImageTextRetrieval",
    "LavisBlipForImagesAndTextClassification",
    "LavisBlipForPreTraining",
    "LavisBlipForQuestionAnswering",
    "LavisBlipModel",
    "LavisBlipPreTrainedModel",
]
