"""Tasks on ALPRO models, from video files to results."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from modeling_lavis import AlproForVideoTextRetrieval, AlproProcessor
from tests.models.video_clips import numbered_frame, write_clip
from tests.pipelines.tiny_video_models import ANSWERS, save_video_model


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> dict[str, str]:
    """Folders of tiny models by the names of their classes."""
    return {
        f"Alpro{head}": str(save_video_model(tmp_path_factory.mktemp(head), head, goldens / "tokenizer"))
        for head in ("ForVideoQuestionAnswering", "ForVideoTextRetrieval", "Model")
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("videos")
    names = [("first.mp4", 20), ("second.mkv", 9), ("third.mp4", 2)]
    return [str(write_clip(folder / name, frames=frames)) for name, frames in names]


@pytest.fixture(scope="module")
def answerer(repository: dict[str, str]) -> Any:
    return pipeline("video-question-answering", model=repository["AlproForVideoQuestionAnswering"], device="cpu")


@pytest.fixture(scope="module")
def retriever(repository: dict[str, str]) -> Any:
    return pipeline("video-text-retrieval", model=repository["AlproForVideoTextRetrieval"], device="cpu")


def close(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    return [{**row, "score": 0} for row in left] == [{**row, "score": 0} for row in right] and np.allclose(
        [row["score"] for row in left], [row["score"] for row in right], atol=1e-5
    )


def test_answers(answerer: Any, files: list[str]) -> None:
    single = answerer(files[0], question="what is it doing?")
    assert {row["answer"] for row in single} == set(ANSWERS.values())
    assert sum(row["score"] for row in single) == pytest.approx(1)
    assert [row["score"] for row in single] == sorted((row["score"] for row in single), reverse=True)
    batched = answerer(files, question="what is it doing?", batch_size=2, top_k=1)
    assert len(batched) == 3 and all(len(rows) == 1 for rows in batched)
    assert close(batched[0], single[:1])
    several = answerer(files[0], question=["what is it doing?", "is it asleep?"])
    assert len(several) == 2 and close(several[0], single)
    row = answerer({"video": files[0], "question": "what is it doing?"})
    assert close(row, single)
    part = answerer(files[0], question="what is it doing?", start=1.0)
    assert not close(part, single)


def test_types_of_videos(answerer: Any, files: list[str]) -> None:
    frames = [numbered_frame(number) for number in range(5)]
    images = [Image.fromarray(frame) for frame in frames]
    expected = answerer(np.stack(frames), question="who?")
    assert close(answerer(frames, question="who?"), expected)
    assert close(answerer(images, question="who?"), expected)
    gray = np.stack(frames)[..., 0]
    assert close(answerer(gray, question="who?"), answerer(np.stack([gray] * 3, axis=-1), question="who?"))
    both = answerer([images, files[0]], question="who?")
    assert len(both) == 2 and close(both[0], expected)
    stream = answerer({"video": name, "question": "who?"} for name in files)
    assert len(list(stream)) == 3


def test_corrupt_videos(answerer: Any, retriever: Any, files: list[str], tmp_path: Path) -> None:
    (tmp_path / "corrupt.mp4").write_bytes(b"not a video")
    corrupt = str(tmp_path / "corrupt.mp4")
    with pytest.raises(OSError, match="corrupt.mp4"):
        answerer(corrupt, question="who?")
    rows = answerer([corrupt, files[0]], question="who?", on_error="return")
    assert "corrupt.mp4" in rows[0]["error"] and len(rows[1]) == 3
    results = retriever("a dog", videos=[corrupt, files[0]], on_error="return")
    assert [row["video"] for row in results] == [files[0]]
    index = retriever.index(videos=[corrupt, files[0]], on_error="return")
    assert index.items == [files[0]] and "corrupt.mp4" in index.failures[0][1]
    with pytest.raises(ValueError, match="question"):
        answerer(files[0])


def test_retrieval(retriever: Any, files: list[str]) -> None:
    index = retriever.index(videos=files, batch_size=2)
    assert index.kind == "video" and len(index) == 3
    found = retriever("a red ball", index=index, top_k=2)
    assert len(found) == 2 and found[0]["score"] >= found[1]["score"] and found[0]["video"] in files
    repeated = retriever("a red ball", videos=files, top_k=2)
    assert [row["index"] for row in repeated] == [row["index"] for row in found]
    without_rerank = retriever("a red ball", index=index, rerank=False)
    assert all(row["score"] == row["similarity"] for row in without_rerank)
    texts = retriever(files[0], texts=["a red ball", "a dog"])
    assert {row["text"] for row in texts} == {"a red ball", "a dog"}
    by_video = retriever(files[0], index=index, query_type="video", top_k=1)
    assert by_video[0]["index"] == 0 and by_video[0]["similarity"] == pytest.approx(1, abs=1e-4)
    without_states = retriever.index(videos=files, keep_states=False)
    other = retriever("a red ball", index=without_states, top_k=2)
    assert [row["score"] for row in other] == pytest.approx([row["score"] for row in found], abs=1e-4)


def test_unsupported_head(repository: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="ForVideoTextRetrieval"):
        pipeline("video-text-retrieval", model=repository["AlproForVideoQuestionAnswering"], device="cpu")


def test_matching(repository: dict[str, str], files: list[str]) -> None:
    folder, texts = repository["AlproForVideoTextRetrieval"], ["a dog", "the man in a red house"]
    matcher = pipeline("video-text-matching", model=folder, device="cpu")
    rows = matcher(files, text=texts, batch_size=2)
    assert [[row["text"] for row in matches] for matches in rows] == [texts] * 3
    model, processor = AlproForVideoTextRetrieval.from_pretrained(folder), AlproProcessor.from_pretrained(folder)
    inputs = processor(videos=[files[0]] * 2, text=texts, return_tensors="pt")
    output = model.eval()(**inputs, match_head="both")
    assert [row["score"] for row in rows[0]] == pytest.approx(output.logits.softmax(-1)[:, 1].tolist(), abs=1e-5)
    cosines = (output.video_features * output.text_features).sum(-1)
    assert [row["similarity"] for row in rows[0]] == pytest.approx(cosines.tolist(), abs=1e-5)
    part = matcher({"video": files[0], "text": "a dog", "start": 1.0})
    assert len(part) == 1 and part[0]["similarity"] != rows[0][0]["similarity"]
    assert matcher(files[0], text="a dog", start=1.0) == part


@pytest.mark.parametrize("head", ["AlproModel", "AlproForVideoTextRetrieval"])
def test_features(repository: dict[str, str], files: list[str], head: str) -> None:
    extractor = pipeline("multimodal-feature-extraction", model=repository[head], device="cpu")
    both = extractor(files[:2], text="a dog", return_tensors="pt", batch_size=2)
    assert [set(row) for row in both] == [{"video_features", "text_features", "multimodal_embeds"}] * 2
    assert both[0]["video_features"].norm().item() == pytest.approx(1, abs=1e-5)
    video = extractor(files[0], return_tensors="pt")
    assert set(video) == {"video_features"}
    np.testing.assert_allclose(video["video_features"], both[0]["video_features"], atol=1e-5)
    states = extractor({"video": files[0], "start": 1.0}, features="video_embeds", pool=False, return_tensors="np")
    assert states["video_embeds"].shape == (5, 32)
    assert set(extractor(text=["a dog", "a cat"])[1]) == {"text_features"}
    with pytest.raises(ValueError, match="image_features.*video_features"):
        extractor(files[0], features="image_features")
    with pytest.raises(ValueError, match="neither 'video' nor 'text'"):
        extractor({"image": files[0]})
