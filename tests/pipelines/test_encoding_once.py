"""Matching and retrieval pipelines encode each video and each text once, and score each pair once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import pipeline

from modeling_lavis.evaluation import retrieval
from tests.evaluation.row_counter import RowCounter
from tests.models.video_clips import write_clip
from tests.pipelines.tiny_video_models import save_video_model

CLIPS, TEXTS = 4, ["a dog", "the man in a red house", "a cat", "two dogs in the water", "a ball"]
PAIRS = CLIPS * len(TEXTS)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> str:
    return str(save_video_model(tmp_path_factory.mktemp("model"), "ForVideoTextRetrieval", goldens / "tokenizer"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(write_clip(folder / f"{number}.mp4", frames=4 + number)) for number in range(CLIPS)]


@pytest.fixture
def retriever(repository: str) -> Any:
    return pipeline("video-text-retrieval", model=repository, device="cpu")


@pytest.mark.parametrize("chunk_size", [1, 32])
def test_videos_by_text(retriever: Any, files: list[str], monkeypatch: pytest.MonkeyPatch, chunk_size: int) -> None:
    monkeypatch.setattr(retrieval, "IMAGE_CHUNK_SIZE", chunk_size)
    rows = RowCounter(retriever.model)
    index = retriever.index(videos=files, batch_size=3)
    assert rows.pop_counts() == {"images": CLIPS, "texts": 0, "pairs": 0}
    for _ in range(2):
        retriever(TEXTS, index=index, batch_size=2)
        assert rows.pop_counts() == {"images": 0, "texts": len(TEXTS), "pairs": PAIRS}


def test_texts_by_video(retriever: Any, files: list[str]) -> None:
    rows = RowCounter(retriever.model)
    index = retriever.index(texts=TEXTS)
    assert rows.pop_counts() == {"images": 0, "texts": len(TEXTS), "pairs": 0}
    lengths = retriever.tokenize(TEXTS)["attention_mask"].sum(dim=1).tolist()
    assert [len(states) for states in index.states] == lengths and len(set(lengths)) > 1
    assert all(states.untyped_storage().nbytes() == states.nbytes for states in index.states), "padding is kept"
    results = retriever(files, index=index, batch_size=3)
    assert rows.pop_counts() == {"images": CLIPS, "texts": 0, "pairs": PAIRS}
    without_states = retriever.index(texts=TEXTS, keep_states=False)
    assert without_states.states is None
    rows.pop_counts()
    recomputed = retriever(files, index=without_states, batch_size=3)
    assert rows.pop_counts()["texts"] > 0
    for kept, again in zip(results, recomputed, strict=True):
        assert [row["text"] for row in kept] == [row["text"] for row in again]
        np.testing.assert_allclose([row["score"] for row in kept], [row["score"] for row in again], atol=1e-5)


def test_matching(repository: str, files: list[str]) -> None:
    matcher = pipeline("video-text-matching", model=repository, device="cpu")
    rows = RowCounter(matcher.model)
    matcher(files, text=TEXTS, batch_size=CLIPS)
    assert rows.pop_counts() == {"images": CLIPS, "texts": len(TEXTS), "pairs": PAIRS}
