# SPDX-License-Identifier: Apache-2.0
"""Training losses: image-text contrastive (ITC), masked and causal language modeling, and hard negatives for ITM.

Shapes: B rows of this process, K candidates (batch, then queue), P projection dimension, T tokens, M masked tokens of a
batch, D hidden size, V vocabulary size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .outputs import IGNORE_INDEX

# ---- precision ----


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is in half precision, else as it is (float64 stays)."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


# ---- image-text contrastive loss ----


@dataclass
class ContrastiveOutput:
    """Contrastive loss and what it is computed from; similarities and targets are `(B, K)`, over the temperature."""

    loss: Tensor
    sim_i2t: Tensor
    sim_t2i: Tensor
    sim_i2t_m: Tensor | None = None
    sim_t2i_m: Tensor | None = None
    sim_i2t_targets: Tensor | None = None
    sim_t2i_targets: Tensor | None = None


def match_ids(row_ids: Tensor, column_ids: Tensor) -> Tensor:
    """Boolean `(rows, columns)`: whether the ids are equal, so that both belong to the same image."""
    return row_ids.reshape(-1, 1) == column_ids.reshape(1, -1)


def positive_targets(positives: Tensor, dtype: torch.dtype) -> Tensor:
    """Targets `(B, K)` that spread the probability of each row evenly over its positives, a boolean `(B, K)`."""
    targets = positives.to(dtype)
    return targets / targets.sum(dim=1, keepdim=True)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy against distributions, averaged over the rows: both `(B, K)`."""
    return -(targets * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def similarity_to_candidates(features: Tensor, candidates: Sequence[Tensor], temperature: Tensor) -> Tensor:
    """Similarities `(B, K)` of features `(B, P)` to candidates of shape `(P, K_i)` each, which are not concatenated."""
    return torch.cat([features @ part for part in candidates], dim=1) / temperature


def queue_contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    image_candidates: Sequence[Tensor],
    text_candidates: Sequence[Tensor],
    temperature: Tensor,
    positives: Tensor,
    momentum_features: tuple[Tensor, Tensor],
    alpha: float = 0.0,
) -> ContrastiveOutput:
    """
    Contrastive loss in both directions against the momentum features of the batch and a queue of past ones, with soft
    targets from the momentum encoders (ALBEF, equations 1, 2 and 6, https://arxiv.org/abs/2107.07651).

    Args:
        image_features, text_features (`Tensor` of shape `(B, P)`): normalized online features.
        image_candidates, text_candidates (sequences of `Tensor`s of shape `(P, K_i)`): momentum features, K in total.
        temperature (`Tensor` of shape `()`): divides all similarities.
        positives (`Tensor` of shape `(B, K)`): boolean, candidates that match a row.
        momentum_features (`tuple[Tensor, Tensor]`): image and text features `(B, P)` of the momentum encoders.
        alpha (`float`, *optional*, defaults to 0.0): weight of the soft targets.

    Returns:
        [`ContrastiveOutput`]: loss of shape `()`, similarities and targets.
    """
    sim_i2t = similarity_to_candidates(image_features, text_candidates, temperature)
    sim_t2i = similarity_to_candidates(text_features, image_candidates, temperature)
    with torch.no_grad():
        targets = positive_targets(positives, sim_i2t.dtype)
        sim_i2t_m = similarity_to_candidates(momentum_features[0], text_candidates, temperature)
        sim_t2i_m = similarity_to_candidates(momentum_features[1], image_candidates, temperature)
        targets_i2t = torch.lerp(targets, sim_i2t_m.softmax(dim=1), alpha)
        targets_t2i = torch.lerp(targets, sim_t2i_m.softmax(dim=1), alpha)
    loss = (soft_cross_entropy(sim_i2t, targets_i2t) + soft_cross_entropy(sim_t2i, targets_t2i)) / 2
    return ContrastiveOutput(loss, sim_i2t, sim_t2i, sim_i2t_m, sim_t2i_m, targets_i2t, targets_t2i)


def in_batch_contrastive_loss(
    sim_i2t: Tensor, sim_t2i: Tensor, positives: Tensor, label_smoothing: float = 0.0
) -> ContrastiveOutput:
    """
    Contrastive loss in both directions against the batches of all processes.

    Args:
        sim_i2t, sim_t2i (`Tensor` of shape `(B, K)`): similarities of images to texts and of texts to images, divided
            by the temperature.
        positives (`Tensor` of shape `(B, K)`): boolean, candidates that match a row.
        label_smoothing (`float`, *optional*, defaults to 0.0): probability spread over all candidates.

    Returns:
        [`ContrastiveOutput`]: loss of shape `()`, similarities and targets.
    """
    with torch.no_grad():
        targets = positive_targets(positives, sim_i2t.dtype)
        if label_smoothing:
            targets = (1 - label_smoothing) * targets + label_smoothing / targets.shape[1]
    loss = (soft_cross_entropy(sim_i2t, targets) + soft_cross_entropy(sim_t2i, targets)) / 2
    return ContrastiveOutput(loss, sim_i2t, sim_t2i, sim_i2t_targets=targets, sim_t2i_targets=targets)


