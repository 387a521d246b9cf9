"""Registry of the replay functions by architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .goldens import GoldenSet
from .ledger import Ledger

Replay = Callable[[GoldenSet, Ledger, Path], None]

REPLAYS: dict[str, Replay] = {}

# Architectures that this package does not support yet, with the reason. An architecture in neither table fails.
PLANNED: dict[str, str] = {}


def replays(*architectures: str) -> Callable[[Replay], Replay]:
    """Register a function `(golden, ledger, scratch folder)` as the replay of `architectures`."""

    def register(function: Replay) -> Replay:
        for name in architectures:
            if name in REPLAYS or name in PLANNED:
                raise ValueError(f"{name} has a replay already, or is still in PLANNED.")
            REPLAYS[name] = function
        return function

    return register


def replay_of(architecture: str) -> Replay:
    """The replay of an architecture; raises LookupError if there is none."""
    if architecture not in REPLAYS:
        raise LookupError(
            f"No replay for the architecture {architecture!r}. Write one and register it with @replays; "
            f"there are replays for {sorted(REPLAYS)}."
        )
    return REPLAYS[architecture]
