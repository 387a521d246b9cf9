# SPDX-License-Identifier: Apache-2.0
"""The ALBEF family: the feature extractor, and all heads by name."""

from .configuration_albef import AlbefConfig
from .feature_extraction import FeatureExtractionMixin
from .modeling_albef_answering import AlbefForQuestionAnswering
from .modeling_albef_base import AlbefPreTrainedModel
from .modeling_albef_classification import AlbefForImageAndTextClassification, AlbefForImagesAndTextClassification
from .modeling_albef_retrieval import AlbefForImageTextRetrieval, AlbefForPreTraining


class AlbefModel(FeatureExtractionMixin, AlbefPreTrainedModel):
    """
    ALBEF as a feature extractor for images, texts and pairs (https://arxiv.org/abs/2107.07651): the LAVIS architecture
    `albef_feature_extractor`.

    Args:
        config ([`AlbefConfig`]): sizes; this head has no twins. `use_token_type_embeddings` chooses between LAVIS's
            numbers and those of ALBEF's authors.

    Example:

    ```python
    >>> import torch
    >>> from modeling_lavis import AlbefConfig, AlbefModel

    >>> config = AlbefConfig(
    ...     vision_config={"image_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    ...     text_config={"hidden_size": 32, "num_hidden_layers": 2, "fusion_layer": 1, "num_attention_heads": 2},
    ... )
    >>> model = AlbefModel(config).eval()
    >>> features = model(pixel_values=torch.rand(1, 3, 32, 32), input_ids=torch.tensor([[101, 2023, 102]]))
    >>> tuple(features.multimodal_embeds.shape)
    (1, 3, 32)

    ```
    """

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.build_features(config)
        self.post_init()


__all__ = [
    "AlbefForImageAndTextClassification",
    "AlbefForImageTextRetrieval",
    "AlbefForImagesAndTextClassification",
    "AlbefForPreTraining",
    "AlbefForQuestionAnswering",
    "AlbefModel",
    "AlbefPreTrainedModel",
]
