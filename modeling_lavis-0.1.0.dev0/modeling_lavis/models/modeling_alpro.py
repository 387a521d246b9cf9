# SPDX-License-Identifier: Apache-2.0
"""ALPRO (Li et al., 2022, https://arxiv.org/abs/2112.09583): all heads.

Videos take the place of images in the shared code: `encode_images` encodes videos, and `image_embeds` are their hidden
states. Outputs are renamed to `video_*`.

Shapes: B text rows, F frames, C channels, H and W pixels, N positions of a frame with the class token, T text tokens, D
hidden size, A answers.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions, BaseModelOutputWithPooling

from .checkpoint_formats import register_keys
from .configuration_alpro import AlproConfig
from .forward_options import head_forward
from .losses import at_least_float32
from .modeling_base import check_input_ids, check_labels, classification_head, mask_padding
from .outputs import (
    IGNORE_INDEX,
    LavisVideoAnsweringOutput,
    LavisVideoFeaturesOutput,
    LavisVideoTextRetrievalOutput,
    as_video_fields,
    vision_fields,
)
from .task_base import FeatureExtractionMixin, ImageTextPreTrainedModel, get_image_features
from .task_retrieval import ImageTextRetrievalMixin, RetrievalOptions
from .vision_timesformer import LavisTimesformerModel

VideoMatchHead = Literal["vtc", "vtm", "both"]
_MATCH_HEADS: dict[str, Any] = {"vtc": "itc", "vtm": "itm", "both": "both"}


class AlproPreTrainedModel(ImageTextPreTrainedModel):
    """Base of the ALPRO heads: a video encoder, and a text encoder whose upper layers attend to text and video."""

    config: AlproConfig
    main_input_name = "pixel_values_videos"
    input_modalities = ("video", "text")
    vision_model_class = LavisTimesformerModel

    def encode_videos(self, pixel_values_videos: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Hidden states of the video encoder: `(videos, F, C, H, W)` to `(videos, N, D)`."""
        return self.encode_images(pixel_values_videos, interpolate_pos_encoding)

    def fuse(  # type: ignore[override]
        self,
        image_embeds: Tensor,
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        text_embeds: Tensor | None = None,
        text_index: Tensor | None = None,
        encoder_index: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """
        Run the multimodal layers on text and video tokens: hidden states `(B, T + N, D)`, text tokens first.

        Args:
            image_embeds (`Tensor` of shape `(videos, N, D)`): hidden states of the videos; with B a multiple of their
                number, texts `i * n ...` belong to video `i`.
            input_ids (`Tensor` of shape `(B, T)`, *optional*): token ids.
            attention_mask (`Tensor` of shape `(B, T)`, *optional*): 1 for tokens, 0 for padding.
            text_embeds (`Tensor` of shape `(B, T, D)`, *optional*): hidden states from [`encode_texts`].
            text_index (`Tensor` of shape `(R,)`, *optional*): text of each row, for texts paired with several videos.
            encoder_index (`Tensor` of shape `(B,)` or `(R,)`, *optional*): video of each row.
            past_key_values: ignored; there is no cross-attention whose keys and values could be cached.
            kwargs: further arguments of [`LavisBertModel`].
        """
        if input_ids is not None:
            attention_mask = mask_padding(input_ids, attention_mask, self.config.pad_token_id)
        if text_embeds is None:
            if input_ids is None:
                raise ValueError("Texts are needed, as input_ids or as text_embeds.")
            text_embeds = self.encode_texts(input_ids, attention_mask)
        if text_index is not None:
            text_embeds = text_embeds[text_index]
            attention_mask = None if attention_mask is None else attention_mask[text_index]
        rows, videos = text_embeds.shape[0], image_embeds
        if encoder_index is not None:
            videos = videos.index_select(0, encoder_index)
        elif rows % videos.shape[0]:
            raise ValueError(f"{rows} texts cannot share {videos.shape[0]} videos evenly; pass as many for each video.")
        else:
            videos = videos.repeat_interleave(rows // videos.shape[0], dim=0)
        if attention_mask is not None:
            attention_mask = torch.cat([attention_mask, attention_mask.new_ones(videos.shape[:2])], dim=1)
        tokens = torch.cat([text_embeds, videos.to(text_embeds.dtype)], dim=1)
        return self.text_encoder(text_embeds=tokens, attention_mask=attention_mask, mode="fusion", **kwargs)


@head_forward
def get_video_features(
    self: AlproPreTrainedModel, pixel_values_videos: Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any
) -> BaseModelOutputWithPooling:
    r"""
    Video features in the embedding space shared with texts, with gradient.

    Returns:
        [`BaseModelOutputWithPooling`]: `pooler_output` of shape `(batch_size, projection_dim)`, projected and
        normalized in float32; `last_hidden_state` of the video encoder, averaged over the frames, and its
        `hidden_states` and `attentions` if they are requested.
    """
    return get_image_features(self, pixel_values_videos, interpolate_pos_encoding, **kwargs)


class AlproModel(FeatureExtractionMixin, AlproPreTrainedModel):
    """
    ALPRO feature extractor for videos, texts and pairs (https://arxiv.org/abs/2112.09583).

    Args:
        config ([`AlproConfig`]): model configuration.

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

    get_video_features = get_video_features

    def __init__(self, config: AlproConfig) -> None:
        super().__init__(config)
        self.build_feature_extractor(config)
        self.post_init()

    @head_forward
    def forward(  # type: ignore[override]
        self,
        pixel_values_videos: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisVideoFeaturesOutput:
        r"""
        Returns:
            [`LavisVideoFeaturesOutput`]: video features if videos are given, text features if texts are given, and
            multimodal hidden states if both are.
        """
        fields = self.extract_features(
            pixel_values_videos, input_ids, attention_mask, interpolate_pos_encoding, **kwargs
        )
        return LavisVideoFeaturesOutput(**as_video_fields(fields))


class AlproForVideoTextRetrieval(ImageTextRetrievalMixin, AlproPreTrainedModel):
    """
    ALPRO for video-text retrieval and matching: contrastive features, and a head that classifies whether a text matches
    a video (https://arxiv.org/abs/2112.09583, section 3.1). The LAVIS architecture `alpro_retrieval`.

    Args:
        config ([`AlproConfig`]): model configuration; the family has no momentum encoders.
    """

    get_video_features = get_video_features

    def __init__(self, config: AlproConfig) -> None:
        super().__init__(config)
        self.build_retrieval(config)
        self.post_init()

    @property
    def retrieval_options(self) -> RetrievalOptions:
        """A matching row has text and video tokens, so fewer rows fit."""
        return RetrievalOptions(max_rows=64)

    @head_forward
    def forward(  # type: ignore[override]
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
            image_ids (`Tensor` of shape `(batch_size,)`, *optional*):
                Rows with equal ids belong to the same video and are positives of each other. Published models were
                trained without.
            match_head (`str`, *optional*, defaults to `"vtc"`):
                `"vtc"` compares all videos with all texts, `"vtm"` runs the matching head on the pairs, `"both"` does
                both. Ignored with `return_loss=True`.
            return_loss (`bool`, *optional*, defaults to `False`):
                Compute the training losses of the pairs, over the batches of all processes.

        Returns:
            [`LavisVideoTextRetrievalOutput`].
        """
        pixel_values_videos, input_ids = require_video_and_text(pixel_values_videos, input_ids, attention_mask)
        if match_head not in _MATCH_HEADS:
            raise ValueError(f"match_head is {match_head!r}; expected 'vtc', 'vtm' or 'both'.")
        if return_loss:
            pairs = self.encode_pairs(
                pixel_values_videos,
                input_ids,
                attention_mask,
                image_ids,
                update_state,
                trim_padding=not output_intermediates,
                interpolate_pos_encoding=interpolate_pos_encoding,
                **kwargs,
            )
            fields = self.itc_itm_loss(pairs, output_intermediates=output_intermediates).fields
        else:
            fields = self.comparison_fields(
                pixel_values_videos,
                input_ids,
                attention_mask,
                _MATCH_HEADS[match_head],
                interpolate_pos_encoding,
                **kwargs,
            )
        return LavisVideoTextRetrievalOutput(**as_video_fields(fields))


class AlproForVideoQuestionAnswering(AlproPreTrainedModel):
    """
    ALPRO for questions about videos, answered with one of the classes in `config.id2label`
    (https://arxiv.org/abs/2112.09583, section 4.2). The LAVIS architecture `alpro_qa`.

    Args:
        config ([`AlproConfig`]): model configuration with `num_labels`; the published models have 1,500 answers
            (MSRVTT-QA) and 2,423 (MSVD-QA).
    """

    def __init__(self, config: AlproConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.build_encoders(config, momentum=False)
        hidden_size = config.text_config.hidden_size
        self.classifier = classification_head(hidden_size, config.num_labels, inner_size=2 * hidden_size)
        self.post_init()

    @head_forward
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        first_token_only: bool = False,
        interpolate_pos_encoding: bool = False,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisVideoAnsweringOutput:
        r"""
        Args:
            labels (`Tensor` of shape `(batch_size,)`, *optional*):
                Classes of the answers, -100 for answers that are not in the list, which the loss ignores.
            first_token_only (`bool`, *optional*, defaults to `False`):
                Compute only the first token, which is classified, in the last layer; `multimodal_embeds` then has shape
                `(batch_size, 1, hidden_size)`.

        Returns:
            [`LavisVideoAnsweringOutput`].
        """
        pixel_values_videos, input_ids = require_video_and_text(pixel_values_videos, input_ids, attention_mask)
        if labels is not None and labels.shape != input_ids.shape[:1]:
            raise ValueError(
                f"Got labels of shape {tuple(labels.shape)} for {input_ids.shape[0]} questions; pass one class per "
                f"question, {IGNORE_INDEX} for an answer that is not in the list."
            )
        if labels is not None:
            labels = check_labels(labels, self.config.num_labels)
        attention_mask = mask_padding(input_ids, attention_mask, self.config.pad_token_id)
        vision = self.image_encoder_outputs(pixel_values_videos, interpolate_pos_encoding, **kwargs)
        video_embeds = vision.last_hidden_state
        text_embeds = self.encode_texts(input_ids, attention_mask)
        if video_embeds.shape[0] != text_embeds.shape[0]:
            raise ValueError(
                f"Got {video_embeds.shape[0]} videos and {text_embeds.shape[0]} questions; pass one question per video."
            )
        output = self.fuse(
            video_embeds,
            None,
            attention_mask,
            text_embeds=text_embeds,
            first_token_only=first_token_only,
            **kwargs,
        )
        logits = self.classifier(output.last_hidden_state[:, 0])
        loss = None
        if labels is not None:
            total = F.cross_entropy(at_least_float32(logits), labels, ignore_index=IGNORE_INDEX, reduction="sum")
            loss = total / (labels != IGNORE_INDEX).sum().clamp(min=1)
        return LavisVideoAnsweringOutput(
            loss=loss,
            logits=logits,
            video_embeds=video_embeds,
            text_embeds=text_embeds,
            multimodal_embeds=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            **vision_fields(vision),
        )


def require_video_and_text(
    pixel_values_videos: Tensor | None, input_ids: Tensor | None, attention_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return both inputs; `ValueError` names the one that is missing or malformed."""
    if pixel_values_videos is None or input_ids is None:
        missing = "pixel_values_videos" if pixel_values_videos is None else "input_ids"
        raise ValueError(
            f"{missing} is missing; this head needs a video and a text. The processor makes both from videos and texts."
        )
    check_input_ids(input_ids, attention_mask)
    return pixel_values_videos, input_ids


register_keys(AlproConfig.model_type, scalar_temperature=True)


__all__ = ["AlproForVideoQuestionAnswering", "AlproForVideoTextRetrieval", "AlproModel", "AlproPreTrainedModel"]
