"""Fixtures of several test folders, and a deadline for all tests."""

import os
import time
from pathlib import Path

import pytest

#: seconds since the epoch after which no test starts, set by `.ci/run`, whose time is limited
DEADLINE = "LAVIS_TEST_DEADLINE"
#: what runs first where there is a deadline
_FIRST = ("parity", "models", "training", "conversion", "export", "hub")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With a deadline, tests of what users rely on most come first."""
    if DEADLINE in os.environ:
        tests = Path(__file__).parent
        items.sort(key=lambda item: item.path.relative_to(tests).parts[0] not in _FIRST)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """After the deadline, the tests that are left are skipped, so that the others have a result."""
    if time.time() > float(os.environ.get(DEADLINE, "inf")):
        pytest.skip("the time for tests is over; run it by hand")


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder of the recordings of the original: `LAVIS_GOLDENS`, defaults to tests/goldens."""
    return Path(os.environ.get("LAVIS_GOLDENS") or Path(__file__).parent / "goldens")


@pytest.fixture(scope="session")
def photos(goldens: Path) -> dict[str, Path]:
    """The photos of the recordings, by file name without extension."""
    folder = goldens / "processors" / "images"
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".jpg")}
