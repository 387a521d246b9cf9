"""Fixtures of several test folders."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder of the recordings of the original: `LAVIS_GOLDENS`, defaults to tests/goldens."""
    return Path(os.environ.get("LAVIS_GOLDENS") or Path(__file__).parent / "goldens")


@pytest.fixture(scope="session")
def photos(goldens: Path) -> dict[str, Path]:
    """The photos of the recordings, by file name without extension."""
    folder = goldens / "processors" / "images"
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".jpg")}
