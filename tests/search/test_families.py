"""Indexes of videos, and of images with several features."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from modeling_lavis.cli.contact_sheet import item_image
from modeling_lavis.cli.main import main
from modeling_lavis.pipelines.loading import load
from modeling_lavis.search import Searcher, SearchIndex, build_index, near_duplicates
from tests.models.video_clips import frame_number, write_clip
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
    assert build_index(rows, retriever, tmp_path / "stored", disk_budget=10**9).with_states == 2
    stored = Searcher(tmp_path / "stored", retriever)("a dog", top_k=2)
    for key in ("score", "similarity"):
        assert [entry[key] for entry in stored] == pytest.approx([entry[key] for entry in found], abs=1e-4)


def test_contact_sheets_of_videos(
    tmp_path: Path, goldens: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    Path("films").mkdir()
    write_clip(Path("films", "0.mp4"), frames=9)
    write_clip(Path("films", "1.mp4"), frames=20)
    assert frame_number(np.asarray(item_image("films/1.mp4", "video"))) == 10, "the middle one"
    part = {"video": "films/1.mp4", "start": 0.0, "end": 0.1}
    assert frame_number(np.asarray(item_image(part, "video"))) < 5
    with pytest.raises(ValueError, match="has no frame between start=90.0"):
        item_image({**part, "start": 90.0, "end": None}, "video")
    model = save_video_model(tmp_path / "model", "ForVideoTextRetrieval", goldens / "tokenizer")
    build_index("films", model, "index", device="cpu")
    query = ["search", "index", "a dog", "--device", "cpu", "--sheet", "sheet.png"]
    assert main(query) == 0
    with PIL.Image.open("sheet.png") as sheet:
        assert sheet.size[0] > 2 * 260 and len(sheet.getcolors(2**20) or []) > 50
    Path("films", "0.mp4").write_bytes(b"no video")
    capfd.readouterr()
    assert main(query) == 1
    assert "films/0.mp4 cannot be read any more" in capfd.readouterr().err


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


@pytest.mark.parametrize("name", ["albef_retrieval", "blip_retrieval", "blip2_image_text_matching"])
def test_hidden_states_in_half_precision(tmp_path: Path, goldens: Path, photos: dict[str, Path], name: str) -> None:
    """They are stored in float32; scores are those of states that are computed again, and a CPU can use a GPU's."""
    model = convert_recorded(goldens, name, tmp_path / "model")
    files = [str(path) for path in list(photos.values())[:3]]
    half = load("image-text-retrieval", model, device="cpu", dtype="bfloat16")
    build_index(files, half, tmp_path / "stored", disk_budget=10**9, batch_size=1)
    build_index(files, half, tmp_path / "without", batch_size=1)
    found, wanted = (Searcher(tmp_path / folder, half)("a dog", top_k=3) for folder in ("stored", "without"))
    assert half.model.dtype == torch.bfloat16
    equal(found, [{**entry, "image": entry["file"]} for entry in wanted], "image")
    single = Searcher(tmp_path / "stored", model, device="cpu", dtype="float32")
    assert single.pipe.model.dtype == torch.float32
    assert sorted(entry["row"] for entry in single("a dog", top_k=3)) == [0, 1, 2]
