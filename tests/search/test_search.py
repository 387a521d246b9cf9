"""Index and search with the embedded model, from Python."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from modeling_lavis.embedded import embedded_images, embedded_model_path
from modeling_lavis.pipelines.loading import load
from modeling_lavis.pipelines.retrieval import RetrievalIndex
from modeling_lavis.search import Searcher, SearchIndex, build_index, near_duplicates, remove_from_index
from tests.data.data_files import write_shard

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def retriever() -> Any:
    return load("image-text-retrieval", embedded_model_path(), device="cpu")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, image in enumerate(embedded_images()[:6]):
        with PIL.Image.open(image.path) as opened:
            opened.convert("RGB").save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_search_equals_the_pipeline(pictures: Path, retriever: Any, tmp_path: Path) -> None:
    made = build_index(pictures, retriever, tmp_path / "index", batch_size=4)
    assert (made.items, made.added, made.failed, made.search) == (6, 6, 1, "exact")
    assert "broken.png" in Path(made.failures).read_text()
    assert sorted(os.listdir(tmp_path / "index")) == [
        ".lock",
        "failures.jsonl",
        "index.json",
        "rows-1.parquet",
        "vectors-1.npy",
    ]
    expected = retriever.index(images=[str(pictures / f"{number}.png") for number in range(6)])
    searcher = Searcher(tmp_path / "index", device="cpu")
    text = embedded_images()[2].caption
    for rerank in (True, False):
        found = searcher(text, top_k=3, num_candidates=4, rerank=rerank)
        wanted = retriever(text, index=expected, top_k=3, num_candidates=4, rerank=rerank)
        assert [entry["file"] for entry in found] == [entry["image"] for entry in wanted]
        for key in ("score", "similarity"):
            assert [entry[key] for entry in found] == pytest.approx([entry[key] for entry in wanted], abs=1e-4)
    assert searcher(medium=str(pictures / "4.png"), top_k=1)[0]["row"] == 4
    both = searcher(text, str(pictures / "2.png"), top_k=1)
    assert both[0]["row"] == 2 and both[0]["state"] == "unchanged"
    with pytest.raises(ValueError, match="nothing to search"):
        searcher()


def test_updates(pictures: Path, retriever: Any, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build_index(pictures, retriever, folder)
    before = np.array(SearchIndex(folder).files.vectors)
    again = build_index(pictures, retriever, folder)
    assert (again.items, again.added, again.failed) == (6, 0, 1)
    shutil.copy(pictures / "0.png", pictures / "1.png")  # changes it
    shutil.copy(pictures / "0.png", pictures / "9.png")
    (pictures / "3.png").unlink()
    index = SearchIndex(folder)
    assert index.changes() == {"changed": [str(pictures / "1.png")], "missing": [str(pictures / "3.png")]}
    made = build_index(pictures, retriever, folder)
    assert (made.items, made.added, made.missing) == (7, 2, 1)
    index = SearchIndex(folder)
    by_name = {Path(index.record(row)["file"]).stem: index.files.vectors[row] for row in range(7)}
    assert sorted(by_name) == ["0", "1", "2", "3", "4", "5", "9"]
    for number in (0, 2, 3, 4, 5):
        np.testing.assert_array_equal(by_name[str(number)], before[number])
    np.testing.assert_allclose(by_name["1"], before[0], atol=1e-5)
    groups = [sorted(Path(index.record(row)["file"]).stem for row in rows) for rows in near_duplicates(index, 1.0)]
    assert groups == [["0", "1", "9"]]
    made = remove_from_index(folder, [str(pictures / "9.png")], missing=True)
    assert (made.items, made.removed) == (5, 2)
    with pytest.raises(ValueError, match=r"has no 'x\.png'"):
        remove_from_index(folder, ["x.png"])


def test_stored_and_recomputed_states_give_equal_scores(pictures: Path, retriever: Any, tmp_path: Path) -> None:
    text = embedded_images()[2].caption
    (states,) = retriever.index(images=[str(pictures / "0.png")]).states
    found = {}
    for budget, count in ((0, 0), (3 * states.nbytes, 3), (10**9, 6)):
        index = tmp_path / str(budget)
        assert build_index(pictures, retriever, index, disk_budget=budget).with_states == count
        found[budget] = Searcher(index, retriever)(text, top_k=6)
    for results in found.values():
        assert [entry["row"] for entry in results] == [entry["row"] for entry in found[0]]
        for key in ("score", "similarity"):
            assert [entry[key] for entry in results] == pytest.approx([entry[key] for entry in found[0]], abs=1e-4)
    for path in pictures.iterdir():
        path.unlink()
    without = Searcher(tmp_path / str(10**9), retriever)(text, top_k=6)
    assert [entry["score"] for entry in without] == [entry["score"] for entry in found[10**9]]
    assert {entry["state"] for entry in without} == {"missing"}


def test_missing_and_broken_candidates(
    pictures: Path, retriever: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_index(pictures, retriever, tmp_path / "index")
    (pictures / "2.png").unlink()
    (pictures / "4.png").write_bytes(b"no image")
    shutil.copy(pictures / "0.png", pictures / "1.png")
    found = Searcher(tmp_path / "index", retriever)(embedded_images()[2].caption, top_k=6)
    states = {entry["row"]: entry["state"] for entry in found}
    assert states == {0: "unchanged", 1: "changed", 2: "missing", 3: "unchanged", 4: "unreadable", 5: "unchanged"}
    assert [entry["row"] for entry in found[-2:]] == [2, 4], "by their similarity, after those that are ranked again"
    for name, what in (("1", "has changed"), ("2", "does not exist any more"), ("4", "cannot be read any more")):
        assert f"{pictures / name}.png {what}" in caplog.text


def test_other_models(pictures: Path, retriever: Any, tmp_path: Path) -> None:
    build_index(pictures, retriever, tmp_path / "index")
    other = load("image-text-retrieval", embedded_model_path(), device="cpu")
    with torch.no_grad():
        next(iter(other.model.parameters())).mul_(1.5)
    with pytest.raises(ValueError, match="another model: its weights differ"):
        Searcher(tmp_path / "index", other)
    with pytest.raises(ValueError, match="another model: its weights differ"):
        build_index(pictures, other, tmp_path / "index")


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_indexes_of_the_pipeline_are_saved(pictures: Path, retriever: Any, tmp_path: Path, kind: str) -> None:
    if kind == "images":
        index, query = retriever.index(images=[str(pictures / f"{number}.png") for number in range(4)]), "a dog"
    else:
        index, query = (
            retriever.index(texts=[image.caption for image in embedded_images()[:4]]),
            str(pictures / "1.png"),
        )
    index.save(tmp_path / "saved")
    loaded = RetrievalIndex.load(tmp_path / "saved")
    assert loaded.items == index.items and (loaded.states is None) == (index.states is None)
    assert retriever(query, index=loaded) == retriever(query, index=index)
    index.save(tmp_path / "saved")  # in its own place


def test_images_in_memory_are_not_saved(retriever: Any, tmp_path: Path) -> None:
    index = retriever.index(images=[PIL.Image.new("RGB", (8, 8))])
    with pytest.raises(ValueError, match="expected paths or URLs"):
        index.save(tmp_path / "saved")


def test_another_kind_of_search(pictures: Path, retriever: Any, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    build_index(pictures, retriever, tmp_path / "index")
    made = build_index(pictures, retriever, tmp_path / "index", index="flat")
    assert (made.search, made.added) == ("Flat", 0)
    shutil.copy(pictures / "0.png", pictures / "new.png")
    made = build_index(pictures, retriever, tmp_path / "index")  # it stays, and is extended
    assert (made.search, made.items, made.added) == ("Flat", 7, 1)
    searcher = Searcher(tmp_path / "index", retriever)
    for exact in (True, False):
        found = searcher(medium=str(pictures / "new.png"), top_k=2, exact=exact)
        assert {Path(entry["file"]).stem for entry in found} == {"0", "new"}
    assert remove_from_index(tmp_path / "index", [str(pictures / "0.png")]).search == "Flat"
    found = searcher(medium=str(pictures / "new.png"), top_k=2)
    assert {Path(entry["file"]).stem for entry in found} == {"0", "new"}, "who has it open searches on"
    assert Searcher(tmp_path / "index", retriever)(medium=str(pictures / "0.png"), top_k=1)[0]["row"] == 5
    assert build_index(pictures, retriever, tmp_path / "index", index="exact").search == "exact"
    assert not list((tmp_path / "index").glob("*.faiss"))


def test_records_of_one_name_are_different_items(pictures: Path, retriever: Any, tmp_path: Path) -> None:
    rows = [PIL.Image.open(pictures / f"{number}.png") for number in range(3)]
    made = build_index(rows, retriever, tmp_path / "index")
    assert made.items == 3
    index = SearchIndex(tmp_path / "index")
    assert index.record(2)["path"] is None and index.state(2) == "unknown"
    found = Searcher(index, retriever)(embedded_images()[1].caption, top_k=3)
    assert found[0]["row"] == 1 and found[0]["score"] == found[0]["similarity"]  # there is no file to read again
    folders = []
    for name in ("one", "two"):
        folders.append(tmp_path / name / "0.tar")
        folders[-1].parent.mkdir()
        write_shard(folders[-1], {"0": {"png": (pictures / f"{len(folders)}.png").read_bytes()}})
    data = [str(folder) for folder in folders]
    assert build_index(data, retriever, tmp_path / "shards").items == 2
    assert build_index(data, retriever, tmp_path / "shards").items == 2
    vectors = SearchIndex(tmp_path / "shards").files.vectors
    np.testing.assert_allclose(vectors, index.files.vectors[1:], atol=1e-5)


def test_what_cannot_be_indexed(pictures: Path, retriever: Any, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="is not an index and is not empty"):
        build_index(pictures, retriever, pictures)
    for _ in range(2):  # the second time it is read again
        with pytest.raises(ValueError, match="nothing that can be read"):
            build_index(pictures / "broken.png", retriever, tmp_path / "index")
    shutil.copy(pictures / "0.png", pictures / "broken.png")
    assert build_index(pictures / "broken.png", retriever, tmp_path / "index").items == 1
    with pytest.raises(ValueError, match="keep cannot be used for an index"):
        build_index(pictures, retriever, tmp_path / "index", keep=["x"])
    with pytest.raises(ValueError, match="columns has question"):
        build_index(pictures, retriever, tmp_path / "index", columns={"question": "q"})
