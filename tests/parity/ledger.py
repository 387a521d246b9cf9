"""Keeps account of what a golden set records and what became of each entry."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from .goldens import GoldenSet, excess, is_exact
from .reasons import REASONS

TOLERANCE = 1e-4


class Ledger:
    """Every recorded tensor and string ends as compared, fed (a recorded draw put back in), undefined (a loss that is
    not a number in the original, and one here) or excused by `REASONS`.

    Comparisons do not stop at the first difference: `close` raises one AssertionError that lists them all, with every
    entry that nothing was done with.
    """

    def __init__(self, golden: GoldenSet, reasons: dict[tuple[str, str], str] | None = None) -> None:
        self.golden = golden
        self.reasons = REASONS if reasons is None else reasons
        self.done: dict[str, str] = {}
        self.failures: list[str] = []

    def _recorded(self, name: str, store: dict[str, Any]) -> Any:
        if name not in store:
            raise KeyError(f"{self.golden}: nothing is recorded under {name!r}; the replay compares what is not there.")
        return store[name]

    def compare(
        self,
        name: str,
        actual: torch.Tensor,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Compares a tensor with the one recorded under `name`; `transform` is applied to both sides first."""
        recorded = self._recorded(name, self.golden.tensors)
        self.done[name] = "compared"
        if not isinstance(actual, torch.Tensor):
            self.failures.append(f"{name}: expected a tensor {tuple(recorded.shape)}, got {type(actual).__name__}")
            return
        if actual.shape != recorded.shape:
            self.failures.append(f"{name}: recorded shape {tuple(recorded.shape)}, got {tuple(actual.shape)}")
            return
        if is_exact(recorded) != is_exact(actual):
            self.failures.append(f"{name}: recorded {recorded.dtype}, got {actual.dtype}")
            return
        if is_exact(recorded):
            wrong = (actual.cpu() != recorded).sum().item()
            if wrong:
                self.failures.append(f"{name}: {wrong} of {recorded.numel()} values differ (exact comparison)")
            return
        if recorded.ndim == 0 and recorded.isnan():
            # The original's mean over no token at all (a batch with nothing to learn); ours is 0 there.
            self.done[name] = "undefined"
            if not actual.isfinite():
                self.failures.append(f"{name}: the original's is undefined, ours is {actual.item()}, expected a number")
            return
        if transform is not None:
            actual, recorded = transform(actual.detach()), transform(recorded)
        worst = excess(actual.cpu(), recorded, TOLERANCE)
        if worst > TOLERANCE:
            gap = (actual.detach().cpu().double() - recorded.double()).abs().max().item()
            self.failures.append(f"{name}: differs by up to {gap:.3g} {tuple(recorded.shape)}")

    def compare_value(self, name: str, actual: Any, tolerance: float | None = None) -> None:
        """Compares a recorded string, list or note, exactly unless a `tolerance` for a number is given."""
        recorded = self._recorded(name, self.golden.strings)
        self.done[name] = "compared"
        same = actual == recorded if tolerance is None else abs(actual - recorded) <= tolerance
        if not same:
            self.failures.append(f"{name}: recorded {recorded!r}, got {actual!r}")

    def check(self, what: str, condition: bool) -> None:
        """Notes a failure that belongs to no single recorded entry."""
        if not condition:
            self.failures.append(what)

    def feed(self, name: str) -> torch.Tensor:
        """The recorded draw `name`, which the replay puts in place of a random choice."""
        recorded = self._recorded(name, self.golden.tensors)
        self.done[name] = "fed"
        return recorded

    def records(self, name: str) -> bool:
        """Whether the set records `name`."""
        return name in self.golden.tensors or name in self.golden.strings

    def reason(self, name: str) -> str | None:
        """The stated reason for which `name` is not compared, or None."""
        for (sets, names), text in self.reasons.items():
            if re.fullmatch(sets, self.golden.architecture) and re.fullmatch(names, name):
                return text
        return None

    def summary(self) -> Counter[str]:
        """How many entries were compared, fed, excused and left."""
        counts = Counter(self.done.values())
        for name in self.golden.names():
            if name not in self.done:
                counts["excused" if self.reason(name) else "left"] += 1
        return counts

    def close(self) -> None:
        """Raises AssertionError unless everything recorded is accounted for and equal."""
        problems = list(self.failures)
        for name in self.golden.names():
            reason = self.reason(name)
            if name in self.done and reason:
                problems.append(f"{name}: replayed, yet REASONS excuses it ({reason}); take it out of REASONS")
            elif name not in self.done and not reason:
                problems.append(f"{name}: recorded, but neither compared nor excused")
        if problems:
            head = f"{self.golden}: {len(problems)} problems"
            raise AssertionError("\n  ".join([head, *problems]))