# ---- hard negatives ----


def negative_weights(similarity: Tensor, excluded: Tensor, floor: float = 0.0) -> Tensor:
    """
    Sampling weights of hard negatives: the more similar a candidate, the more likely.

    Args:
        similarity (`Tensor` of shape `(B, K)`): similarities divided by the temperature.
        excluded (`Tensor` of shape `(B, K)`): boolean, candidates that match the row and must not be drawn.
        floor (`float`, *optional*, defaults to 0.0): added to each probability, so that no candidate is out of reach.

    Returns:
        `Tensor` of shape `(B, K)`: unnormalized weights, zero where excluded.
    """
    scores = similarity.detach()
    if not floor:
        # The same distribution as zeroing afterwards, but a row does not underflow beside a very similar match.
        scores = scores.masked_fill(excluded & ~excluded.all(dim=1, keepdim=True), float("-inf"))
    return (scores.softmax(dim=1) + floor).masked_fill(excluded, 0.0)


def require_negatives(has_negative: Tensor) -> None:
    """Raise `ValueError` unless every row of a batch, a boolean `(B,)`, has a negative."""
    if not bool(has_negative.all()):
        raise ValueError(
            f"Matching needs a negative for every row, but a row of this batch of {has_negative.shape[0]} has none: "
            "the batch has one example, or all its image_ids are equal. Use at least two different images per batch "
            "(drop_last=True for the last one)."
        )


