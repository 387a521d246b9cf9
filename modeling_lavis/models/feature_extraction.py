# SPDX-License-Identifier: Apache-2.0
"""Features of images, texts and pairs, raw and projected.

Letters: B rows, N image tokens, T text tokens, D width, P width of the common space.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .generation import with_first_token
from .heads import project
from .image_text_base import FeaturesMixin, ImageTextPreTrainedModel, build_encoders, build_projections
from .outputs import LavisFeaturesOutput


class FeatureExtractionMixin(FeaturesMixin, ImageTextPreTrainedModel):
    """Towers, projections and temperature, and the forward pass that gives features by name."""

    def build_features(self, config: PreTrainedConfig) -> None:
        """Give the model its towers, projections and temperature."""
        build_encoders(self, config, twins=False)
        build_projections(self, config, twins=False)
        self.temp = nn.Parameter(torch.tensor(config.logit_temperature))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.constant_(self.temp, self.config.logit_temperature)

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
            input_ids (`Tensor` of shape `(B, T)`, *optional*): texts; slot 0 is set to what each pass needs.
            attention_mask (`Tensor` of shape `(B, T)`, *optional*): 1 for tokens.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.
            token_type_ids: accepted for transformers' pipelines, without effect.

        Returns:
            [`LavisFeaturesOutput`]: image features if images are given, text features if texts are given, joint
            states if both are. With `output_hidden_states` or `output_attentions` those of the joint pass, or of the
            only one that runs.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("Give pixel_values, input_ids or both; there is nothing to extract features from.")
        fields: dict[str, Any] = {}
        recorded = None
        if pixel_values is not None:
            recorded = self.vision_model(
                pixel_values,
                interpolate_pos_encoding=interpolate_pos_encoding,
                **(kwargs if input_ids is None else {}),
            )
            image_embeds = recorded.last_hidden_state
            fields.update(image_embeds=image_embeds, image_features=project(image_embeds, self.vision_proj))
        if input_ids is not None:
            text = self.text_encoder(
                with_first_token(input_ids, self.config.cls_token_id),
                attention_mask,
                mode="text",
                **(kwargs if pixel_values is None else {}),
            )
            fields.update(
                text_embeds=text.last_hidden_state, text_features=project(text.last_hidden_state, self.text_proj)
            )
            recorded = recorded or text
        if pixel_values is not None and input_ids is not None:
            recorded = self.read_images(
                fields["image_embeds"], input_ids, attention_mask, text_embeds=fields["text_embeds"], **kwargs
            )
            fields["multimodal_embeds"] = recorded.last_hidden_state
        return LavisFeaturesOutput(**fields, hidden_states=recorded.hidden_states, attentions=recorded.attentions)


__all__ = ["FeatureExtractionMixin"]
