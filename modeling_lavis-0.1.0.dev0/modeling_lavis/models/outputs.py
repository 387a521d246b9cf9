# SPDX-License-Identifier: Apache-2.0
"""Outputs of the heads.

Shapes: B batch size, N image or video tokens, T text tokens, D hidden size, P projection dimension, V vocabulary size,
K pairs, k candidates.

Recorded values, with `output_hidden_states=True` and `output_attentions=True` (and eager attention), have one meaning
in all outputs. They are tuples with one entry per layer; hidden states begin with the input of the first layer.

* `hidden_states`, `attentions`: self-attention `(B, heads, T, T)` of the text encoder or Q-Former, in the multimodal
  pass or in the only pass that runs;
* `cross_attentions`: attention `(B, heads, T, N)` from its tokens to those of the image, where the pass has it, and
  `(B, 2, heads, T, N)` where every layer attends to two images;
* `decoder_hidden_states`, `decoder_attentions`, `cross_attentions`: the same of a decoder;
* `vision_hidden_states`, `vision_attentions`: those of the image or video encoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from .transformers_compat import cache_field

#: label of positions and rows that a loss ignores; the default `ignore_index` of torch's cross entropy
IGNORE_INDEX = -100


@dataclass
class LavisFeaturesOutput(ModelOutput):
    """
    Features of images, texts and pairs; fields that were not requested are `None`.

    Args:
        image_embeds (`Tensor` of shape `(B, N, D)`): hidden states of the image encoder.
        image_features (`Tensor` of shape `(B, N, P)`): the same, projected and normalized.
        text_embeds (`Tensor` of shape `(B, T, D)`): hidden states of the text encoder.
        text_features (`Tensor` of shape `(B, T, P)`): the same, projected and normalized.
        multimodal_embeds (`Tensor` of shape `(B, T, D)`): hidden states of the image-grounded text.
    """

    image_embeds: Tensor | None = None
    image_features: Tensor | None = None
    text_embeds: Tensor | None = None
    text_features: Tensor | None = None
    multimodal_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None


@dataclass
class LavisImageTextRetrievalOutput(ModelOutput):
    """
    Similarities and matching scores of images and texts, and the training losses.

    Args:
        loss (`Tensor` of shape `()`): sum of the losses below.
        loss_itc (`Tensor` of shape `()`): image-text contrastive loss.
        loss_itm (`Tensor` of shape `()`): image-text matching loss.
        logits (`Tensor` of shape `(B, 2)`): matching logits of the pairs; class 1 is a match.
        logits_per_image (`Tensor` of shape `(images, texts)`): cosine similarity divided by the temperature.
        logits_per_text (`Tensor` of shape `(texts, images)`): its transpose.
        image_features, text_features (`Tensor` of shape `(B, P)`): projected and normalized features.
        image_embeds (`Tensor` of shape `(B, N, D)`): hidden states of the image encoder.
        text_embeds (`Tensor` of shape `(B, T, D)`): hidden states of the text encoder.
        multimodal_embeds (`Tensor` of shape `(B, T or 1, D)`): hidden states of the image-grounded texts.
        intermediates (`dict`): the inputs of the losses, with `output_intermediates=True`.
    """

    loss: Tensor | None = None
    loss_itc: Tensor | None = None
    loss_itm: Tensor | None = None
    logits: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    image_features: Tensor | None = None
    text_features: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    multimodal_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None
    intermediates: dict[str, Any] | None = None


@dataclass
@cache_field
class LavisPreTrainingOutput(LavisImageTextRetrievalOutput):
    """
    [`LavisImageTextRetrievalOutput`] with the language modeling losses.

    Args:
        loss_lm (`Tensor` of shape `()`): causal language modeling loss of the captions.
        loss_mlm (`Tensor` of shape `()`): masked language modeling loss.
        lm_logits (`Tensor` of shape `(B, T, V)`): logits of the decoder.
        cache (`Cache`): key/value cache of the decoder; named `past_key_values` with transformers versions that use
            that name.
    """

    loss_lm: Tensor | None = None
    loss_mlm: Tensor | None = None
    lm_logits: Tensor | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None


@dataclass
@cache_field
class LavisGenerationOutput(ModelOutput):
    """
    Output of a decoder that cross-attends to an image, or to an image-grounded question.

    Args:
        loss (`Tensor` of shape `()`): training loss.
        loss_lm (`Tensor` of shape `()`): the same value under the name of the loss.
        logits (`Tensor` of shape `(B, T, V)`): logits over the vocabulary.
        cache (`Cache`): key/value cache of the decoder; named `past_key_values` with transformers versions that use
            that name.
        encoder_last_hidden_state (`Tensor` of shape `(B, N, D)`): encoder hidden states that the decoder attends to.
        image_embeds (`Tensor` of shape `(B, N, D)`): hidden states of the image encoder.
        intermediates (`dict`): the inputs of the loss, with `output_intermediates=True`.
    """

    loss: Tensor | None = None
    loss_lm: Tensor | None = None
    logits: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    image_embeds: Tensor | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None
    intermediates: dict[str, Any] | None = None


@dataclass
class LavisClassificationOutput(ModelOutput):
    """
    Output of a classifier of one or two images together with a text.

    Args:
        loss (`Tensor` of shape `()`): training loss.
        logits (`Tensor` of shape `(B, num_labels)`): classification logits.
        image_embeds (`Tensor` of shape `(B, N, D)`, or `(B, 2, N, D)` for image pairs): hidden states of the
            image encoder.
        multimodal_embeds (`Tensor` of shape `(B, T, D)`): hidden states of the image-grounded text.
        intermediates (`dict`): outputs of the momentum encoders, with `output_intermediates=True`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    image_embeds: Tensor | None = None
    multimodal_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None
    intermediates: dict[str, Any] | None = None


