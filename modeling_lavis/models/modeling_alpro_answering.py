# SPDX-License-Identifier: Apache-2.0
"""The ALPRO head that answers questions about videos from a closed list.

Letters: B rows, F frames, T text tokens, D width, A answers.
"""

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers.utils import can_return_tuple

from .configuration_alpro import AlproConfig
from .heads import classification_head
from .image_text_base import build_encoders
from .modeling_alpro_base import AlproPreTrainedModel, video_and_text
from .modeling_base import check_labels
from .outputs_video import LavisVideoAnsweringOutput

#: label of an answer that is not in the list
NOT_AN_ANSWER = -100


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy () of scores (B, A) over the rows whose label (B,) is an answer; 0 where none is."""
    total = F.cross_entropy(logits.float(), labels, ignore_index=NOT_AN_ANSWER, reduction="sum")
    return total / (labels != NOT_AN_ANSWER).sum().clamp(min=1)


class AlproForVideoQuestionAnswering(AlproPreTrainedModel):
    """
    ALPRO for questions about videos, answered by one of the classes in `config.id2label`
    (https://arxiv.org/abs/2112.09583, section 4.2). The LAVIS architecture `alpro_qa`.

    Args:
        config ([`AlproConfig`]): `num_labels`; published are 1,500 answers (MSRVTT-QA) and 2,423 (MSVD-QA).
    """

    def __init__(self, config: AlproConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        build_encoders(self, config, twins=False)
        width = config.text_config.hidden_size
        self.classifier = classification_head(width, config.num_labels, inner_size=2 * width)
        self.post_init()

    @can_return_tuple
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
            pixel_values_videos (`Tensor` of shape `(B, frames, channels, height, width)`): clips.
            input_ids, attention_mask (`Tensor` of shape `(B, T)`): questions, `[CLS]` in slot 0.
            labels (`Tensor` of shape `(B,)`, *optional*): classes of the answers; -100 for an answer that is not in
                the list, which counts for nothing.
            first_token_only (`bool`, *optional*, defaults to `False`): let the last layer work out the token that is
                read alone; `multimodal_embeds` is (B, 1, D) then.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take clips of another size or number of
                frames.
            token_type_ids: accepted for transformers' pipelines, without effect; all tokens are of type 0.

        Returns:
            [`LavisVideoAnsweringOutput`].
        """
        pixel_values_videos, input_ids = video_and_text(pixel_values_videos, input_ids, attention_mask)
        if labels is not None and labels.shape != input_ids.shape[:1]:
            raise ValueError(
                f"Got labels of shape {tuple(labels.shape)} for {input_ids.shape[0]} questions; give one class for "
                "each, -100 for an answer that is not in the list."
            )
        if labels is not None:
            labels = check_labels(labels, self.config.num_labels)
        video_embeds = self.encode_videos(pixel_values_videos, interpolate_pos_encoding)
        text_embeds = self.encode_texts(input_ids, attention_mask)
        if video_embeds.shape[0] != text_embeds.shape[0]:
            raise ValueError(
                f"Got {video_embeds.shape[0]} videos and {text_embeds.shape[0]} questions; give a question for each."
            )
        joint = self.read_images(
            video_embeds,
            None,
            attention_mask,
            text_embeds=text_embeds,
            first_token_only=first_token_only,
            **kwargs,
        )
        logits = self.classifier(joint.last_hidden_state[:, 0])
        return LavisVideoAnsweringOutput(
            loss=None if labels is None else answer_loss(logits, labels),
            logits=logits,
            video_embeds=video_embeds,
            text_embeds=text_embeds,
            multimodal_embeds=joint.last_hidden_state,
            hidden_states=joint.hidden_states,
            attentions=joint.attentions,
        )


__all__ = ["NOT_AN_ANSWER", "AlproForVideoQuestionAnswering", "answer_loss"]
