"""Replaces random functions by recorded draws, and compares the distributions that they are drawn from.

Shapes: B batch size, R candidates for a negative, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import nn

from .goldens import call_numbers
from .ledger import Ledger


def normalized(weights: torch.Tensor) -> torch.Tensor:
    """Normalize weights `(..., R)`, whose scale does not change the draws."""
    return weights.double() / weights.double().sum(-1, keepdim=True)


class RecordedCalls:
    """Recorded calls of one random function in a scope, in order."""

    def __init__(self, ledger: Ledger, scope: str, function: str) -> None:
        self.ledger = ledger
        self.prefix = f"sampling.{scope}.{function}."
        names = [n for n in ledger.golden.below(self.prefix) if n[len(self.prefix) :].isdigit()]
        self.total = len(call_numbers(names))
        self.next = 0

    def take(
        self, weights: torch.Tensor | None, transform: Callable[[torch.Tensor], torch.Tensor] | None = normalized
    ) -> torch.Tensor:
        """The next recorded result; `weights` are compared with the recorded ones."""
        if self.next >= self.total:
            raise AssertionError(f"More draws than the {self.total} recorded under {self.prefix}*.")
        name = f"{self.prefix}{self.next:03d}"
        self.next += 1
        source = name.replace("sampling.", "sampling_weights.", 1)
        if weights is not None and self.ledger.records(source):
            self.ledger.compare(source, weights, transform=transform)
        return self.ledger.feed(name)

    def finish(self) -> None:
        """Note a failure if recorded calls were not used."""
        self.ledger.check(
            f"{self.prefix}*: {self.next} of {self.total} recorded draws were used", self.next == self.total
        )


@contextmanager
def recorded_negatives(model: nn.Module, ledger: Ledger, scope: str) -> Iterator[None]:
    """Replace `model.draw_negatives`: the first call draws images for texts, the second one texts for images.

    The original draws row by row, so each row of the weights `(B, R)` belongs to one recorded call.
    """
    calls = RecordedCalls(ledger, scope, "multinomial")
    if not calls.total:
        yield
        return

    def draw_negatives(weights: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.cat([calls.take(row) for row in weights.detach()]).to(weights.device)

    with patch.object(model, "draw_negatives", draw_negatives, create=False):
        yield
    calls.finish()


@contextmanager
def recorded_masks(model: nn.Module, ledger: Ledger, scope: str) -> Iterator[None]:
    """
    Replace the draws of masked language modeling: three Bernoulli draws and one token id per token.

    Heads remove columns that are padding in every row, which the original keeps; draws for these have no effect.
    """
    bernoulli_calls = RecordedCalls(ledger, scope, "bernoulli")
    randint_calls = RecordedCalls(ledger, scope, "randint")
    if not bernoulli_calls.total:
        yield
        return

    width = ledger.golden.tensors[f"{bernoulli_calls.prefix}000"].shape[1]

    def bernoulli(probabilities: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        kept = probabilities.shape[1]
        removed = probabilities[:, :1].expand(-1, width - kept)
        return bernoulli_calls.take(torch.cat([probabilities, removed], dim=1), transform=None)[:, :kept]

    def randint(high: int, shape: tuple[int, ...], **options: object) -> torch.Tensor:
        recorded = randint_calls.take(None)[:, : shape[1]]
        ledger.check(f"{scope}: token ids are drawn below {high}", high == model.config.text_config.vocab_size)
        ledger.check(f"{scope}: token ids of shape {tuple(shape)}", tuple(shape) == tuple(recorded.shape))
        return recorded

    with patch.object(torch, "bernoulli", bernoulli), patch.object(torch, "randint", randint):
        yield
    bernoulli_calls.finish()
    randint_calls.finish()


@contextmanager
def recorded_multinomial(ledger: Ledger, scope: str) -> Iterator[None]:
    """Replace `torch.multinomial`: one call per generated token, weights `(rows, V)`."""
    calls = RecordedCalls(ledger, scope, "multinomial")

    def multinomial(weights: torch.Tensor, *arguments: object, **keywords: object) -> torch.Tensor:
        return calls.take(weights.detach())

    with patch.object(torch, "multinomial", multinomial):
        yield
    calls.finish()
