"""Sizes that stay open in an exported graph: images, frames, and batches of one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from modeling_lavis.export import export_model, load_exported
from tests.export.folders import formats
from tests.pipelines.tiny_models import SIZE, save_model
from tests.pipelines.tiny_video_models import FRAMES, save_video_model

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("format_name", formats())]


def pixels(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def assert_equal_features(model: Any, exported: Any, images: torch.Tensor) -> None:
    with torch.no_grad():
        expected, found = (head.encode_images(images, interpolate_pos_encoding=True) for head in (model, exported))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_image_sizes(format_name: str, tmp_path: Path, goldens: Path) -> None:
    source = save_model(tmp_path / "model", "Model", goldens / "tokenizer")
    exported = load_exported(export_model(source, tmp_path / "exported", format_name, image_size="dynamic"))
    assert exported.export.image_size == "dynamic"
    model = AutoModel.from_pretrained(source)
    for batch, height, width in ((2, SIZE, SIZE), (1, SIZE + 16, 16), (3, 4 * SIZE, 2 * SIZE)):
        assert_equal_features(model, exported, pixels(batch, 3, height, width))
    with pytest.raises(ValueError, match="interpolate_pos_encoding=True"):
        exported.encode_images(pixels(1, 3, 48, 48))
    with pytest.raises(ValueError, match="multiples of the patch size 16"):
        exported.encode_images(pixels(1, 3, 50, 50), interpolate_pos_encoding=True)


def test_frames(format_name: str, tmp_path: Path, goldens: Path) -> None:
    source = save_video_model(tmp_path / "model", "Model", goldens / "tokenizer")
    exported = load_exported(export_model(source, tmp_path / "exported", format_name))
    model = AutoModel.from_pretrained(source)
    for batch, frames in ((1, FRAMES), (2, 1), (1, 7)):
        assert_equal_features(model, exported, pixels(batch, frames, 3, SIZE, SIZE))
    with pytest.raises(ValueError, match="--image-size dynamic"):
        exported.encode_images(pixels(1, FRAMES, 3, 48, 48), interpolate_pos_encoding=True)
