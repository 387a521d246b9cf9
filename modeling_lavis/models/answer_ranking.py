# SPDX-License-Identifier: Apache-2.0
"""Ranking a closed list of answers by a decoder (ALBEF, section 4, https://arxiv.org/abs/2107.07651).

Letters: B questions, A answers, k candidates per question, g of them that run together, L answer tokens, D width,
V vocabulary.
"""

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from .configuration_text_bert import LavisBertConfig
from .generation import SharedCrossAttentionCache
from .language_loss import smoothed_token_loss
from .outputs import RankedAnswers
from .text_bert import LavisBertLMHeadModel

# Candidates of one length run together, for padding costs as much as tokens. A group of fewer candidates would waste
# more by reading all weights for them than padding wastes; one of more tokens would only need more memory.
_SMALLEST_GROUP, _MOST_TOKENS = 16, 4096


def _token_losses(
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


def _for_group(started: SharedCrossAttentionCache, size: int, config: LavisBertConfig) -> SharedCrossAttentionCache:
    """The start token's keys and values for `size` candidates of each question; the question's stay as they are."""
    own = DynamicCache(config=config)
    for index, layer in enumerate(started.self_attention_cache.layers):
        own.update(layer.keys.repeat_interleave(size, dim=0), layer.values.repeat_interleave(size, dim=0), index)
    return SharedCrossAttentionCache(own, started.cross_attention_cache)


def _group_sizes(lengths: list[int], batch: int) -> list[int]:
    """
    Cut candidates, sorted by length, into groups that run together.

    Args:
        lengths (`list[int]`): tokens of each candidate, ascending.
        batch (`int`): questions, each of which has that many candidates.

    Returns:
        `list[int]`: sizes, which sum up to the number of candidates.
    """
    sizes: list[int] = []
    start = 0
    for end in range(1, len(lengths) + 1):
        size, left = end - start, len(lengths) - end
        run_ends = left == 0 or lengths[end] != lengths[end - 1]
        is_full = (size + 1) * batch * lengths[end - 1] > _MOST_TOKENS
        if left == 0 or (run_ends or is_full) and min(size, left) >= _SMALLEST_GROUP:
            sizes.append(size)
            start = end
    return sizes


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
    the last token of an answer predicts nothing and is not run, and neither is padding beyond the group that an answer
    is run with.

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
    question = {
        "encoder_hidden_states": encoder_hidden_states,
        "encoder_attention_mask": encoder_attention_mask,
    }
    logits = decoder(start, past_key_values=cache, **question)[0][:, 0].float()  # (B, V)
    first_tokens = answer_input_ids[:, 1]
    candidates = logits.softmax(dim=-1)[:, first_tokens].topk(k, dim=1).indices  # (B, k)

    losses = _first_token_losses(logits, first_tokens[candidates], smoothing)  # (B, k)
    lengths = (labels != -100).sum(dim=1)[candidates]  # (B, k)
    by_length = lengths.argsort(dim=1, stable=True)
    longest_of = lengths.gather(1, by_length).amax(dim=0).tolist()  # of the questions' candidates in one place, (k,)
    for places in by_length.split(_group_sizes(longest_of, batch), dim=1):
        longest = int(lengths.gather(1, places).max())
        if longest <= 2:  # the start token, which is run, and one more, whose loss is known
            continue
        answers = candidates.gather(1, places).flatten()  # (B * g,)
        own_cache = _for_group(cache, places.shape[1], config)
        inputs = answer_input_ids[answers, 1 : longest - 1]
        states = decoder.bert(inputs, causal=True, past_key_values=own_cache, **question).last_hidden_state
        rest = _token_losses(decoder, states, labels[answers, 2:longest], smoothing, chunk_size)
        losses = losses.scatter_add(1, places, rest.view(batch, -1))

    scores, order = (-losses).sort(dim=1, descending=True, stable=True)
    candidates = candidates.gather(1, order)
    return RankedAnswers(best=candidates[:, 0], candidates=candidates, scores=scores)


def _first_token_losses(logits: Tensor, tokens: Tensor, smoothing: float) -> Tensor:
    """Smoothed loss (B, k) of the candidates' first tokens (B, k) under one row of logits (B, V) per question."""
    log_probs = logits.log_softmax(dim=-1)
    likelihood = log_probs.gather(1, tokens)
    return -((1 - smoothing) * likelihood + smoothing * log_probs.mean(dim=-1, keepdim=True))


__all__ = ["rank_answers"]