@dataclass
class PairScores(ModelOutput):
    """
    Image-text matching scores of selected pairs.

    Args:
        logits (`Tensor` of shape `(K, 2)`): matching logits; class 1 is a match.
        probabilities (`Tensor` of shape `(K,)`): probability of a match.
    """

    logits: Tensor | None = None
    probabilities: Tensor | None = None


@dataclass
class RankedAnswers(ModelOutput):
    """
    Ranking of a closed answer list for each question.

    Args:
        best (`Tensor` of shape `(B,)`): index of the best answer in the list.
        candidates (`Tensor` of shape `(B, k)`): indices of the candidates, best first.
        scores (`Tensor` of shape `(B, k)`): log-likelihood of each candidate, summed over its tokens, best first. A
            question answering head gives the negative of its label-smoothed loss, a language model by choice the mean
            over the tokens.
    """

    best: Tensor | None = None
    candidates: Tensor | None = None
    scores: Tensor | None = None


def vision_fields(output: Any) -> dict[str, Any]:
    """What an image or video encoder recorded, as fields of a head's output."""
    return {"vision_hidden_states": output.hidden_states or None, "vision_attentions": output.attentions or None}


def recorded_fields(output: Any) -> dict[str, Any]:
    """What a text encoder or Q-Former recorded, as fields of a head's output."""
    # transformers returns empty tuples of weights that were not computed
    return {name: output.get(name) or None for name in ("hidden_states", "attentions", "cross_attentions")}


# Field names of image heads -> field names of video heads.
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
    """Rename the fields of an image head to those of a video head; fields that are `None` are left out."""
    renamed = {_NAMES.get(name, name): value for name, value in fields.items() if value is not None}
    renamed.pop("cross_attentions", None)  # video heads attend to text and video jointly
    if isinstance(renamed.get("intermediates"), Mapping):
        renamed["intermediates"] = as_video_fields(renamed["intermediates"])
    return renamed


@dataclass
class LavisVideoFeaturesOutput(ModelOutput):
    """
    Features of videos, texts and pairs; fields that were not requested are `None`.

    Args:
        video_embeds (`Tensor` of shape `(B, N, D)`): hidden states of the video encoder, averaged over the frames.
        video_features (`Tensor` of shape `(B, N, P)`): the same, projected and normalized.
        text_embeds (`Tensor` of shape `(B, T, D)`): hidden states of the text encoder.
        text_features (`Tensor` of shape `(B, T, P)`): the same, projected and normalized.
        multimodal_embeds (`Tensor` of shape `(B, T + N, D)`): multimodal hidden states, text tokens first.
    """

    video_embeds: Tensor | None = None
    video_features: Tensor | None = None
    text_embeds: Tensor | None = None
    text_features: Tensor | None = None
    multimodal_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None


@dataclass
class LavisVideoTextRetrievalOutput(ModelOutput):
    """
    Similarities and matching scores of videos and texts, and the training losses.

    Args:
        loss (`Tensor` of shape `()`): sum of the losses below.
        loss_vtc (`Tensor` of shape `()`): video-text contrastive loss.
        loss_vtm (`Tensor` of shape `()`): video-text matching loss.
        logits (`Tensor` of shape `(B, 2)`): matching logits of the pairs; class 1 is a match.
        logits_per_video (`Tensor` of shape `(videos, texts)`): cosine similarity divided by the temperature.
        logits_per_text (`Tensor` of shape `(texts, videos)`): its transpose.
        video_features, text_features (`Tensor` of shape `(B, P)`): projected and normalized features.
        video_embeds (`Tensor` of shape `(B, N, D)`): hidden states of the video encoder.
        text_embeds (`Tensor` of shape `(B, T, D)`): hidden states of the text encoder.
        multimodal_embeds (`Tensor` of shape `(B, T + N, D)`): multimodal hidden states, text tokens first.
        intermediates (`dict`): the inputs of the losses, with `output_intermediates=True`.
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
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None
    intermediates: dict[str, Any] | None = None


@dataclass
class LavisVideoAnsweringOutput(ModelOutput):
    """
    Output of a classifier over a fixed list of answers to questions about videos.

    Args:
        loss (`Tensor` of shape `()`): training loss.
        logits (`Tensor` of shape `(B, num_labels)`): classification logits.
        video_embeds (`Tensor` of shape `(B, N, D)`): hidden states of the video encoder.
        text_embeds (`Tensor` of shape `(B, T, D)`): hidden states of the text encoder.
        multimodal_embeds (`Tensor` of shape `(B, T + N, D)`): multimodal hidden states, question tokens first.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    video_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    multimodal_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None


__all__ = [
    "IGNORE_INDEX",
    "LavisClassificationOutput",
    "LavisFeaturesOutput",
    "LavisGenerationOutput",
    "LavisImageTextRetrievalOutput",
    "LavisPreTrainingOutput",
    "LavisVideoAnsweringOutput",
    "LavisVideoFeaturesOutput",
    "LavisVideoTextRetrievalOutput",
    "PairScores",
    "RankedAnswers",
    "as_video_fields",
    "recorded_fields",
    "vision_fields",
]
