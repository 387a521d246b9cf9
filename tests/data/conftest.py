"""The cache of `datasets`, away from that of the user."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_of_datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of the cache of `datasets` while tests run."""
    config = pytest.importorskip("datasets").config
    folder = tmp_path_factory.mktemp("cache-of-datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "HF_DATASETS_CACHE", folder)
        yield folder
