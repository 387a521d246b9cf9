"""Recall from rows of images or videos with captions.

Shapes: I images, S texts, k candidates per row.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageColumn
from PIL import Image

from modeling_lavis import (
    AlproForVideoTextRetrieval,
    AlproProcessor,
    LavisBlipForImageTextRetrieval,
    LavisBlipProcessor,
)
from modeling_lavis.data.loading import load_data
from modeling_lavis.embedded import embedded_images, embedded_model_path
from modeling_lavis.evaluation.engine import RetrievalEngine
from modeling_lavis.evaluation.metrics import recall_at_k
from modeling_lavis.evaluation.retrieval import RankedCandidates, similarity_matrices
from modeling_lavis.evaluation.retrieval_rows import (
    CaptionedImages,
    evaluate_retrieval,
    recall_of_candidates,
    retrieval_metrics,
)
from tests.evaluation.test_engine import clip, siglip

NAMES = [f"{side}_recall{end}" for side in ("text", "image") for end in ("@1", "@5", "@10", "_mean")]


@pytest.fixture(scope="module")
def blip() -> tuple[Any, Any]:
    model = LavisBlipForImageTextRetrieval.from_pretrained(embedded_model_path(), dtype=torch.float32).eval()
    return model, LavisBlipProcessor.from_pretrained(embedded_model_path())


def emoji_rows() -> list[dict[str, Any]]:
    """Two rows per image; the first has its caption, the other two wrong ones."""
    examples = embedded_images()
    captions = [example.caption for example in examples]
    rows = [{"image": str(image.path), "caption": image.caption, "image_id": image.path.name} for image in examples]
    for number, image in enumerate(examples[:3]):
        wrong = [f"no {captions[number]}", f"not {captions[number - 1]}"]
        rows.append({"image": str(image.path), "caption": wrong, "image_id": image.path.name})
    return rows


def metrics_of_matrices(model: Any, processor: Any, rows: list[dict[str, Any]], k: int) -> dict[str, float]:
    """The same by hand: ground truth as lists, and recall of dense matrices."""
    files = list(dict.fromkeys(row["image"] for row in rows))
    captions = [(row["image"], text) for row in rows for text in np.atleast_1d(row["caption"]).tolist()]
    inputs = processor(images=files, text=[text for _, text in captions], return_tensors="pt")
    matrices = similarity_matrices(model, inputs.pop("pixel_values"), inputs, k)
    texts_of = [[column for column, (file, _) in enumerate(captions) if file == name] for name in files]
    found = (
        recall_at_k(matrices.i2t, texts_of),
        recall_at_k(matrices.t2i, [[files.index(file)] for file, _ in captions]),
    )
    metrics = {
        f"{side}_recall{name.removeprefix('R').replace('@mean', '_mean')}": value
        for side, values in zip(("text", "image"), found, strict=True)
        for name, value in values.items()
    }
    return {**metrics, "recall_mean": (found[0]["R@mean"] + found[1]["R@mean"]) / 2}


def test_equals_matrices_and_hand_made_ground_truth(blip: Any) -> None:
    rows = emoji_rows()
    metrics = evaluate_retrieval(*blip, rows, k=10, batch_size=5, progress=False)
    assert list(metrics) == [*NAMES, "recall_mean"]
    assert metrics == pytest.approx(metrics_of_matrices(*blip, rows, k=10), abs=1e-4)
    assert 50 < metrics["text_recall@1"] and 50 < metrics["image_recall@1"] < 100


def test_every_image_is_encoded_once(blip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = blip
    encoded: list[int] = []
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda images: encoded.append(len(images)) or encode(images))
    evaluate_retrieval(model, processor, emoji_rows(), k=10, progress=False)
    assert sum(encoded) == len(embedded_images()) < len(emoji_rows())


def test_rows_without_ids_and_data_sets(blip: Any, tmp_path: Path) -> None:
    """Without ids each row is an image of its own. Rows of a data set are decoded when they are needed."""
    datasets = pytest.importorskip("datasets")
    rows = [{"image": str(image.path), "caption": image.caption} for image in embedded_images()]
    expected = evaluate_retrieval(*blip, rows, k=10, progress=False)
    assert expected["recall_mean"] > 90
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    assert evaluate_retrieval(*blip, table, k=10, progress=False) == expected
    assert evaluate_retrieval(*blip, iter(rows), k=10, progress=False) == expected
    opened = [{**row, "image": Image.open(row["image"])} for row in rows]
    assert evaluate_retrieval(*blip, opened, k=10, progress=False) == expected


@pytest.mark.slow
def test_rows_that_contain_their_images(blip: Any, tmp_path: Path) -> None:
    """Rows of shards, of Parquet files and of `datasets.Image` give what rows with the paths give."""
    rows = emoji_rows()
    by_path = evaluate_retrieval(*blip, rows, progress=False)
    contents = [{**row, "image": {"bytes": Path(row["image"]).read_bytes(), "path": None}} for row in rows]
    assert evaluate_retrieval(*blip, load_data(contents, "retrieval"), progress=False) == by_path
    assert evaluate_retrieval(*blip, contents, progress=False) == by_path
    texts = [row["caption"] if isinstance(row["caption"], list) else [row["caption"]] for row in rows]
    columns = {name: [row[name] for row in rows] for name in ("image", "image_id")}
    column = Dataset.from_dict({**columns, "caption": texts}).cast_column("image", ImageColumn())
    for data in (column, load_data(column, "retrieval")):
        assert evaluate_retrieval(*blip, data, progress=False) == by_path


def test_bad_rows_are_left_out(blip: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = emoji_rows()
    good = evaluate_retrieval(*blip, rows, progress=False)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = {"image": str(tmp_path / "broken.png"), "caption": "a broken picture", "image_id": "broken"}
    spoiled = [broken, *rows, {**rows[0], "caption": " "}]
    for data in (spoiled, load_data(spoiled, "retrieval"), iter(spoiled)):
        caplog.clear()
        assert evaluate_retrieval(*blip, data, progress=False, on_bad_row="skip") == good
        assert "2 rows are left out, the first of them row 0: Cannot read the image" in caplog.text
    with pytest.raises(OSError, match="Cannot read the image .*broken.png"):
        evaluate_retrieval(*blip, spoiled[:-1], progress=False)
    with pytest.raises(ValueError, match="all 1 rows are bad, the first: row 0: Cannot read"):
        evaluate_retrieval(*blip, [broken], progress=False, on_bad_row="skip")
    with pytest.raises(ValueError, match="on_bad_row is 'keep'; expected 'raise' or 'skip'"):
        evaluate_retrieval(*blip, rows, on_bad_row="keep")


def test_ids_of_data_sets(blip: Any, tmp_path: Path) -> None:
    """Rows of data sets are checked like those of lists; an image without an id is one of its own."""
    row = {**emoji_rows()[0], "caption": "a", "image_id": 3}
    copy = shutil.copyfile(row["image"], tmp_path / "copy.png")
    assert CaptionedImages(load_data([row, {**row, "image": str(copy)}], "retrieval"), blip[1]).owners == [0, 0]
    rows = [{**row, "caption": "a", "image_id": 3} for row in emoji_rows()[:2]]
    with pytest.raises(ValueError, match="rows 0 and 1 have the same image_id 3, but different files"):
        CaptionedImages(load_data(rows, "retrieval"), blip[1])
    rows = [{**row, "image_id": None} for row in emoji_rows()[:2]]
    assert CaptionedImages([*rows, {**rows[0], "image_id": 7}], blip[1]).owners == [0, 1, 2]


def test_workers_load_the_same(blip: Any) -> None:
    rows = emoji_rows()
    expected = evaluate_retrieval(*blip, rows, k=10, batch_size=5, progress=False)
    state = torch.random.get_rng_state()
    assert evaluate_retrieval(*blip, rows, k=10, batch_size=5, num_workers=2, progress=False) == expected
    assert torch.equal(torch.random.get_rng_state(), state)


def test_work_folders_know_captions_and_files(blip: Any, tmp_path: Path) -> None:
    rows = emoji_rows()[:4]
    options: dict[str, Any] = {"k": 10, "work_dir": tmp_path, "progress": False}
    metrics = evaluate_retrieval(*blip, rows, **options)
    assert evaluate_retrieval(*blip, rows, **options) == metrics
    moved = [
        {**row, "image_id": number // 2} | {"image": rows[number // 2 * 2]["image"]} for number, row in enumerate(rows)
    ]
    with pytest.raises(ValueError, match="its number of images was 4, now it is 2"):
        evaluate_retrieval(*blip, moved, **options)
    swapped = [rows[1] | {"caption": rows[0]["caption"]}, rows[0] | {"caption": rows[1]["caption"]}, *rows[2:]]
    with pytest.raises(ValueError, match="its files of images was"):
        evaluate_retrieval(*blip, swapped, **options)


def test_videos(tmp_path: Path, goldens: Path) -> None:
    pytest.importorskip("av")
    from tests.models.video_clips import write_clip
    from tests.pipelines.tiny_video_models import save_video_model

    folder = save_video_model(tmp_path / "model", "ForVideoTextRetrieval", goldens / "tokenizer")
    model, processor = AlproForVideoTextRetrieval.from_pretrained(folder), AlproProcessor.from_pretrained(folder)
    files = [str(write_clip(tmp_path / f"{number}.mp4", frames=6 + number)) for number in range(3)]
    rows = [{"video": file, "video_id": file, "caption": text} for file in files for text in ("a dog", "the red house")]
    rows[0] |= {"start": 0.0, "end": 0.1}
    metrics = evaluate_retrieval(model, processor, rows, batch_size=2, progress=False)
    assert list(metrics) == [*NAMES, "recall_mean"] and metrics["text_recall@10"] == 100
    images = CaptionedImages(rows, processor)
    assert len(images) == 3 and images.owners == [0, 0, 1, 1, 2, 2]
    assert images[[0, 2]].shape == (2, 3, 3, 32, 32)
    cut = processor.video_processor(videos=[files[0]], start=0.0, end=0.1, return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(images[[0]], cut)
    assert not torch.equal(
        cut, processor.video_processor(videos=[files[0]], return_tensors="pt")["pixel_values_videos"]
    )
    contents = [{**row, "video": Path(row["video"]).read_bytes()} for row in rows]
    data = load_data(contents, "video-retrieval")
    assert evaluate_retrieval(model, processor, data, batch_size=2, progress=False, on_bad_row="skip") == metrics
    with pytest.raises(ValueError, match="a column 'image', but AlproForVideoTextRetrieval takes videos"):
        evaluate_retrieval(model, processor, [{"image": "a.jpg", "caption": "a dog"}])


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_models_of_transformers(name: str, photos: dict[str, Path], goldens: Path) -> None:
    """Their processors pad texts to a fixed length, and get images in RGB."""
    from transformers import CLIPImageProcessor, CLIPProcessor, SiglipImageProcessor, SiglipProcessor

    from modeling_lavis.models.tokenization_lavis import bert_tokenizer

    model = {"clip": clip, "siglip": siglip}[name](vocabulary=700)
    tokenizer, size = bert_tokenizer(str(goldens / "tokenizer")), {"height": 32, "width": 32}
    if name == "clip":
        processor: Any = CLIPProcessor(CLIPImageProcessor(size=size, crop_size=size), tokenizer)
    else:
        tokenizer.model_input_names = ["input_ids"]
        processor = SiglipProcessor(SiglipImageProcessor(size=size), tokenizer)
    rows = [{"image": str(path), "caption": [f"a {stem}", "a"]} for stem, path in photos.items()]
    images = CaptionedImages(rows, processor, RetrievalEngine(model).encoder.fixed_text_length)
    texts = images.texts()
    assert texts["input_ids"].shape == (2 * len(rows), 10)
    assert ("attention_mask" in texts) == (name == "clip")
    assert images[[0, 1]].shape == (2, 3, 32, 32)
    metrics = evaluate_retrieval(model, processor, rows, progress=False)
    assert list(metrics) == [*NAMES, "recall_mean"] and metrics["text_recall@10"] == 100
    contents = [{**row, "image": Path(row["image"]).read_bytes()} for row in rows]
    assert evaluate_retrieval(model, processor, load_data(contents, "retrieval"), progress=False) == metrics


# ---- recall of sparse results ----


@pytest.mark.parametrize("k", [10, 12, 30])
def test_recall_of_candidates_equals_that_of_dense_scores(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(50, 30, generator=generator)
    relevant = [torch.randperm(30, generator=generator)[:3].tolist() for _ in range(50)]
    best = scores.topk(k, dim=1)
    ranked = RankedCandidates(best.indices, best.values, best.values)
    assert recall_of_candidates(ranked, relevant, (1, 5, 10)) == pytest.approx(recall_at_k(scores, relevant))


def test_rows_without_relevant_candidates_are_misses() -> None:
    """Also if there are fewer candidates than K."""
    ranked = RankedCandidates(*[torch.tensor([[4, 2], [1, 0]])] * 3)
    found = recall_of_candidates(ranked, [[0, 1], [0]], (1, 2, 5))
    assert found == pytest.approx({"R@1": 0.0, "R@2": 50.0, "R@5": 50.0, "R@mean": 100 / 3})


def test_retrieval_metrics() -> None:
    """Two images, the first with texts 0 and 1."""
    i2t, t2i = torch.tensor([[1, 2, 0], [0, 1, 2]]), torch.tensor([[0, 1], [1, 0], [0, 1]])
    metrics = retrieval_metrics(RankedCandidates(i2t, i2t, i2t), RankedCandidates(t2i, t2i, t2i), [0, 0, 1], (1, 2))
    assert metrics == pytest.approx(
        {
            "text_recall@1": 50.0,
            "text_recall@2": 50.0,
            "text_recall_mean": 50.0,
            "image_recall@1": 100 / 3,
            "image_recall@2": 100.0,
            "image_recall_mean": 200 / 3,
            "recall_mean": 175 / 3,
        }
    )


# ---- wrong inputs ----

ROW = {"image": "a.jpg", "caption": "a dog"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "There are no rows"),
        ([{"image": "a.jpg", "text": "a dog"}], "columns image, text; expected image"),
        ([{"caption": "a dog"}], "columns caption; expected image"),
        ([{**ROW, "caption": ""}], "Row 0 has the caption ''"),
        ([ROW, {**ROW, "caption": ["a", None]}], "Row 1 has the caption"),
        ([ROW, {**ROW, "caption": []}], "Row 1 has no caption"),
        ([{**ROW, "image_id": 3}, ROW], "Row 1 has no image_id, but row 0 has one"),
        ([ROW, {**ROW, "image_id": 3}], "Row 0 has no image_id, but row 1 has one"),
        (
            [{**ROW, "image_id": 3}, {"image": "b.jpg", "caption": "a", "image_id": 3}],
            "rows 0 and 1 have the same image_id 3, but different files: a.jpg and b.jpg",
        ),
    ],
)
def test_wrong_rows(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaptionedImages(rows, processor=None)


@pytest.mark.parametrize("rows", ["rows.json", {"image": "a.jpg"}, 3])
def test_rows_of_a_wrong_type(rows: Any) -> None:
    with pytest.raises(TypeError, match=f"rows is a {type(rows).__name__}"):
        CaptionedImages(rows, processor=None)


def test_wrong_options(blip: Any) -> None:
    with pytest.raises(ValueError, match="k is 4, too few candidates for recall at 10"):
        evaluate_retrieval(*blip, emoji_rows(), k=4)
    with pytest.raises(ValueError, match=r"ranks is \(0, 1\)"):
        evaluate_retrieval(*blip, emoji_rows(), ranks=(0, 1))
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        evaluate_retrieval(*blip, [{"image": "missing.jpg", "caption": "a dog"}], progress=False)
