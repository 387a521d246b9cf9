"""Replays all golden sets in `LAVIS_GOLDENS` (default: tests/goldens)."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import (  # noqa: F401  (register their replays)
    replays_alpro,
    replays_blip2,
    replays_blip_classification,
    replays_blip_generation,
    replays_blip_matching,
)
from .goldens import GoldenSet, golden_folders
from .ledger import Ledger
from .registry import PLANNED, replay_of

FOLDERS = golden_folders()


def test_golden_sets_are_found() -> None:
    assert FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_golden(folder: Path, tmp_path: Path) -> None:
    golden = GoldenSet(folder)
    if golden.architecture in PLANNED:
        pytest.skip(f"{golden.architecture}: {PLANNED[golden.architecture]}")
    ledger = Ledger(golden)
    replay_of(golden.architecture)(golden, ledger, tmp_path)
    ledger.close()
