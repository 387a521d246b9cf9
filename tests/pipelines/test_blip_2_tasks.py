"""Matching and retrieval on a converted BLIP-2 checkpoint, whose images have one feature per query token."""

from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

import modeling_lavis  # noqa: F401  (registers the tasks)
from modeling_lavis.evaluation.retrieval import similarity_matrices
from tests.pipelines.albef_models import convert_recorded

TEXTS = ["a dog", "the man in the red house", "a woman"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> str:
    return convert_recorded(goldens, "blip2_image_text_matching", tmp_path_factory.mktemp("blip_2") / "model")


@pytest.fixture(scope="module")
def retriever(repository: str) -> Any:
    return pipeline("image-text-retrieval", model=repository, device="cpu")


@pytest.fixture(scope="module")
def matrices(retriever: Any, files: list[str]) -> Any:
    """Scores of all pairs from `similarity_matrices`."""
    inputs = retriever.processor(images=files, text=TEXTS, return_tensors="pt")
    return similarity_matrices(retriever.model, inputs["pixel_values"], inputs, k=len(files))


@pytest.mark.parametrize("keep_states", [True, False])
def test_images_by_text(retriever: Any, files: list[str], matrices: Any, keep_states: bool) -> None:
    index = retriever.index(images=files, keep_states=keep_states)
    assert index.features.ndim == 3 and (index.states is not None) == keep_states
    for text, rows in enumerate(retriever(TEXTS, index=index, batch_size=2)):
        order = matrices.t2i[text].argsort(descending=True).tolist()
        assert [row["index"] for row in rows] == order
        assert [row["score"] for row in rows] == pytest.approx(matrices.t2i[text, order].tolist(), abs=1e-4)


def test_texts_by_image(retriever: Any, files: list[str], matrices: Any) -> None:
    index = retriever.index(texts=TEXTS)
    assert index.states is None, "the Q-Former fuses tokens, not text hidden states"
    results = retriever(files, index=index, batch_size=2)
    assert len(results) == len(files)
    for image, rows in enumerate(results):
        order = matrices.i2t[image].argsort(descending=True).tolist()
        assert [row["index"] for row in rows] == order
        assert [row["score"] for row in rows] == pytest.approx(matrices.i2t[image, order].tolist(), abs=1e-4)


def test_images_cannot_be_compared_with_images(retriever: Any, files: list[str]) -> None:
    with pytest.raises(ValueError, match="several features per image and compares images with texts only"):
        retriever(files[0], images=files[:2], query_type="image")
    assert retriever("a dog", texts=TEXTS, query_type="text", top_k=1)[0]["text"] == "a dog"


def test_similarities_of_matching_and_retrieval_agree(repository: str, files: list[str], matrices: Any) -> None:
    matcher = pipeline("image-text-matching", model=repository, device="cpu")
    results = matcher(files, text=TEXTS, batch_size=2)
    assert len(results) == len(files)
    for image, rows in enumerate(results):
        assert [row["similarity"] for row in rows] == pytest.approx(matrices.cosine[image].tolist(), abs=1e-4)
