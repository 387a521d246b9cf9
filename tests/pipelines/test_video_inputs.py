"""Time ranges of videos, arrays that hold several inputs, and video models where images are expected."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, pipeline

from modeling_lavis import LavisTimesformerModel, LavisVideoProcessor
from tests.models.video_clips import write_clip
from tests.pipelines.tiny_models import save_model
from tests.pipelines.tiny_video_models import save_video_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> str:
    return str(save_video_model(tmp_path_factory.mktemp("video"), "ForVideoTextRetrieval", goldens / "tokenizer"))


@pytest.fixture(scope="module")
def retriever(folder: str) -> Any:
    return pipeline("video-text-retrieval", model=folder, device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=40))


@pytest.mark.parametrize("keep_states", [True, False])
def test_rows_of_a_collection_keep_their_time_range(retriever: Any, clip: str, keep_states: bool) -> None:
    rows = [{"video": clip}, {"video": clip, "start": 2.0}, {"video": clip, "start": 0.0, "end": 0.5}]
    index = retriever.index(videos=rows, keep_states=keep_states)
    matcher = pipeline("video-text-matching", model=retriever.model, processor=retriever.processor, device="cpu")
    expected = [rows[0]["similarity"] for rows in matcher([{**row, "text": "a dog"} for row in rows])]
    assert len(set(expected)) == 3
    found = {row["index"]: row for row in retriever("a dog", index=index)}
    for number, row in enumerate(rows):
        assert found[number]["similarity"] == pytest.approx(expected[number], abs=1e-5)
        assert {name: found[number].get(name) for name in ("video", "start", "end")} == {
            "video": clip,
            "start": row.get("start"),
            "end": row.get("end"),
        }
    scores = [found[number]["score"] for number in range(3)]
    kept = {row["index"]: row["score"] for row in retriever("a dog", videos=rows)}
    assert scores == pytest.approx([kept[number] for number in range(3)], abs=1e-5)


def test_a_time_range_that_cannot_be_used(retriever: Any, clip: str) -> None:
    with pytest.raises(ValueError, match="None of its 40 frames is shown between start=50"):
        retriever.index(videos=[{"video": clip, "start": 50}])
    index = retriever.index(videos=[{"video": clip, "start": 50}, {"video": clip}], on_error="return")
    assert index.items == [clip] and index.failures[0][0] == {"video": clip, "start": 50}


@pytest.mark.parametrize("head", ["Model", "ForVideoTextRetrieval", "ForVideoQuestionAnswering"])
def test_image_feature_extraction_refuses_videos(tmp_path: Path, goldens: Path, head: str) -> None:
    folder = save_video_model(tmp_path / "model", head, goldens / "tokenizer")
    with pytest.raises(LookupError, match="'alpro' takes videos, not images. Use the task multimodal-feature-extract"):
        pipeline("image-feature-extraction", model=str(folder), device="cpu")
    AutoModel.from_pretrained(folder).vision_model.save_pretrained(tmp_path / "encoder")
    LavisVideoProcessor().save_pretrained(tmp_path / "encoder")
    with pytest.raises(LookupError, match="'lavis_timesformer' takes videos, not images. Use AutoModel and AutoVideo"):
        pipeline("image-feature-extraction", model=str(tmp_path / "encoder"), device="cpu")
    assert isinstance(AutoModel.from_pretrained(tmp_path / "encoder"), LavisTimesformerModel)


def test_image_feature_extraction_reports_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError), match=tmp_path.name):
        pipeline("image-feature-extraction", model=str(tmp_path), device="cpu")


def test_one_array_has_one_range(goldens: Path, tmp_path: Path, folder: str) -> None:
    """A black image of a batch in 0..255 stays black, as it does for the processors."""
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    images[0] = 1
    extractor = pipeline(
        "multimodal-feature-extraction", model=str(save_model(tmp_path, "Model", goldens / "tokenizer")), device="cpu"
    )
    expected = extractor(images, return_tensors="np")
    for batch in (images.astype(np.float32), torch.from_numpy(images).int(), images.astype(np.int16)):
        for found, row in zip(extractor(batch, return_tensors="np"), expected, strict=True):
            np.testing.assert_array_equal(found["image_features"], row["image_features"])
    videos = np.stack([images, np.roll(images, 1, 0), np.ones_like(images)])
    matcher = pipeline("video-text-matching", model=folder, device="cpu")
    assert matcher(videos.astype(np.float32), text="a dog") == matcher(videos, text="a dog")


def test_a_pair_is_one_array(goldens: Path, tmp_path: Path) -> None:
    folder = save_model(tmp_path, "ForImagesAndTextClassification", goldens / "tokenizer")
    run = pipeline("image-pair-classification", model=str(folder), device="cpu")
    pair = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    pair[0] = 1
    wide = pair.astype(np.float32)
    expected = run(pair, text="a dog")
    assert run(wide, text="a dog") == expected and run({"images": wide, "text": "a dog"}) == expected
    assert run(wide[None], text="a dog") == [expected] and run([wide], text="a dog") == [expected]
