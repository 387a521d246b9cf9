"""Fixtures of the pipeline tests: tiny models, pipelines and image files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

import modeling_lavis  # noqa: F401  (registers the tasks)
from tests.pipelines.tiny_models import save_model

HEADS = {
    "image-captioning": "ForConditionalGeneration",
    "image-question-answering": "ForQuestionAnswering",
    "image-text-matching": "ForImageTextRetrieval",
    "image-text-retrieval": "ForImageTextRetrieval",
    "image-text-classification": "ForImageAndTextClassification",
    "image-pair-classification": "ForImagesAndTextClassification",
    "multimodal-feature-extraction": "Model",
}


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> Callable[..., str]:
    """Function that returns the folder of a tiny model, by the suffix of its class. Each is saved once."""
    made: dict[str, str] = {}

    def make(head: str, prompt: str = "") -> str:
        key = f"{head} {prompt}"
        if key not in made:
            folder = tmp_path_factory.mktemp("model")
            options = {"num_labels": 3} if head == "ForImageAndTextClassification" else {}
            made[key] = str(save_model(folder, head, goldens / "tokenizer", prompt, **options))
        return made[key]

    return make


@pytest.fixture(scope="session")
def pipe(repository: Callable[..., str]) -> Callable[..., Any]:
    """Function that returns the pipeline of a task, by default with its usual head. Each is built once."""
    made: dict[tuple[str, str], Any] = {}

    def make(task: str, head: str | None = None, prompt: str = "") -> Any:
        head = head or HEADS[task]
        if (task, head + prompt) not in made:
            made[task, head + prompt] = pipeline(task, model=repository(head, prompt), device="cpu")
        return made[task, head + prompt]

    return make


@pytest.fixture(scope="session")
def files(photos: dict[str, Path]) -> list[str]:
    return [str(path) for path in photos.values()]
