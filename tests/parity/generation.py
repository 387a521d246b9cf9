"""Replays recorded calls of `generate`.

Shapes: B batch size, T tokens, V vocabulary size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .draws import recorded_multinomial
from .ledger import Ledger


def replay_generate(
    model: nn.Module,
    ledger: Ledger,
    scope: str,
    inputs: Mapping[str, torch.Tensor],
    options: Mapping[str, Any],
) -> torch.Tensor:
    """Generate, compare ids, beam scores and draws with those recorded under `scope`, and return the ids.

    For greedy search, the smallest gap between the scores of the best and the second best token is compared as well.
    """
    replace = recorded_multinomial(ledger, scope) if options.get("do_sample") else contextlib.nullcontext()
    with torch.no_grad(), replace:
        output = model.generate(
            **inputs, **options, return_dict_in_generate=True, output_scores=True, output_logits=True
        )
    ledger.compare(f"{scope}.sequences", output.sequences)
    if ledger.records(f"{scope}.sequences_scores"):
        ledger.compare(f"{scope}.sequences_scores", output.sequences_scores)
    if ledger.records(f"{scope}.min_top2_gap"):
        prompt = output.sequences.shape[1] - len(output.scores)
        # Six decimals are recorded.
        ends = model.generation_config.eos_token_id
        gap = smallest_gap(torch.stack(output.scores, dim=1), output.sequences[:, prompt:], ends)
        ledger.compare_value(f"{scope}.min_top2_gap", gap, tolerance=1e-4)
    return output.sequences


def smallest_gap(scores: torch.Tensor, chosen: torch.Tensor, end_token_id: int) -> float:
    """Smallest gap between the two best scores `(B, T, V)` at positions `(B, T)` of unfinished sequences."""
    best = scores.topk(2, dim=-1).values
    ended = (chosen == end_token_id).cumsum(dim=1) - (chosen == end_token_id).long() > 0
    return (best[..., 0] - best[..., 1])[~ended].min().item()
