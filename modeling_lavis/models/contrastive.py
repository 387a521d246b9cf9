# SPDX-License-Identifier: Apache-2.0
"""Image-text contrastive learning: targets, loss, hard negatives.

Letters: B rows of this process, K candidates (batch, then queue), P width of the projected features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class ContrastiveOutput:
    """Loss and what it was made of; similarities are (B, K), divided by the temperature."""

    loss: Tensor
    sim_i2t: Tensor
    sim_t2i: Tensor
    sim_i2t_m: Tensor | None = None
    sim_t2i_m: Tensor | None = None
    sim_i2t_targets: Tensor | None = None
    sim_t2i_targets: Tensor | None = None


def same_ids(row_ids: Tensor, column_ids: Tensor) -> Tensor:
    """Boolean (rows, columns): whether both belong to the same image."""
    return row_ids.reshape(-1, 1) == column_ids.reshape(1, -1)


def positive_targets(positives: Tensor, dtype: torch.dtype) -> Tensor:
    """Spread the probability of each row evenly over its positives: boolean (B, K) to (B, K)."""
    targets = positives.to(dtype)
    return targets / targets.sum(dim=1, keepdim=True)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of the cross entropy against a distribution: both (B, K)."""
    return -(targets * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def similarities(features: Tensor, banks: Sequence[Tensor], temperature: Tensor) -> Tensor:
    """Features (B, P) against all candidates, in parts of shape (P, K_i): (B, K). The parts are not copied."""
    return torch.cat([features @ bank for bank in banks], dim=1) / temperature


def contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    image_banks: Sequence[Tensor],
    text_banks: Sequence[Tensor],
    temperature: Tensor,
    positives: Tensor,
    momentum_features: tuple[Tensor, Tensor] | None = None,
    alpha: float = 0.0,
) -> ContrastiveOutput:
    """
    Image-text contrastive loss, in both directions, with targets that momentum twins soften (ALBEF, equations 1, 2
    and 6, https://arxiv.org/abs/2107.07651).

    Args:
        image_features, text_features (`Tensor` of shape `(B, P)`): normalised, with gradient.
        image_banks, text_banks (sequences of `Tensor`s of shape `(P, K_i)`): candidates, K in all.
        temperature (`Tensor` of shape `()`): divides all similarities.
        positives (`Tensor` of shape `(B, K)`): boolean, which candidates match a row.
        momentum_features (`tuple[Tensor, Tensor]`, *optional*): image and text features (B, P) of the twins.
        alpha (`float`, *optional*, defaults to 0.0): weight of the twins' soft targets.

    Returns:
        [`ContrastiveOutput`]: loss () and the similarities and targets.
    """
    sim_i2t = similarities(image_features, text_banks, temperature)
    sim_t2i = similarities(text_features, image_banks, temperature)
    with torch.no_grad():
        targets = positive_targets(positives, sim_i2t.dtype)
        targets_i2t = targets_t2i = targets
        sim_i2t_m = sim_t2i_m = None
        if momentum_features is not None:
            sim_i2t_m = similarities(momentum_features[0], text_banks, temperature)
            sim_t2i_m = similarities(momentum_features[1], image_banks, temperature)
            targets_i2t = torch.lerp(targets, sim_i2t_m.softmax(dim=1), alpha)
            targets_t2i = torch.lerp(targets, sim_t2i_m.softmax(dim=1), alpha)
    loss = (soft_cross_entropy(sim_i2t, targets_i2t) + soft_cross_entropy(sim_t2i, targets_t2i)) / 2
    return ContrastiveOutput(loss, sim_i2t, sim_t2i, sim_i2t_m, sim_t2i_m, targets_i2t, targets_t2i)


def negative_weights(similarity: Tensor, excluded: Tensor, offset: float = 0.0) -> Tensor:
    """
    Weights with which hard negatives are drawn: the more similar, the likelier.

    Args:
        similarity (`Tensor` of shape `(B, K)`): similarities over the temperature.
        excluded (`Tensor` of shape `(B, K)`): boolean, candidates that match the row and must not be drawn.
        offset (`float`, *optional*, defaults to 0.0): added to every probability so that none is out of reach.

    Returns:
        `Tensor` of shape `(B, K)`: unnormalised, zero where excluded.
    """
    scores = similarity.detach()
    if not offset:
        # The same distribution as with zeros afterwards, but a row cannot vanish beside a very close match.
        scores = scores.masked_fill(excluded & ~excluded.all(dim=1, keepdim=True), float("-inf"))
    return (scores.softmax(dim=1) + offset).masked_fill(excluded, 0.0)


def draw_negatives(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """
    Draw one candidate for each row.

    Args:
        weights (`Tensor` of shape `(B, K)`): unnormalised probabilities.
        generator (`torch.Generator`, *optional*): source of randomness.

    Returns:
        `Tensor` of shape `(B,)`: int64 column of each row's negative.

    Raises:
        ValueError: a row has no candidate left.
    """
    if not torch.compiler.is_compiling() and not bool((weights.sum(dim=1) > 0).all()):
        raise ValueError(
            f"Matching needs a negative for every row, but in this batch of {weights.shape[0]} some row has none: the "
            "batch holds one example, or all its image_ids are equal. Use at least two different images per batch "
            "(drop_last=True for the last one)."
        )
    return torch.multinomial(weights, 1, generator=generator).squeeze(1)


__all__ = [
    "ContrastiveOutput",
    "contrastive_loss",
    "draw_negatives",
    "negative_weights",
    "positive_targets",
    "same_ids",
    "similarities",
    "soft_cross_entropy",
]
