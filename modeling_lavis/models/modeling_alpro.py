# SPDX-License-Identifier: Apache-2.0
"""The ALPRO family: the feature extractor, and all heads by name."""

from typing import Any

from torch import Tensor
from transformers.utils import can_return_tuple

from .configuration_alpro import AlproConfig
from .feature_extraction import FeatureExtractionMixin
from .modeling_alpro_answering import AlproForVideoQuestionAnswering
from .modeling_alpro_base import AlproPreTrainedModel, VideoFeaturesMixin
from .modeling_alpro_retrieval import AlproForVideoTextRetrieval
from .outputs_video import LavisVideoFeaturesOutput, as_video_fields


class AlproModel(FeatureExtractionMixin, VideoFeaturesMixin, AlproPreTrainedModel):
    """
    ALPRO as a feature extractor for videos, texts and pairs (https://arxiv.org/abs/2112.09583).

    Args:
        config ([`AlproConfig`]): sizes.

    Example:

    ```python
    >>> import torch
    >>> from modeling_lavis import AlproConfig, AlproModel

    >>> config = AlproConfig(
    ...     vision_config={"image_size": 32, "num_frames": 4, "hidden_size": 32, "num_hidden_layers": 1,
    ...                    "num_attention_heads": 2},
    ...     text_config={"hidden_size": 32, "num_hidden_layers": 2, "fusion_layer": 1, "num_attention_heads": 2},
    ... )
    >>> model = AlproModel(config).eval()
    >>> features = model(torch.rand(1, 4, 3, 32, 32), input_ids=torch.tensor([[101, 2023, 102]]))
    >>> tuple(features.multimodal_embeds.shape)
    (1, 8, 32)

    ```
    """

    def __init__(self, config: AlproConfig) -> None:
        super().__init__(config)
        self.build_features(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisVideoFeaturesOutput:
        r"""
        Args:
            pixel_values_videos (`Tensor` of shape `(B, frames, channels, height, width)`, *optional*): clips.
            input_ids (`Tensor` of shape `(B, T)`, *optional*): texts, `[CLS]` in slot 0.
            attention_mask (`Tensor` of shape `(B, T)`, *optional*): 1 for tokens.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take clips of another size or number of
                frames.
            token_type_ids: accepted for transformers' pipelines, without effect; all tokens are of type 0.

        Returns:
            [`LavisVideoFeaturesOutput`]: video features if videos are given, text features if texts are given, joint
            states if both are.
        """
        if pixel_values_videos is None and input_ids is None:
            raise ValueError("Give pixel_values_videos, input_ids or both; there is nothing to extract features from.")
        output = super().forward(
            pixel_values_videos,
            input_ids,
            attention_mask,
            interpolate_pos_encoding=interpolate_pos_encoding,
            **{**kwargs, "return_dict": True},
        )
        return LavisVideoFeaturesOutput(**as_video_fields(output))


__all__ = ["AlproForVideoQuestionAnswering", "AlproForVideoTextRetrieval", "AlproModel", "AlproPreTrainedModel"]
