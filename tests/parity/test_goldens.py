"""Replays every golden set below `LAVIS_GOLDENS` (default tests/goldens)."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import (  # noqa: F401  they register their replays
    replays_alpro,
    replays_blip2,
    replays_blip_labels,
    replays_blip_matching,
    replays_blip_text,
)
from .goldens import GoldenSet, golden_folders
from .ledger import Ledger
from .registry import PLANNED, replay_of

FOLDERS = golden_folders()


def test_there_is_something_to_replay() -> None:
    assert FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_golden(folder: Path, tmp_path: Path) -> None:
    golden = GoldenSet(folder)
    if golden.architecture in PLANNED:
        pytest.skip(f"{golden.architecture}: {PLANNED[golden.architecture]}")
    ledger = Ledger(golden)
    replay_of(golden.architecture)(golden, ledger, tmp_path)
    ledger.close()
