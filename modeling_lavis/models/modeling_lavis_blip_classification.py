# SPDX-License-Identifier: Apache-2.0
"""BLIP heads that classify a text together with one image or with two.

Letters: B rows, N image tokens, T text tokens, D width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import can_return_tuple

from .configuration_lavis_blip import LavisBlipConfig
from .contrastive import soft_cross_entropy
from .generation import with_first_token
from .heads import classification_head
from .modeling_base import image_and_text
from .modeling_lavis_blip_base import LavisBlipPreTrainedModel, build_encoders
from .momentum import update_twins
from .momentum_contrast import MomentumContrastMixin
from .outputs import LavisClassificationOutput
from .text_bert import LavisBertModel
from .vision_vit import LavisViTModel


class LavisBlipForImageAndTextClassification(MomentumContrastMixin, LavisBlipPreTrainedModel):
    """
    BLIP for pairs of an image and a text, such as visual entailment, with momentum distillation. The LAVIS
    architecture `blip_classification`.

    Args:
        config ([`LavisBlipConfig`]): `num_labels`; twins exist if `use_momentum` and `use_distill` are set.
    """

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.distils = config.use_momentum and config.use_distill
        build_encoders(self, config, self.distils)
        for suffix in ("", "_m") if self.distils else ("",):
            setattr(self, f"cls_head{suffix}", classification_head(config.text_config.hidden_size, config.num_labels))
        self.post_init()

    def _read(
        self,
        suffix: str,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        interpolate: bool,
        **kwargs: Any,
    ) -> tuple[Tensor, Any, Tensor]:
        """Image states, output of the text encoder and logits of the online modules or, with `"_m"`, the twins."""
        vision, text = getattr(self, f"vision_model{suffix}"), getattr(self, f"text_encoder{suffix}")
        image_embeds = vision(pixel_values, interpolate_pos_encoding=interpolate).last_hidden_state
        output = text(input_ids, attention_mask, encoder_hidden_states=image_embeds, **kwargs)
        return image_embeds, output, getattr(self, f"cls_head{suffix}")(output.last_hidden_state[:, 0])

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        alpha: float | None = None,
        update_state: bool | None = None,
        output_intermediates: bool = False,
        interpolate_pos_encoding: bool = False,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisClassificationOutput:
        r"""
        Args:
            pixel_values (`Tensor` of shape `(B, channels, height, width)`): images.
            input_ids, attention_mask (`Tensor` of shape `(B, T)`): texts; parity: they begin with `[CLS]` here.
            labels (`Tensor` of shape `(B,)`, *optional*): classes.
            alpha (`float`, *optional*): weight of the twins' soft targets; `distill_alpha`, then the configuration's.
            update_state (`bool`, *optional*): whether the twins move; only while training by default.
            output_intermediates (`bool`, *optional*, defaults to `False`): also return what the twins gave.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.
            token_type_ids: accepted for transformers' pipelines, without effect.

        Returns:
            [`LavisClassificationOutput`].
        """
        pixel_values, input_ids = image_and_text(pixel_values, input_ids)
        input_ids = with_first_token(input_ids, self.config.cls_token_id)
        image_embeds, output, logits = self._read(
            "", pixel_values, input_ids, attention_mask, interpolate_pos_encoding, **kwargs
        )
        loss, intermediates = None, None
        if labels is not None:
            loss = F.cross_entropy(logits.float(), labels)
            if self.distils:
                if self.training if update_state is None else update_state:
                    update_twins(self.momentum_pairs, self.config.momentum)
                with torch.no_grad():
                    image_m, output_m, logits_m = self._read(
                        "_m", pixel_values, input_ids, attention_mask, interpolate_pos_encoding
                    )
                weight = self.soft_target_weight(alpha)
                soft = soft_cross_entropy(logits.float(), logits_m.float().softmax(dim=-1))
                loss = (1 - weight) * loss + weight * soft
                if output_intermediates:
                    intermediates = {
                        "image_embeds_m": image_m,
                        "multimodal_embeds_m": output_m.last_hidden_state,
                        "logits_m": logits_m,
                    }
        return LavisClassificationOutput(
            loss=loss,
            logits=logits,
            image_embeds=image_embeds,
            multimodal_embeds=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.cross_attentions,
            intermediates=intermediates,
        )


class LavisBlipForImagesAndTextClassification(LavisBlipPreTrainedModel):
    """
    BLIP for a text about two images, as in NLVR2 (https://arxiv.org/abs/2201.12086, section 5.4): every layer of the
    text encoder reads both. The LAVIS architecture `blip_nlvr`.

    Args:
        config ([`LavisBlipConfig`]): `num_labels`; the text configuration gets two image streams.
    """

    def __init__(self, config: LavisBlipConfig) -> None:
        config.text_config.num_image_streams = 2
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vision_model = LavisViTModel._from_config(config.vision_config)
        self.text_encoder = LavisBertModel._from_config(config.text_config)
        self.cls_head = classification_head(config.text_config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisClassificationOutput:
        r"""
        Args:
            pixel_values (`Tensor` of shape `(B, 2, channels, height, width)`): pairs of images.
            input_ids, attention_mask (`Tensor` of shape `(B, T)`): texts.
            labels (`Tensor` of shape `(B,)`, *optional*): classes (NLVR2: 0 False, 1 True).
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.
            token_type_ids: accepted for transformers' pipelines, without effect.

        Returns:
            [`LavisClassificationOutput`].
        """
        pixel_values, input_ids = image_and_text(pixel_values, input_ids)
        if pixel_values.ndim != 5 or pixel_values.shape[1] != 2:
            raise ValueError(
                f"Got pixel_values of shape {tuple(pixel_values.shape)}, expected (batch, 2, channels, height, width): "
                "two images for each text. The processor pairs pictures that are given as a list of pairs."
            )
        # One pass for all first and all second images, in the original's order.
        images = self.encode_images(pixel_values.transpose(0, 1).flatten(0, 1), interpolate_pos_encoding)
        first, second = images.chunk(2)
        output = self.text_encoder(
            with_first_token(input_ids, self.config.enc_token_id),
            attention_mask,
            encoder_hidden_states=(first, second),
            **kwargs,
        )
        logits = self.cls_head(output.last_hidden_state[:, 0])
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return LavisClassificationOutput(
            loss=loss,
            logits=logits,
            image_embeds=torch.stack([first, second], dim=1),
            multimodal_embeds=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.cross_attentions,
        )


__all__ = ["LavisBlipForImageAndTextClassification", "LavisBlipForImagesAndTextClassification"]
