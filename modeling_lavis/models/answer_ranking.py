# SPDX-License-Identifier: Apache-2.0
"""Ranking a closed list of answers by a decoder (ALBEF, section 4, https://arxiv.org/abs/2107.07651).

Letters: B questions, A answers, k candidates per question, L answer tokens, D width, V vocabulary.
"""

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from .generation import SharedCrossAttentionCache
from .language_loss import smoothed_token_loss
from .outputs import RankedAnswers
from .text_bert import LavisBertLMHeadModel


def _candidate_losses(
    decoder: LavisBertLMHeadModel, hidden_states: Tensor, labels: Tensor, smoothing: float, chunk: int
) -> Tensor:
    """Summed loss of each row (R,) for states (R, L, D) that predict labels (R, L); only real tokens see the head."""
    rows, columns = (labels != -100).nonzero(as_tuple=True)
    losses = torch.cat(
        [
            smoothed_token_loss(decoder.cls(hidden_states[r, c]), labels[r, c], smoothing)
            for r, c in zip(rows.split(chunk), columns.split(chunk), strict=True)
        ]
    )
    return torch.zeros(labels.shape[0], dtype=losses.dtype, device=losses.device).index_add_(0, rows, losses)


@torch.no_grad()
def rank_answers(
    decoder: LavisBertLMHeadModel,
    encoder_hidden_states: Tensor,
    encoder_attention_mask: Tensor | None,
    answer_input_ids: Tensor,
    answer_attention_mask: Tensor | None,
    start_token_id: int,
    num_candidates: int = 128,
    smoothing: float = 0.1,
    chunk_size: int = 1024,
) -> RankedAnswers:
    """
    Pick for each question the answers whose first token is likeliest, then order them by the loss of the whole answer.

    All candidates of a question share the start token, which is run once, and the keys and values of the question;
    the last token of an answer predicts nothing and is not run.

    Args:
        decoder ([`LavisBertLMHeadModel`]): causal decoder.
        encoder_hidden_states (`Tensor` of shape `(B, N, D)`): what the decoder reads, one row per question.
        encoder_attention_mask (`Tensor` of shape `(B, N)`, *optional*): its padding.
        answer_input_ids (`Tensor` of shape `(A, L)`): start token (any), answer, end token, padding on the right.
        answer_attention_mask (`Tensor` of shape `(A, L)`, *optional*): 1 for tokens; the pad id tells else.
        start_token_id (`int`): what the decoder starts with.
        num_candidates (`int`, *optional*, defaults to 128): k, at most A.
        smoothing (`float`, *optional*, defaults to 0.1): label smoothing. parity: ranking is smoothed as training is.
        chunk_size (`int`, *optional*, defaults to 1024): tokens whose scores over the vocabulary are held at once.

    Returns:
        [`RankedAnswers`]: best first.
    """
    num_answers, length = answer_input_ids.shape
    if num_answers == 0 or length < 2:
        raise ValueError(
            f"Got answers of shape {(num_answers, length)}; at least one answer with a start token and one more is "
            "needed. Tokenise the list of answers with the processor."
        )
    if num_candidates < 1:
        raise ValueError(f"num_candidates is {num_candidates}; rank at least one answer.")
    k = min(num_candidates, num_answers)
    batch = encoder_hidden_states.shape[0]
    config = decoder.config
    if answer_attention_mask is None:
        answer_attention_mask = answer_input_ids.ne(config.pad_token_id or 0)
    labels = answer_input_ids.masked_fill(~answer_attention_mask.bool(), -100)

    cache = SharedCrossAttentionCache(DynamicCache(config=config), DynamicCache(config=config))
    start = torch.full((batch, 1), start_token_id, dtype=torch.long, device=encoder_hidden_states.device)
    shared = {
        "encoder_hidden_states": encoder_hidden_states,
        "encoder_attention_mask": encoder_attention_mask,
        "past_key_values": cache,
    }
    logits = decoder(start, **shared)[0][:, 0].float()  # (B, V)
    candidates = logits.softmax(dim=-1)[:, answer_input_ids[:, 1]].topk(k, dim=1).indices  # (B, k)

    chosen = labels[candidates.flatten()]  # (B * k, L)
    losses = _first_token_losses(logits, chosen[:, 1].view(batch, k), smoothing)
    longest = int((chosen != -100).sum(dim=1).max())
    if longest > 2:
        cache.batch_repeat_interleave(k)
        inputs = answer_input_ids[candidates.flatten()][:, 1 : longest - 1]
        states = decoder.bert(inputs, causal=True, **shared).last_hidden_state
        losses = losses + _candidate_losses(decoder, states, chosen[:, 2:longest], smoothing, chunk_size)

    scores, order = (-losses).view(batch, k).sort(dim=1, descending=True, stable=True)
    candidates = candidates.gather(1, order)
    return RankedAnswers(best=candidates[:, 0], candidates=candidates, scores=scores)


def _first_token_losses(logits: Tensor, tokens: Tensor, smoothing: float) -> Tensor:
    """Smoothed loss (B * k,) of the candidates' first tokens (B, k) under one row of logits (B, V) per question."""
    log_probs = logits.log_softmax(dim=-1)
    likelihood = log_probs.gather(1, tokens)
    return -((1 - smoothing) * likelihood + smoothing * log_probs.mean(dim=-1, keepdim=True)).flatten()


__all__ = ["rank_answers"]
