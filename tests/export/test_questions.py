"""Open and ranked answers, pairs of images, and questions about videos of exported heads, through the pipelines."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

import modeling_lavis  # noqa: F401  (registers the tasks)
from modeling_lavis.export import export_model
from tests.export.comparison import assert_close
from tests.export.folders import needs
from tests.pipelines.tiny_models import save_model
from tests.pipelines.tiny_video_models import save_video_model

QUESTIONS = ["what is in the picture?", "a dog"]
ANSWERS = ["a dog", "two dogs run on a beach", "cat", "yes"]
pytestmark = [pytest.mark.slow, needs("onnx")]


def pipes(task: str, source: Path) -> list[Any]:
    """The pipelines of a task for a model and for the exported one."""
    folder = export_model(source, source.with_name("exported"), "onnx")
    return [pipeline(task, model=str(model)) for model in (source, folder)]


def test_answers(tmp_path: Path, goldens: Path, photos: dict[str, Path]) -> None:
    source = save_model(tmp_path / "model", "ForQuestionAnswering", goldens / "tokenizer")
    rows = [{"image": str(image), "question": text} for image, text in zip(photos.values(), QUESTIONS)]
    model, exported = pipes("image-question-answering", source)
    for options in ({}, {"num_beams": 3}, {"answers": ANSWERS, "top_k": 4}):
        assert_close(exported(rows, batch_size=2, **options), model(rows, batch_size=2, **options))


def test_pairs_of_images(tmp_path: Path, goldens: Path, photos: dict[str, Path]) -> None:
    source = save_model(tmp_path / "model", "ForImagesAndTextClassification", goldens / "tokenizer")
    images = [[str(image) for image in photos.values()][:2]]
    model, exported = pipes("image-pair-classification", source)
    assert_close(exported(images, text="two dogs"), model(images, text="two dogs"))


def test_videos(tmp_path: Path, goldens: Path) -> None:
    source = save_video_model(tmp_path / "model", "ForVideoQuestionAnswering", goldens / "tokenizer")
    video = torch.randint(0, 256, (5, 40, 48, 3), dtype=torch.uint8).numpy()
    model, exported = pipes("video-question-answering", source)
    question = "what happens?"
    assert_close(exported(video, question=question, top_k=3), model(video, question=question, top_k=3))
