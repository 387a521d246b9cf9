"""Open and ranked answers, pairs of images, and questions about videos of exported heads, through the pipelines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

import modeling_lavis  # noqa: F401  (registers the tasks)
from modeling_lavis.export import export_model
from tests.export.folders import needs
from tests.pipelines.tiny_models import save_model
from tests.pipelines.tiny_video_models import save_video_model

QUESTIONS = ["what is in the picture?", "a dog"]
ANSWERS = ["a dog", "two dogs run on a beach", "cat", "yes"]
pytestmark = [pytest.mark.slow, needs("onnx")]


@pytest.fixture
def results(tmp_path: Path, goldens: Path) -> Callable[..., list[Any]]:
    """Function that returns what a call of a pipeline returns for a model and for the exported one."""

    def run(task: str, source: Path, *args: Any, **options: Any) -> list[Any]:
        folder = export_model(source, tmp_path / "exported", "onnx")
        return [pipeline(task, model=str(model))(*args, **options) for model in (source, folder)]

    return run


def assert_same(found: Any, expected: Any) -> None:
    """Equal but for numbers, which are close."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected):
            assert_same(*pair)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
    else:
        assert found == expected


@pytest.mark.parametrize("options", [{}, {"answers": ANSWERS, "top_k": 4}], ids=["open", "ranked"])
def test_answers(
    results: Callable[..., list[Any]], tmp_path: Path, goldens: Path, photos: dict[str, Path], options: dict[str, Any]
) -> None:
    source = save_model(tmp_path / "model", "ForQuestionAnswering", goldens / "tokenizer")
    rows = [{"image": str(image), "question": text} for image, text in zip(photos.values(), QUESTIONS)]
    expected, found = results("image-question-answering", source, rows, batch_size=2, **options)
    assert_same(found, expected)


def test_pairs_of_images(
    results: Callable[..., list[Any]], tmp_path: Path, goldens: Path, photos: dict[str, Path]
) -> None:
    source = save_model(tmp_path / "model", "ForImagesAndTextClassification", goldens / "tokenizer")
    images = [str(image) for image in photos.values()][:2]
    expected, found = results("image-pair-classification", source, [images], text="two dogs")
    assert_same(found, expected)


def test_videos(results: Callable[..., list[Any]], tmp_path: Path, goldens: Path) -> None:
    source = save_video_model(tmp_path / "model", "ForVideoQuestionAnswering", goldens / "tokenizer")
    video = torch.randint(0, 256, (5, 40, 48, 3), dtype=torch.uint8).numpy()
    expected, found = results("video-question-answering", source, video, question="what happens?", top_k=3)
    assert_same(found, expected)