def draw_negatives(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """
    Draw one negative per row.

    Args:
        weights (`Tensor` of shape `(B, K)`): unnormalized probabilities.
        generator (`torch.Generator`, *optional*): source of randomness.

    Returns:
        `Tensor` of shape `(B,)`: int64, column of each row's negative.

    Raises:
        ValueError: a row has no candidate.
    """
    if not torch.compiler.is_compiling():
        require_negatives(weights.sum(dim=1) > 0)
    return torch.multinomial(weights, 1, generator=generator).squeeze(1)


# ---- masked language modeling ----


@dataclass
class MaskDraws:
    """
    The random choices of masked language modeling.

    Args:
        chosen (`Tensor` of shape `(B, T)`): boolean, tokens that are predicted.
        masked (`Tensor` of shape `(B, T)`): boolean, chosen tokens that are replaced by `[MASK]`.
        replaced (`Tensor` of shape `(B, T)`): boolean, other chosen tokens that are replaced by a random token; the
            remaining chosen tokens are kept.
        random_ids (`Tensor` of shape `(B, T)`): int64, the random tokens.
    """

    chosen: Tensor
    masked: Tensor
    replaced: Tensor
    random_ids: Tensor


def draw_masks(
    input_ids: Tensor, probability: float, vocab_size: int, generator: torch.Generator | None = None
) -> MaskDraws:
    """
    Draw which tokens are predicted and how they are replaced: 8 in 10 by `[MASK]`, 1 in 10 by a random token, 1 in 10
    not at all (BERT, section 3.1, https://arxiv.org/abs/1810.04805).

    Args:
        input_ids (`Tensor` of shape `(B, T)`): texts; only shape and device are used.
        probability (`float`): share of tokens that are chosen.
        vocab_size (`int`): random tokens are drawn from all ids. parity: special tokens are among them.
        generator (`torch.Generator`, *optional*): source of randomness.
    """

    def coin(chance: float) -> Tensor:
        return torch.bernoulli(torch.full(input_ids.shape, chance, device=input_ids.device), generator=generator).bool()

    chosen, masked, replaced = coin(probability), coin(0.8), coin(0.5)
    random_ids = torch.randint(vocab_size, input_ids.shape, device=input_ids.device, generator=generator)
    return MaskDraws(chosen, masked, replaced, random_ids)


def mask_tokens(
    input_ids: Tensor, draws: MaskDraws, mask_token_id: int, pad_token_id: int, cls_token_id: int
) -> tuple[Tensor, Tensor]:
    """
    Mask tokens.

    Args:
        input_ids (`Tensor` of shape `(B, T)`): texts. `[PAD]` and `[CLS]` are never masked; parity: `[SEP]` can be.
        draws ([`MaskDraws`]): the random choices.
        mask_token_id, pad_token_id, cls_token_id (`int`): special tokens.

    Returns:
        The masked texts and the labels, -100 at tokens that are not predicted; both `(B, T)`.
    """
    chosen = draws.chosen & (input_ids != pad_token_id) & (input_ids != cls_token_id)
    masked = chosen & draws.masked
    replaced = chosen & draws.replaced & ~masked
    masked_ids = torch.where(replaced, draws.random_ids, input_ids.masked_fill(masked, mask_token_id))
    return masked_ids, input_ids.masked_fill(~chosen, IGNORE_INDEX)


def masked_lm_loss(
    head: Callable[[Tensor], Tensor],
    hidden_states: Tensor,
    labels: Tensor,
    momentum_head: Callable[[Tensor], Tensor] | None = None,
    momentum_hidden_states: Tensor | None = None,
    alpha: float = 0.0,
) -> Tensor:
    """
    Masked language modeling loss, averaged over the masked tokens: cross entropy against the tokens and, weighted by
    `alpha`, against the distribution of the momentum model (ALBEF, equations 4 and 7,
    https://arxiv.org/abs/2107.07651). The heads are applied to masked tokens only.

    Args:
        head (callable): hidden states `(M, D)` to logits `(M, V)`.
        hidden_states (`Tensor` of shape `(B, T, D)`): multimodal hidden states of the masked texts.
        labels (`Tensor` of shape `(B, T)`): token ids, -100 at tokens that are not masked.
        momentum_head, momentum_hidden_states (*optional*): the same of the momentum model.
        alpha (`float`, *optional*, defaults to 0.0): weight of the soft targets.

    Returns:
        `Tensor` of shape `()`: 0 if no token is masked.
    """
    if torch.compiler.is_compiling():  # the number of masked tokens depends on values, which would break the graph
        selected = torch.ones_like(labels, dtype=torch.bool)
    else:
        selected = labels != IGNORE_INDEX
    labels = labels[selected].long()
    count = (labels != IGNORE_INDEX).sum().clamp(min=1)
    logits = at_least_float32(head(hidden_states[selected]))
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum") / count
    if momentum_head is None or momentum_hidden_states is None:
        return loss
    with torch.no_grad():
        targets = at_least_float32(momentum_head(momentum_hidden_states[selected])).softmax(dim=-1)
        targets = targets.masked_fill(labels[:, None] == IGNORE_INDEX, 0.0)
    soft = -(targets * logits.log_softmax(dim=-1)).sum() / count
    return (1 - alpha) * loss + alpha * soft


# ---- causal language modeling ----


def token_loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """
    Cross entropy of each token with label smoothing (Szegedy et al., 2016, https://arxiv.org/abs/1512.00567).

    Args:
        logits (`Tensor` of shape `(..., V)`): logits over the vocabulary.
        labels (`Tensor` of shape `(...)`): token ids, -100 at positions to ignore.
        label_smoothing (`float`): probability spread over the vocabulary.

    Returns:
        `Tensor` of shape `(...)`: loss per token, 0 at ignored positions.
    """
    loss = F.cross_entropy(
        at_least_float32(logits.flatten(0, -2)),
        labels.flatten().long(),
        ignore_index=IGNORE_INDEX,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    return loss.view(labels.shape)


def next_token_loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """
    Loss of predicting each token from the tokens before it.

    Args:
        logits (`Tensor` of shape `(B, T, V)`): logits at each position.
        labels (`Tensor` of shape `(B, T)`): the tokens themselves (not shifted), -100 at positions to ignore.
        label_smoothing (`float`): label smoothing.

    Returns:
        `Tensor` of shape `(B, T - 1)`: loss of tokens 1 to T - 1, 0 at ignored positions.
    """
    return token_loss(logits[:, :-1], labels[:, 1:], label_smoothing)


def soft_next_token_loss(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """
    Cross entropy of each next-token prediction against that of a teacher (ALBEF, section 3.3).

    Args:
        logits, teacher_logits (`Tensor` of shape `(B, T, V)`): logits at each position; the teacher's carry no
            gradient.
        labels (`Tensor` of shape `(B, T)`): -100 at positions to ignore.

    Returns:
        `Tensor` of shape `(B, T - 1)`: loss of tokens 1 to T - 1, 0 at ignored positions.
    """
    targets = at_least_float32(teacher_logits[:, :-1]).softmax(dim=-1)
    loss = -(targets * at_least_float32(logits[:, :-1]).log_softmax(dim=-1)).sum(dim=-1)
    return loss.masked_fill(labels[:, 1:] == IGNORE_INDEX, 0.0)


def causal_lm_loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """[`next_token_loss`] averaged over the positions that are not ignored: logits `(B, T, V)` to `()`."""
    count = (labels[:, 1:] != IGNORE_INDEX).sum().clamp(min=1)
    return next_token_loss(logits, labels, label_smoothing).sum() / count


__all__ = [
    "ContrastiveOutput",
    "MaskDraws",
    "at_least_float32",
    "causal_lm_loss",
    "draw_masks",
    "draw_negatives",
    "in_batch_contrastive_loss",
    "mask_tokens",
    "masked_lm_loss",
    "match_ids",
    "negative_weights",
    "next_token_loss",
    "positive_targets",
    "queue_contrastive_loss",
    "require_negatives",
    "similarity_to_candidates",
    "soft_cross_entropy",
    "soft_next_token_loss",
    "token_loss",
]
