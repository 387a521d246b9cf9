"""Puts recorded random draws in place of random choices, and checks what they were drawn from.

Shapes: B batch, R candidates for a negative, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import nn

from .goldens import call_numbers
from .ledger import Ledger


def normalised(weights: torch.Tensor) -> torch.Tensor:
    """Weights (..., R) that sum to 1: a draw does not depend on their scale."""
    return weights.double() / weights.double().sum(-1, keepdim=True)


class RecordedCalls:
    """The recorded calls of one random function inside one scope, in order."""

    def __init__(self, ledger: Ledger, scope: str, function: str) -> None:
        self.ledger = ledger
        self.prefix = f"sampling.{scope}.{function}."
        names = [n for n in ledger.golden.below(self.prefix) if n[len(self.prefix) :].isdigit()]
        self.total = len(call_numbers(names))
        self.next = 0

    def take(
        self, weights: torch.Tensor | None, transform: Callable[[torch.Tensor], torch.Tensor] | None = normalised
    ) -> torch.Tensor:
        """The next recorded result; `weights` (those of our call, same shape as recorded) are compared."""
        if self.next >= self.total:
            raise AssertionError(f"More draws than the {self.total} recorded under {self.prefix}*.")
        name = f"{self.prefix}{self.next:03d}"
        self.next += 1
        source = name.replace("sampling.", "sampling_weights.", 1)
        if weights is not None and self.ledger.records(source):
            self.ledger.compare(source, weights, transform=transform)
        return self.ledger.feed(name)

    def finish(self) -> None:
        """Fails when recorded calls were not asked for."""
        self.ledger.check(
            f"{self.prefix}*: {self.next} of {self.total} recorded draws were used", self.next == self.total
        )


@contextmanager
def recorded_negatives(model: nn.Module, ledger: Ledger, scope: str) -> Iterator[None]:
    """Replaces `model.draw_negatives`: first call negative images for texts, second negative texts for images.

    The original draws row by row, so each row of our weights (B, R) belongs to one recorded call.
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
    """Replaces the coins and words of masked language modelling: three coins per text and token, one word each."""
    coins = RecordedCalls(ledger, scope, "bernoulli")
    words = RecordedCalls(ledger, scope, "randint")
    if not coins.total:
        yield
        return

    def bernoulli(chances: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return coins.take(chances, transform=None)

    def randint(high: int, shape: tuple[int, ...], **options: object) -> torch.Tensor:
        recorded = words.take(None)
        ledger.check(f"{scope}: words are drawn below {high}", high == model.config.text_config.vocab_size)
        ledger.check(f"{scope}: words of shape {tuple(shape)}", tuple(shape) == tuple(recorded.shape))
        return recorded

    with patch.object(torch, "bernoulli", bernoulli), patch.object(torch, "randint", randint):
        yield
    coins.finish()
    words.finish()


@contextmanager
def recorded_multinomial(ledger: Ledger, scope: str) -> Iterator[None]:
    """Replaces `torch.multinomial`: one call per generated position, weights (rows, V)."""
    calls = RecordedCalls(ledger, scope, "multinomial")

    def multinomial(weights: torch.Tensor, *arguments: object, **keywords: object) -> torch.Tensor:
        return calls.take(weights.detach())

    with patch.object(torch, "multinomial", multinomial):
        yield
    calls.finish()
