# SPDX-License-Identifier: Apache-2.0
"""Masked language modelling: which tokens are hidden, by what, and the loss of finding them again.

Letters: B rows, T tokens, M hidden tokens of a batch, D width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class MaskDraws:
    """
    Everything about masking that is left to chance.

    Args:
        chosen (`Tensor` of shape `(B, T)`): boolean, tokens that may be hidden.
        masked (`Tensor` of shape `(B, T)`): boolean, chosen tokens that become `[MASK]`.
        replaced (`Tensor` of shape `(B, T)`): boolean, other chosen tokens that become a random word; the rest stay.
        words (`Tensor` of shape `(B, T)`): int64, the random words.
    """

    chosen: Tensor
    masked: Tensor
    replaced: Tensor
    words: Tensor


def draw_masks(
    input_ids: Tensor, probability: float, vocab_size: int, generator: torch.Generator | None = None
) -> MaskDraws:
    """
    Draw which tokens to hide, and how: 8 in 10 by `[MASK]`, 1 in 10 by a random word, 1 in 10 not at all (BERT,
    https://arxiv.org/abs/1810.04805, section 3.1).

    Args:
        input_ids (`Tensor` of shape `(B, T)`): texts; only shape and device matter.
        probability (`float`): share of tokens that are chosen.
        vocab_size (`int`): random words are drawn from all ids. parity: special tokens are among them.
        generator (`torch.Generator`, *optional*): source of randomness.
    """

    def coin(chance: float) -> Tensor:
        return torch.bernoulli(torch.full(input_ids.shape, chance, device=input_ids.device), generator=generator).bool()

    chosen, masked, replaced = coin(probability), coin(0.8), coin(0.5)
    words = torch.randint(vocab_size, input_ids.shape, device=input_ids.device, generator=generator)
    return MaskDraws(chosen, masked, replaced, words)


def mask_tokens(
    input_ids: Tensor, draws: MaskDraws, mask_token_id: int, pad_token_id: int, cls_token_id: int
) -> tuple[Tensor, Tensor]:
    """
    Hide tokens.

    Args:
        input_ids (`Tensor` of shape `(B, T)`): texts. `[PAD]` and `[CLS]` are never hidden; parity: `[SEP]` may be.
        draws ([`MaskDraws`]): what chance decided.
        mask_token_id, pad_token_id, cls_token_id (`int`): special tokens.

    Returns:
        the texts with hidden tokens, and labels: the tokens that were chosen, -100 elsewhere; both (B, T).
    """
    chosen = draws.chosen & (input_ids != pad_token_id) & (input_ids != cls_token_id)
    masked = chosen & draws.masked
    replaced = chosen & draws.replaced & ~masked
    hidden = torch.where(replaced, draws.words, input_ids.masked_fill(masked, mask_token_id))
    return hidden, input_ids.masked_fill(~chosen, -100)


def masked_token_loss(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    labels: Tensor,
    teacher: Callable[[Tensor], Tensor] | None = None,
    teacher_states: Tensor | None = None,
    alpha: float = 0.0,
) -> Tensor:
    """
    Mean loss of the hidden tokens, against the tokens and, by `alpha`, against a teacher's distribution (ALBEF,
    equations 4 and 7, https://arxiv.org/abs/2107.07651). Only hidden tokens see the heads.

    Args:
        head (callable): states (M, D) to logits (M, V).
        states (`Tensor` of shape `(B, T, D)`): what the text transformer made of the masked texts.
        labels (`Tensor` of shape `(B, T)`): tokens, -100 where none is hidden.
        teacher, teacher_states (*optional*): the same of the momentum twins.
        alpha (`float`, *optional*, defaults to 0.0): weight of the teacher.

    Returns:
        `Tensor` of shape `()`: 0 if no token is hidden.
    """
    if torch.compiler.is_compiling():  # how many are hidden depends on the values, which would break the graph
        hidden = torch.ones_like(labels, dtype=torch.bool)
    else:
        hidden = labels != -100
    labels = labels[hidden]
    count = (labels != -100).sum().clamp(min=1)
    logits = head(states[hidden]).float()
    loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / count
    if teacher is None or teacher_states is None:
        return loss
    with torch.no_grad():
        targets = teacher(teacher_states[hidden]).float().softmax(dim=-1).masked_fill(labels[:, None] == -100, 0.0)
    soft = -(targets * logits.log_softmax(dim=-1)).sum() / count
    return (1 - alpha) * loss + alpha * soft


__all__ = ["MaskDraws", "draw_masks", "mask_tokens", "masked_token_loss"]
