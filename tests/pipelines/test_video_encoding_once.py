"""Retrieval of videos does no work twice: clips pass the tower once, texts once the layers that read texts alone."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import pipeline

from modeling_lavis import AlproForVideoTextRetrieval, AlproProcessor
from modeling_lavis.evaluation.retrieval import similarity_matrices
from modeling_lavis.pipelines import retrieval
from tests.models.video_clips import write_clip
from tests.pipelines.tiny_video_models import save_video_model

CLIPS, TEXTS = 4, ["a dog", "the man in a red house", "a cat", "two dogs in the water", "a ball"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> str:
    return str(save_video_model(tmp_path_factory.mktemp("model"), "ForVideoTextRetrieval", goldens / "tokenizer"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(write_clip(folder / f"{number}.mp4", frames=4 + number)) for number in range(CLIPS)]


@pytest.fixture
def searcher(repository: str) -> Any:
    return pipeline("video-text-retrieval", model=repository, device="cpu")


class Rows(Counter[str]):
    """How many rows have passed the tower, the lowest layer of texts, and the lowest joint layer."""

    def watch(self, model: AlproForVideoTextRetrieval) -> "Rows":
        layers = model.text_encoder.encoder.layer
        joint = model.config.text_config.fusion_layer
        for name, module in {"clips": model.vision_model, "texts": layers[0], "pairs": layers[joint]}.items():
            module.register_forward_hook(self._counter(name), with_kwargs=True)
        return self

    def _counter(self, name: str) -> Any:
        def count(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            self[name] += next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)).shape[0]

        return count

    def since(self, before: dict[str, int] | None = None) -> dict[str, int]:
        return {name: self[name] - (before or {}).get(name, 0) for name in ("clips", "texts", "pairs")}


@pytest.fixture
def rows(searcher: Any) -> Iterator[Rows]:
    yield Rows().watch(searcher.model)


@pytest.mark.parametrize("k", [2, 10])
def test_evaluation(repository: str, files: list[str], k: int) -> None:
    model, processor = (
        AlproForVideoTextRetrieval.from_pretrained(repository),
        AlproProcessor.from_pretrained(repository),
    )
    inputs = processor(videos=files, text=TEXTS, return_tensors="pt")
    rows = Rows().watch(model.eval())
    found = similarity_matrices(model, inputs["pixel_values_videos"], inputs, k, batch_size=3, text_batch_size=2)
    wanted = int(((found.i2t > -100) | (found.t2i.T > -100)).sum())
    assert rows.since() == {"clips": CLIPS, "texts": len(TEXTS), "pairs": wanted}
    assert wanted == CLIPS * len(TEXTS) if k == 10 else wanted < CLIPS * len(TEXTS)


def test_search_of_clips(searcher: Any, rows: Rows, files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    index = searcher.index(videos=files, batch_size=3)
    assert rows.since() == {"clips": CLIPS, "texts": 0, "pairs": 0}
    monkeypatch.setattr(retrieval, "PICTURES_AT_ONCE", 1)  # clips that are read with a text at once
    for times in (1, 2):
        searcher(TEXTS, index=index, batch_size=2)
        expected = {"texts": len(TEXTS), "pairs": CLIPS * len(TEXTS)}
        assert rows.since() == {"clips": CLIPS, **{name: times * count for name, count in expected.items()}}


def test_search_of_texts(searcher: Any, rows: Rows, files: list[str]) -> None:
    index = searcher.index(texts=TEXTS)
    assert rows.since() == {"clips": 0, "texts": len(TEXTS), "pairs": 0}
    found = searcher(files, index=index, batch_size=3)
    assert rows.since() == {"clips": CLIPS, "texts": len(TEXTS), "pairs": CLIPS * len(TEXTS)}
    without = searcher.index(texts=TEXTS, keep_states=False)
    before = rows.since()
    again = searcher(files, index=without, batch_size=3)
    assert rows.since(before)["texts"] > 0
    for one, other in zip(found, again, strict=True):
        assert [row["text"] for row in one] == [row["text"] for row in other]
        np.testing.assert_allclose([row["score"] for row in one], [row["score"] for row in other], atol=1e-5)


def test_matching(repository: str, files: list[str]) -> None:
    matcher = pipeline("video-text-matching", model=repository, device="cpu")
    rows = Rows().watch(matcher.model)
    matcher(files, text=TEXTS, batch_size=CLIPS)
    assert rows.since() == {"clips": CLIPS, "texts": len(TEXTS), "pairs": CLIPS * len(TEXTS)}
