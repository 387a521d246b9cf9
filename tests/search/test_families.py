"""Indexes of videos, and of images with several features."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_lavis.pipelines.loading import load
from modeling_lavis.search import Searcher, SearchIndex, build_index, near_duplicates
from tests.models.video_clips import write_clip
from tests.pipelines.albef_models import convert_recorded
from tests.pipelines.tiny_video_models import save_video_model

pytestmark = pytest.mark.slow


def equal(found: list[dict[str, Any]], wanted: list[dict[str, Any]], kind: str) -> None:
    assert [entry["file"] for entry in found] == [entry[kind] for entry in wanted]
    for key in ("score", "similarity"):
        assert [entry[key] for entry in found] == pytest.approx([entry[key] for entry in wanted], abs=1e-4)


def test_videos(tmp_path: Path, goldens: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "films").mkdir()
    clips = [str(tmp_path / "films" / f"{number}.mp4") for number in range(3)]
    for number, clip in enumerate(clips):
        write_clip(Path(clip), frames=8 + 4 * number)
    model = save_video_model(tmp_path / "model", "ForVideoTextRetrieval", goldens / "tokenizer")
    retriever = load("video-text-retrieval", model, device="cpu")
    made = build_index(tmp_path / "films", model, tmp_path / "index", device="cpu")
    assert (made.items, made.failed) == (3, 0)
    wanted = retriever("a dog", index=retriever.index(videos=clips), top_k=3)
    equal(Searcher(tmp_path / "index", device="cpu")("a dog", top_k=3), wanted, "video")
    rows = [{"video": clips[0], "start": 0.0, "end": 0.1}, {"video": clips[0]}]
    build_index(rows, retriever, tmp_path / "parts")
    index = SearchIndex(tmp_path / "parts")
    assert index.item(0) == rows[0] and index.item(1) == clips[0]
    found = Searcher(index, retriever)("a dog", top_k=2)
    assert sorted(entry.get("end", 0) for entry in found) == [0, 0.1]


def test_several_features_per_image(tmp_path: Path, goldens: Path, photos: dict[str, Path]) -> None:
    model = convert_recorded(goldens, "blip2_image_text_matching", tmp_path / "model")
    retriever = load("image-text-retrieval", model, device="cpu")
    files = [str(path) for path in list(photos.values())[:4]]
    build_index(files, retriever, tmp_path / "index")
    index = SearchIndex(tmp_path / "index")
    assert index.files.vectors.ndim == 3
    wanted = retriever("a dog", index=retriever.index(images=files), top_k=4)
    searcher = Searcher(index, retriever)
    equal(searcher("a dog", top_k=4), wanted, "image")
    for options in ({"medium": files[0]}, {"text": "a dog", "medium": files[0]}):
        with pytest.raises(ValueError, match="several features per image"):
            searcher(**options)
    vectors = np.array(index.files.vectors)
    similarities = np.einsum("aqp,bqp->abq", vectors, vectors).mean(-1)
    threshold = float(np.sort(similarities[np.triu_indices(len(files), 1)])[-1]) - 1e-4
    first, second = np.argwhere(np.triu(similarities > threshold, 1))[0].tolist()
    assert near_duplicates(index, threshold) == [[first, second]]
