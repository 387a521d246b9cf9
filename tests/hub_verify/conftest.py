"""Converted tiny models, and copies of them with other weights."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_lavis.hub.convert import convert
from tests.conversion.golden_sets import complete_arguments


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Function that returns the repository of an architecture, converted from a recorded checkpoint once."""

    @cache
    def make(architecture: str) -> Path:
        folder = tmp_path_factory.mktemp("converted") / architecture
        convert(**complete_arguments(architecture, folder), with_code=False)
        return folder

    return make


def with_other_weights(repository: Path, target: Path, scale: float = 0.3) -> Path:
    """A copy of a repository with noise on all weights, `scale` times their standard deviation."""
    shutil.copytree(repository, target)
    generator = torch.Generator().manual_seed(0)
    for path in target.glob("*.safetensors"):
        weights = load_file(path)
        for name, value in weights.items():
            if value.is_floating_point() and value.numel() > 1:
                noise = torch.randn(value.shape, generator=generator) * value.float().std() * scale
                weights[name] = (value.float() + noise).to(value.dtype)
        save_file(weights, path, metadata={"format": "pt"})
    return target
