"""Records which entries of a golden set were compared, and with what result."""

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
    """Every recorded tensor and string must be compared, fed (a recorded draw that replaces a random one), undefined (a
    loss that is NaN in the original and finite here) or excused by `REASONS`.

    Comparisons do not stop at the first difference: `close` raises one AssertionError that lists all differences, and
    all entries that were not used.
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
        absolute: float = TOLERANCE,
        relative: float = TOLERANCE,
    ) -> None:
        """
        Compare a tensor with the one recorded under `name`: `abs(a - b) <= absolute + relative * abs(b)`, or exactly if
        it has integers; `transform` is applied to both first.
        """
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
            # The original averages over no token (all labels are ignored); the loss of this package is 0.
            self.done[name] = "undefined"
            if not actual.isfinite():
                self.failures.append(f"{name}: the original's is undefined, ours is {actual.item()}, expected a number")
            return
        if transform is not None:
            actual, recorded = transform(actual.detach()), transform(recorded)
        worst = excess(actual.cpu(), recorded, relative)
        if worst > absolute:
            gap = (actual.detach().cpu().double() - recorded.double()).abs().max().item()
            self.failures.append(f"{name}: differs by up to {gap:.3g} {tuple(recorded.shape)}")

    def compare_value(self, name: str, actual: Any, tolerance: float | None = None) -> None:
        """Compare a recorded string, list or number: exactly, or within `tolerance`."""
        recorded = self._recorded(name, self.golden.strings)
        self.done[name] = "compared"
        same = actual == recorded if tolerance is None else abs(actual - recorded) <= tolerance
        if not same:
            self.failures.append(f"{name}: recorded {recorded!r}, got {actual!r}")

    def check(self, what: str, condition: bool) -> None:
        """Note a failure that belongs to no recorded entry, unless `condition` holds."""
        if not condition:
            self.failures.append(what)

    def feed(self, name: str) -> torch.Tensor:
        """The recorded draw `name`, which replaces a random one."""
        recorded = self._recorded(name, self.golden.tensors)
        self.done[name] = "fed"
        return recorded

    def records(self, name: str) -> bool:
        """Whether the golden set has an entry `name`."""
        return name in self.golden.tensors or name in self.golden.strings

    def reason(self, name: str) -> str | None:
        """The reason in `REASONS` for not comparing `name`, or None."""
        for (sets, names), text in self.reasons.items():
            if re.fullmatch(sets, self.golden.architecture) and re.fullmatch(names, name):
                return text
        return None

    def summary(self) -> Counter[str]:
        """Numbers of entries that were compared, fed, excused and left."""
        counts = Counter(self.done.values())
        for name in self.golden.names():
            if name not in self.done:
                counts["excused" if self.reason(name) else "left"] += 1
        return counts

    def close(self) -> None:
        """Raise AssertionError unless all entries were used and are equal."""
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
