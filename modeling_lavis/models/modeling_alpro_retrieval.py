# SPDX-License-Identifier: Apache-2.0
"""The ALPRO head that compares videos and texts.

Letters: B rows of this process, F frames, N places of a frame with the class token, T text tokens, D width, K pairs.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.utils import can_return_tuple

from .configuration_alpro import AlproConfig
from .image_text_matching import ImageTextRetrievalMixin
from .modeling_alpro_base import AlproPreTrainedModel, VideoFeaturesMixin, video_and_text
from .outputs import PairScores
from .outputs_video import LavisVideoTextRetrievalOutput, as_video_fields

VideoMatchHead = Literal["vtc", "vtm", "both"]
_HEADS = {"vtc": "itc", "vtm": "itm", "both": "both"}


class AlproForVideoTextRetrieval(ImageTextRetrievalMixin, VideoFeaturesMixin, AlproPreTrainedModel):
    """
    ALPRO for retrieval and matching: contrastive features of videos and texts, and a head that tells whether a text
    describes a video (https://arxiv.org/abs/2112.09583, section 3.1). The LAVIS architecture `alpro_retrieval`.

    Args:
        config ([`AlproConfig`]): sizes; the family has no momentum twins.
    """

    def __init__(self, config: AlproConfig) -> None:
        super().__init__(config)
        self.build_matching(config, queue_has_ids=False)
        self.post_init()

    def score_pairs(
        self,
        images: Tensor,
        texts: Mapping[str, Tensor],
        pairs: Tensor,
        max_rows: int = 64,
        interpolate_pos_encoding: bool = False,
    ) -> PairScores:
        r"""
        Matching scores of chosen pairs. Every clip is encoded once, and every text runs once through the layers that
        read texts alone.

        Args:
            images (`Tensor` of shape `(clips, frames, channels, height, width)` or `(clips, N, D)`): clips, or states
                that [`encode_videos`] has made of them.
            texts (mapping with `input_ids` and `attention_mask` of shape `(texts, T)`): what the processor returns.
            pairs (`Tensor` of shape `(K, 2)`): rows of clip and text.
            max_rows (`int`, *optional*, defaults to 64): pairs that are run at once; each is a row of T + N tokens.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take clips of another size or number of
                frames.

        Returns:
            [`PairScores`]: in the order of `pairs`.
        """
        if images.ndim == 5:
            with torch.no_grad():
                images = self.encode_videos(images, interpolate_pos_encoding)
        return super().score_pairs(images, texts, pairs, max_rows=max_rows)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_ids: Tensor | None = None,
        match_head: VideoMatchHead = "vtc",
        return_loss: bool = False,
        update_state: bool | None = None,
        output_intermediates: bool = False,
        interpolate_pos_encoding: bool = False,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisVideoTextRetrievalOutput:
        r"""
        Args:
            pixel_values_videos (`Tensor` of shape `(videos, frames, channels, height, width)`): clips.
            input_ids (`Tensor` of shape `(texts, T)`): texts, `[CLS]` in slot 0.
            attention_mask (`Tensor` of shape `(texts, T)`, *optional*): 1 for tokens.
            image_ids (`Tensor` of shape `(B,)`, *optional*): rows with equal ids (of one video, say) are positives of
                each other. Published models were trained without.
            match_head (`str`, *optional*, defaults to `"vtc"`): `"vtc"` compares all videos with all texts, `"vtm"`
                matches the pairs, `"both"` does both. Ignored with `return_loss`.
            return_loss (`bool`, *optional*, defaults to `False`): training losses of the pairs, over the batches of
                all processes where there are several.
            update_state (`bool`, *optional*): whether the temperature is clamped; only while training by default.
            output_intermediates (`bool`, *optional*, defaults to `False`): also return what the losses were made of.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take clips of another size or number of
                frames.
            token_type_ids: accepted for transformers' pipelines, without effect; all tokens are of type 0.

        Returns:
            [`LavisVideoTextRetrievalOutput`].
        """
        pixel_values_videos, input_ids = video_and_text(pixel_values_videos, input_ids, attention_mask)
        if match_head not in _HEADS:
            raise ValueError(f"match_head is {match_head!r}; it can be 'vtc', 'vtm' or 'both'.")
        output = super().forward(
            pixel_values_videos,
            input_ids,
            attention_mask,
            image_ids=image_ids,
            match_head=_HEADS[match_head],
            return_loss=return_loss,
            update_state=update_state,
            output_intermediates=output_intermediates,
            interpolate_pos_encoding=interpolate_pos_encoding,
            **{**kwargs, "return_dict": True},
        )
        return LavisVideoTextRetrievalOutput(**as_video_fields(output))


__all__ = ["AlproForVideoTextRetrieval", "VideoMatchHead"]
