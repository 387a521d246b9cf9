# SPDX-License-Identifier: Apache-2.0
"""What heads over videos return, and how it is made of what parts for images return.

Letters: B rows, N places of a frame with the class token, T text tokens, D width, P width of the common space.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

# Names of shared parts -> names where clips are compared.
_NAMES = {
    "image_embeds": "video_embeds",
    "image_features": "video_features",
    "logits_per_image": "logits_per_video",
    "loss_itc": "loss_vtc",
    "loss_itm": "loss_vtm",
    "itm_logits": "vtm_logits",
    "itm_labels": "vtm_labels",
    "sim_i2t": "sim_v2t",
    "sim_t2i": "sim_t2v",
    "sim_i2t_targets": "sim_v2t_targets",
    "sim_t2i_targets": "sim_t2v_targets",
}


def as_video_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same values under the names that they have where clips take the place of images; `None` is left out."""
    renamed = {_NAMES.get(name, name): value for name, value in fields.items() if value is not None}
    if isinstance(renamed.get("intermediates"), Mapping):
        renamed["intermediates"] = as_video_fields(renamed["intermediates"])
    return renamed


@dataclass
class LavisVideoFeaturesOutput(ModelOutput):
    """
    Features of videos, texts and pairs; what was not asked for is `None`.

    Args:
        video_embeds (`Tensor` of shape `(B, N, D)`): states of the video tower, averaged over the frames.
        video_features (`Tensor` of shape `(B, N, P)`): the same, projected and normalised.
        text_embeds (`Tensor` of shape `(B, T, D)`): states of the text encoder.
        text_features (`Tensor` of shape `(B, T, P)`): the same, projected and normalised.
        multimodal_embeds (`Tensor` of shape `(B, T + N, D)`): joint states, those of the text first.
    """

    video_embeds: Tensor | None = None
    video_features: Tensor | None = None
    text_embeds: Tensor | None = None
    text_features: Tensor | None = None
    multimodal_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class LavisVideoTextRetrievalOutput(ModelOutput):
    """
    Comparison of videos and texts.

    Args:
        loss (`Tensor` of shape `()`): sum of the losses below.
        loss_vtc (`Tensor` of shape `()`): contrastive loss.
        loss_vtm (`Tensor` of shape `()`): matching loss.
        logits (`Tensor` of shape `(B, 2)`): matching logits of the pairs, class 1 for a match.
        logits_per_video (`Tensor` of shape `(videos, texts)`): cosine similarity over the temperature.
        logits_per_text (`Tensor` of shape `(texts, videos)`): its transpose.
        video_features, text_features (`Tensor` of shape `(B, P)`): projected and normalised.
        video_embeds (`Tensor` of shape `(B, N, D)`), text_embeds (`Tensor` of shape `(B, T, D)`): states.
        multimodal_embeds (`Tensor` of shape `(B, T + N, D)`): joint states, those of the text first.
        intermediates (`dict`): everything the losses were made of, if `output_intermediates` was set.
    """

    loss: Tensor | None = None
    loss_vtc: Tensor | None = None
    loss_vtm: Tensor | None = None
    logits: Tensor | None = None
    logits_per_video: Tensor | None = None
    logits_per_text: Tensor | None = None
    video_features: Tensor | None = None
    text_features: Tensor | None = None
    video_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    multimodal_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    intermediates: dict[str, Any] | None = None


@dataclass
class LavisVideoAnsweringOutput(ModelOutput):
    """
    Output of a classifier over answers to questions about videos.

    Args:
        loss (`Tensor` of shape `()`): training loss.
        logits (`Tensor` of shape `(B, answers)`): scores.
        video_embeds (`Tensor` of shape `(B, N, D)`): states of the video tower.
        text_embeds (`Tensor` of shape `(B, T, D)`): states of the questions alone.
        multimodal_embeds (`Tensor` of shape `(B, T + N, D)`): joint states, those of the question first.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    video_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    multimodal_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


__all__ = [
    "LavisVideoAnsweringOutput",
    "LavisVideoFeaturesOutput",
    "LavisVideoTextRetrievalOutput",
    "as_video_fields",
]
