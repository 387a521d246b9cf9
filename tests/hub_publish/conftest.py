"""Folders that several tests publish."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub.server import LoopbackHub
from tests.hub_publish.repositories import save_captioner


@pytest.fixture(scope="session")
def saved_captioner(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> Path:
    """A random captioner with a card, without code. Not to be changed."""
    return save_captioner(tmp_path_factory.mktemp("saved") / "captioner", goldens)


@pytest.fixture
def captioner(saved_captioner: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(saved_captioner, tmp_path / "captioner"))


@pytest.fixture
def captioner_with_code(captioner: Path) -> Path:
    """The same with its code."""
    from modeling_lavis.hub.portable import attach_code

    attach_code(captioner)
    return captioner


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    """A Hub that starts empty."""
    with LoopbackHub(tmp_path / "hub") as running:
        yield running


Change = Callable[[Path], object]
