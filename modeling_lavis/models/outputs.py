# SPDX-License-Identifier: Apache-2.0
"""What the heads return.

Letters: B rows, N image tokens, T text tokens, D width, P width of the common space, V vocabulary, k candidates.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from .cache_names import cache_field

# Label of the positions that no loss counts; the default `ignore_index` of PyTorch's cross-entropy.
IGNORE_INDEX = -100


@dataclass
class LavisFeaturesOutput(ModelOutput):
    """
    Features of images, texts and pairs; what was not asked for is `None`.

    Args:
        image_embeds (`Tensor` of shape `(B, N, D)`): states of the image tower.
        image_features (`Tensor` of shape `(B, N, P)`): the same, projected and normalised.
        text_embeds (`Tensor` of shape `(B, T, D)`): states of the text encoder.
        text_features (`Tensor` of shape `(B, T, P)`): the same, projected and normalised.
        multimodal_embeds (`Tensor` of shape `(B, T, D)`): states of the text that has read the image.
    """

    image_embeds: Tensor | None = None
    image_features: Tensor | None = None
    text_embeds: Tensor | None = None
    text_features: Tensor | None = None
    multimodal_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class LavisImageTextRetrievalOutput(ModelOutput):
    """
    Comparison of images and texts.

    Args:
        loss (`Tensor` of shape `()`): sum of the losses below.
        loss_itc (`Tensor` of shape `()`): contrastive loss.
        loss_itm (`Tensor` of shape `()`): matching loss.
        logits (`Tensor` of shape `(B, 2)`): matching logits of the pairs, class 1 for a match.
        logits_per_image (`Tensor` of shape `(images, texts)`): cosine similarity over the temperature.
        logits_per_text (`Tensor` of shape `(texts, images)`): its transpose.
        image_features, text_features (`Tensor` of shape `(B, P)`): projected and normalised.
        image_embeds (`Tensor` of shape `(B, N, D)`), text_embeds (`Tensor` of shape `(B, T, D)`): states.
        multimodal_embeds (`Tensor` of shape `(B, T or 1, D)`): states of the texts that have read the images.
        intermediates (`dict`): everything the losses were made of, if `output_intermediates` was set.
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
    intermediates: dict[str, Any] | None = None


@dataclass
@cache_field
class LavisPreTrainingOutput(LavisImageTextRetrievalOutput):
    """
    As [`LavisImageTextRetrievalOutput`], with the language-model losses.

    Args:
        loss_lm (`Tensor` of shape `()`): loss of generating the caption.
        loss_mlm (`Tensor` of shape `()`): loss of masked words.
        lm_logits (`Tensor` of shape `(B, T, V)`): scores of the decoder.
        cache (`Cache`): keys and values of the decoder; `past_key_values` where transformers calls it so.
    """

    loss_lm: Tensor | None = None
    loss_mlm: Tensor | None = None
    lm_logits: Tensor | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
@cache_field
class LavisGenerationOutput(ModelOutput):
    """
    Output of a decoder that reads an image, or an image and a question.

    Args:
        loss (`Tensor` of shape `()`): training loss.
        loss_lm (`Tensor` of shape `()`): the same, by its name.
        logits (`Tensor` of shape `(B, T, V)`): scores over the vocabulary.
        cache (`Cache`): keys and values of the decoder; `past_key_values` where transformers calls it so.
        encoder_last_hidden_state (`Tensor` of shape `(B, N, D)`): what the decoder reads.
        image_embeds (`Tensor` of shape `(B, N, D)`): states of the image tower.
        intermediates (`dict`): everything the loss was made of, if `output_intermediates` was set.
    """

    loss: Tensor | None = None
    loss_lm: Tensor | None = None
    logits: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    image_embeds: Tensor | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    intermediates: dict[str, Any] | None = None


@dataclass
class LavisClassificationOutput(ModelOutput):
    """
    Output of a classifier over pairs of image(s) and text.

    Args:
        loss (`Tensor` of shape `()`): training loss.
        logits (`Tensor` of shape `(B, labels)`): scores.
        image_embeds (`Tensor` of shape `(B, N, D)`, or `(B, 2, N, D)` for pairs): states of the image tower.
        multimodal_embeds (`Tensor` of shape `(B, T, D)`): states of the text that has read the image(s).
        intermediates (`dict`): what the momentum twins gave, if `output_intermediates` was set.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    image_embeds: Tensor | None = None
    multimodal_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    intermediates: dict[str, Any] | None = None


@dataclass
class PairScores(ModelOutput):
    """
    Matching scores of chosen pairs.

    Args:
        logits (`Tensor` of shape `(K, 2)`): matching logits, class 1 for a match.
        probabilities (`Tensor` of shape `(K,)`): probability of a match.
    """

    logits: Tensor | None = None
    probabilities: Tensor | None = None


@dataclass
class RankedAnswers(ModelOutput):
    """
    Answers of a closed list, ranked for each question.

    Args:
        best (`Tensor` of shape `(B,)`): index of the best answer in the list.
        candidates (`Tensor` of shape `(B, k)`): indices of the candidates, best first.
        scores (`Tensor` of shape `(B, k)`): minus the summed, smoothed loss of each candidate, best first.
    """

    best: Tensor | None = None
    candidates: Tensor | None = None
    scores: Tensor | None = None


__all__ = [
    "IGNORE_INDEX",
    "LavisClassificationOutput",
    "LavisFeaturesOutput",
    "LavisGenerationOutput",
    "LavisImageTextRetrievalOutput",
    "LavisPreTrainingOutput",
    "PairScores",
    "RankedAnswers",
]
