# SPDX-License-Identifier: Apache-2.0
"""The base of all ALPRO heads: a video tower, and a text transformer whose upper layers read text and video in a row.

Letters: B rows, V clips, F frames, C channels, H and W pixels, N places of a frame with the class token, T text tokens,
D width, P width of the common space.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from .configuration_alpro import AlproConfig
from .image_text_base import ImageTextPreTrainedModel
from .modeling_base import check_text
from .vision_timesformer import LavisTimesformerModel


def video_and_text(
    pixel_values_videos: Tensor | None, input_ids: Tensor | None, attention_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both inputs, for heads that cannot do without; `ValueError` names what is missing or wrong."""
    if pixel_values_videos is None or input_ids is None:
        missing = "pixel_values_videos" if pixel_values_videos is None else "input_ids"
        raise ValueError(
            f"{missing} is missing; this head reads a video and a text. The processor makes both from videos and texts."
        )
    check_text(input_ids, attention_mask)
    return pixel_values_videos, input_ids


class AlproPreTrainedModel(ImageTextPreTrainedModel):
    """
    Clips take the place of images in the parts that are shared: `encode_images` encodes clips, `image_embeds` are
    their states.
    """

    config: AlproConfig
    main_input_name = "pixel_values_videos"
    input_modalities = ("video", "text")
    _no_split_modules = ["TimesformerBlock", "BertLayer", "BertEmbeddings"]
    # whole names: the tower has parts whose names begin alike
    _keep_in_fp32_modules_strict = ["^temp$"]
    vision_class = LavisTimesformerModel

    def encode_videos(
        self, pixel_values_videos: Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any
    ) -> Tensor:
        """States of the video tower: (V, F, C, H, W) to (V, N, D)."""
        return self.encode_images(pixel_values_videos, interpolate_pos_encoding, **kwargs)

    def read_images(
        self,
        image_embeds: Tensor | tuple[Tensor, Tensor],
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        text_embeds: Tensor | None = None,
        encoder_index: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """
        Let the joint layers read texts and clips: states (B, T + N, D), those of the text first.

        Args:
            image_embeds (`Tensor` of shape `(V, N, D)`): states of clips; with B a multiple of V, texts
                `i * B / V ...` share clip `i`.
            input_ids (`Tensor` of shape `(B, T)`, *optional*): texts.
            attention_mask (`Tensor` of shape `(B, T)`, *optional*): 1 for tokens.
            text_embeds (`Tensor` of shape `(B, T, D)`, *optional*): what [`encode_texts`] has made of the texts.
            encoder_index (`Tensor` of shape `(B,)`, *optional*): the clip of each text.
            kwargs: other options of [`LavisBertModel`].
        """
        if text_embeds is None:
            if input_ids is None:
                raise ValueError("Texts are needed, as input_ids or as text_embeds.")
            text_embeds = self.encode_texts(input_ids, attention_mask)
        rows = text_embeds.shape[0]
        if encoder_index is not None:
            image_embeds = image_embeds.index_select(0, encoder_index)
        elif rows % image_embeds.shape[0]:
            raise ValueError(f"{rows} texts cannot share {image_embeds.shape[0]} clips evenly.")
        else:
            image_embeds = image_embeds.repeat_interleave(rows // image_embeds.shape[0], dim=0)
        if attention_mask is not None:
            seen = attention_mask.new_ones(image_embeds.shape[:2])
            attention_mask = torch.cat([attention_mask, seen], dim=1)
        joint = torch.cat([text_embeds, image_embeds.to(text_embeds.dtype)], dim=1)
        output = self.text_encoder(text_embeds=joint, attention_mask=attention_mask, mode="fusion", **kwargs)
        # Texts read clips by self-attention; it is what other families' cross-attention is.
        output.cross_attentions = output.attentions
        return output


class VideoFeaturesMixin(AlproPreTrainedModel):
    """Features of single videos; those of texts are the same as in heads for images."""

    @torch.no_grad()
    def get_video_features(self, pixel_values_videos: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        r"""
        Args:
            pixel_values_videos (`Tensor` of shape `(batch_size, frames, channels, height, width)`): clips.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take clips of another size or number of
                frames.

        Returns:
            `Tensor` of shape `(batch_size, projection_dim)`: projected and normalised features.
        """
        return self.project_images(self.encode_videos(pixel_values_videos, interpolate_pos_encoding))


__all__ = ["AlproPreTrainedModel", "VideoFeaturesMixin", "video_and_text"]
