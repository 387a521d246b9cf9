# SPDX-License-Identifier: Apache-2.0
"""BLIP-2 as a feature extractor.

Letters: B rows, N image tokens, Q queries, T text tokens, D width of the Q-Former, P width of the common space.
"""

from typing import Any

from torch import Tensor
from transformers.utils import can_return_tuple

from .configuration_lavis_blip_2 import LavisBlip2Config
from .generation import with_first_token
from .heads import project
from .modeling_lavis_blip_2_base import QFormerFeaturesMixin
from .outputs import LavisFeaturesOutput


class LavisBlip2Model(QFormerFeaturesMixin):
    """
    BLIP-2 as a feature extractor for images, texts and pairs (https://arxiv.org/abs/2301.12597): the LAVIS
    architecture `blip2_feature_extractor`.

    Args:
        config ([`LavisBlip2Config`]): without a language model.
    """

    def __init__(self, config: LavisBlip2Config) -> None:
        super().__init__(config)
        self.build_trunk(config)
        self.build_projections(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisFeaturesOutput:
        r"""
        Args:
            pixel_values (`Tensor` of shape `(B, channels, height, width)`, *optional*): images.
            input_ids (`Tensor` of shape `(B, T)`, *optional*): texts; slot 0 is set to `[CLS]`.
            attention_mask (`Tensor` of shape `(B, T)`, *optional*): 1 for tokens.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.
            token_type_ids: accepted for transformers' pipelines, without effect.

        Returns:
            [`LavisFeaturesOutput`]: with images, `image_embeds` (B, Q, D) are the states of the queries and
            `image_features` (B, Q, P) the same projected; with texts `text_embeds` (B, T, D) and `text_features`
            (B, T, P); with both also `multimodal_embeds` (B, Q, D), the queries that have read image and text.
            `hidden_states` and `attentions` are those of the joint pass, or of the only one that runs.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("Give pixel_values, input_ids or both; there is nothing to extract features from.")
        fields: dict[str, Any] = {}
        recorded = image_embeds = None
        if pixel_values is not None:
            image_embeds = self.encode_images(pixel_values, interpolate_pos_encoding)
            recorded = self.query_images(image_embeds, **(kwargs if input_ids is None else {}))
            queries = recorded.last_hidden_state
            fields.update(image_embeds=queries, image_features=project(queries, self.vision_proj))
        if input_ids is not None:
            input_ids = with_first_token(input_ids, self.config.cls_token_id)
            alone = kwargs if image_embeds is None else {}
            text = self.qformer(input_ids=input_ids, attention_mask=attention_mask, **alone)
            states = text.last_hidden_state
            fields.update(text_embeds=states, text_features=project(states, self.text_proj))
            recorded = text
            if image_embeds is not None:
                recorded = self.query_images(image_embeds, input_ids, attention_mask, queries_only=True, **kwargs)
                fields["multimodal_embeds"] = recorded.last_hidden_state
        return LavisFeaturesOutput(**fields, hidden_states=recorded.hidden_states, attentions=recorded.attentions)


__all__ = ["LavisBlip2Model"]
