"""What tests of several folders share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder of the recordings of the original: `LAVIS_GOLDENS`, or the copy beside the tests."""
    return Path(os.environ.get("LAVIS_GOLDENS") or Path(__file__).parent / "goldens")


@pytest.fixture(scope="session")
def photos(goldens: Path) -> dict[str, Path]:
    """The recordings' photographs, by name without extension."""
    folder = goldens / "processors" / "images"
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".jpg")}
