# SPDX-License-Identifier: Apache-2.0
"""Losses over tokens: smoothed next-token prediction, and distillation of it.

Letters: R rows, T tokens, V vocabulary.
"""

from torch import Tensor
from torch.nn import functional as F


def smoothed_token_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """
    Cross entropy of each token with label smoothing (Szegedy et al., 2016, https://arxiv.org/abs/1512.00567).

    Args:
        logits (`Tensor` of shape `(..., vocabulary)`): scores.
        labels (`Tensor` of shape `(...)`): ids, -100 where nothing is to be predicted.
        smoothing (`float`): probability that is spread over the whole vocabulary.

    Returns:
        `Tensor` of shape `(...)`: loss per token, 0 at -100.
    """
    loss = F.cross_entropy(
        logits.flatten(0, -2).float(),
        labels.flatten(),
        ignore_index=-100,
        label_smoothing=smoothing,
        reduction="none",
    )
    return loss.view(labels.shape)


def next_token_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """
    Loss of predicting each token from those before it.

    Args:
        logits (`Tensor` of shape `(R, T, V)`): scores at each position.
        labels (`Tensor` of shape `(R, T)`): the tokens themselves, -100 where nothing is to be predicted.
        smoothing (`float`): label smoothing.

    Returns:
        `Tensor` of shape `(R, T - 1)`: loss at positions 1 ... T - 1, 0 at -100.
    """
    return smoothed_token_loss(logits[:, :-1], labels[:, 1:], smoothing)


def soft_next_token_loss(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """
    Cross entropy of predicting each token against the distribution that a teacher gives (ALBEF, section 3.3).

    Args:
        logits, teacher_logits (`Tensor` of shape `(R, T, V)`): scores at each position; the teacher's have no gradient.
        labels (`Tensor` of shape `(R, T)`): -100 where nothing is to be predicted.

    Returns:
        `Tensor` of shape `(R, T - 1)`: loss at positions 1 ... T - 1, 0 at -100.
    """
    targets = teacher_logits[:, :-1].float().softmax(dim=-1)
    loss = -(targets * logits[:, :-1].float().log_softmax(dim=-1)).sum(dim=-1)
    return loss.masked_fill(labels[:, 1:] == -100, 0.0)


def mean_over_tokens(loss: Tensor, labels: Tensor) -> Tensor:
    """Mean of the token losses (R, T - 1) over the labels (R, T) that count."""
    return loss.sum() / (labels[:, 1:] != -100).sum().clamp(min=1)


__all__ = ["mean_over_tokens", "next_token_loss", "smoothed_token_loss", "soft_next_token_loss"]
