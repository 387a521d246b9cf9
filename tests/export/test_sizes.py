"""Sizes that stay open in an exported graph: images, frames, and batches of one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from modeling_lavis.export import export_model, load_exported
from modeling_lavis.export.formats import FORMATS
from modeling_lavis.export.graphs import graphs_of
from modeling_lavis.export.weight_files import SharedWeights
from tests.export.folders import formats
from tests.pipelines.tiny_models import SIZE, save_model
from tests.pipelines.tiny_video_models import FRAMES, save_video_model

pytestmark = pytest.mark.slow


def pixels(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def assert_encoder_is_exported(
    source: Path, format_name: str, dynamic_image_size: bool, shapes: list[tuple[int, ...]]
) -> None:
    """The graph of the image or video encoder gives the encoder's hidden states for images of several shapes."""
    model: Any = AutoModel.from_pretrained(source).eval()
    graph, written = next(graphs_of(model, dynamic_image_size)), FORMATS[format_name]
    file = source / f"graph{written.suffix}"
    written.write(graph, file, SharedWeights(source))
    session = written.open(file, tuple(graph.inputs), graph.outputs)
    for shape in shapes:
        images = pixels(*shape)
        found = session.run({model.main_input_name: images})["last_hidden_state"]
        with torch.no_grad():
            expected = model.encode_images(images, interpolate_pos_encoding=True)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("format_name", formats())
def test_image_sizes(format_name: str, tmp_path: Path, goldens: Path) -> None:
    source = save_model(tmp_path, "Model", goldens / "tokenizer")
    shapes = [(2, 3, SIZE, SIZE), (1, 3, SIZE + 16, 16), (3, 3, 4 * SIZE, 2 * SIZE)]
    assert_encoder_is_exported(source, format_name, True, shapes)


@pytest.mark.parametrize("format_name", formats())
def test_frames(format_name: str, tmp_path: Path, goldens: Path) -> None:
    source = save_video_model(tmp_path, "Model", goldens / "tokenizer")
    shapes = [(1, FRAMES, 3, SIZE, SIZE), (2, 1, 3, SIZE, SIZE), (1, 7, 3, SIZE, SIZE)]
    assert_encoder_is_exported(source, format_name, False, shapes)


def test_head_for_all_image_sizes(tmp_path: Path, goldens: Path) -> None:
    source = save_model(tmp_path / "model", "Model", goldens / "tokenizer")
    exported = load_exported(export_model(source, tmp_path / "exported", "torch", image_size="dynamic"))
    assert exported.export.image_size == "dynamic"
    images = pixels(1, 3, 48, 64)
    expected = AutoModel.from_pretrained(source).encode_images(images, interpolate_pos_encoding=True)
    found = exported.encode_images(images, interpolate_pos_encoding=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="interpolate_pos_encoding=True"):
        exported.encode_images(images)
    with pytest.raises(ValueError, match="multiples of the patch size 16"):
        exported.encode_images(pixels(1, 3, 50, 50), interpolate_pos_encoding=True)


def test_video_head_for_one_image_size(tmp_path: Path, goldens: Path) -> None:
    source = save_video_model(tmp_path / "model", "Model", goldens / "tokenizer")
    exported = load_exported(export_model(source, tmp_path / "exported", "torch"))
    with pytest.raises(ValueError, match="--image-size dynamic"):
        exported.encode_images(pixels(1, FRAMES, 3, 48, 48), interpolate_pos_encoding=True)
    with pytest.raises(ValueError, match="and 3 frames"):
        exported.encode_images(pixels(1, 2, 3, SIZE, SIZE))
