"""Bad rows: found before training, or skipped, counted and reported in it."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from modeling_lavis import AlproProcessor, LavisVideoProcessor
from modeling_lavis.data.checks import SkipBadRows, check_data
from modeling_lavis.data.collation import make_collator
from modeling_lavis.data.columns import DataError
from modeling_lavis.data.loading import load_data
from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
from modeling_lavis.models.processing_lavis_blip import LavisBlipProcessor
from modeling_lavis.models.tokenization_lavis import bert_tokenizer, blip_tokenizer
from tests.data.data_files import caption_rows, encoded, write_json, write_pictures, write_shard
from tests.models.video_clips import write_clip


@pytest.fixture(scope="module")
def processor(goldens: Path) -> LavisBlipProcessor:
    return LavisBlipProcessor(LavisImageProcessor(size=16), blip_tokenizer(goldens / "tokenizer"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images, two of them broken in different ways."""
    names = write_pictures(tmp_path)
    (tmp_path / names[1]).write_bytes(b"not an image")
    content = (tmp_path / names[2]).read_bytes()
    (tmp_path / names[2]).write_bytes(content[: len(content) // 2])
    write_json(tmp_path / "train.json", [*caption_rows(names), {"image": "none.png", "caption": "nothing"}])
    return tmp_path


# ---- before training ----


def test_missing_and_broken_images(folder: Path) -> None:
    data = load_data(folder / "train.json", "captioning")
    report = check_data(data, "captioning")
    assert report.num_rows == 5 and report.counts == {"media": 3}
    assert [problem.where for problem in report.problems] == [f"train.json, row {index}" for index in (1, 2, 4)]
    with pytest.raises(DataError, match=r"(?s)3 of 5 rows.*row 1: Cannot read.*row 4: No such image.*To do: copy"):
        report.raise_if_bad()
    good = check_data(data.select([0, 3]), "captioning")
    good.raise_if_bad()
    assert "all can be used" in str(good)
    assert check_data(data, "captioning", media=False).problems == []
    assert check_data(data.to_iterable_dataset(), "captioning").counts == {"media": 3}
    assert check_data(data, "captioning", max_rows=2).num_rows == 2


def test_a_file_is_opened_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modeling_lavis.data import checks

    opened: list[Any] = []
    monkeypatch.setattr(checks, "open_row_image", opened.append)
    rows = [{"image": str(folder / "red.png"), "caption": "a"}] * 200
    assert check_data(rows, "captioning", threads=1).problems == []
    assert len(opened) == 1


BAD_ROWS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "missing column": ("captioning", {"image": "a"}, "column", "'caption' is empty or missing; the row has .'image'"),
    "empty caption": ("captioning", {"image": "a", "caption": " "}, "text", "empty or blank"),
    "no captions": ("retrieval", {"image": "a", "caption": []}, "text", "an empty list"),
    "one empty caption": ("retrieval", {"image": "a", "caption": ["x", ""]}, "text", "empty or blank"),
    "wrong type": ("captioning", {"image": "a", "caption": 3}, "text", "3"),
    "no answer": ("vqa", {"image": "a", "question": "q", "answer": []}, "answer", "an empty list"),
    "weights": (
        "vqa",
        {"image": "a", "question": "q", "answer": ["a", "b"], "weight": [1.0]},
        "answer",
        "1 numbers for 2",
    ),
    "weight": (
        "vqa",
        {"image": "a", "question": "q", "answer": "a", "weight": float("nan")},
        "answer",
        "numbers from 0",
    ),
    "empty question": ("vqa", {"image": "a", "question": "", "answer": ["a"]}, "text", "empty or blank"),
    "one image": ("nlvr", {"images": ["a"], "sentence": "s", "label": "True"}, "column", "expected two images"),
    "unknown label": (
        "nlvr",
        {"images": ["a", "b"], "sentence": "s", "label": "maybe"},
        "label",
        "unknown class; known",
    ),
    "class index": ("classification", {"image": "a", "label": 2}, "label", "is 2; expected one of .0, 1."),
    "not a row": ("captioning", "a", "row", "it is str"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_columns(name: str) -> None:
    task, row, kind, message = BAD_ROWS[name]
    labels = {"False": 0, "True": 1} if task in ("nlvr", "classification") else None
    report = check_data([row], task, label2id=labels, media=False)
    assert report.counts == {kind: 1}
    with pytest.raises(DataError, match=rf"row 0: .*{message}.*To do: "):
        report.raise_if_bad()


def test_what_is_not_bad() -> None:
    row = {"image": "a", "question": "q"}
    assert check_data([row], "vqa", media=False).counts == {"column": 1}
    assert check_data([row], "vqa", media=False, targets=False).problems == []
    rows = [{"image": "a", "sentence": "s", "label": 1}, {"image": "a", "label": 1}]
    assert check_data(rows, "classification", media=False).counts == {"column": 1}
    assert check_data(rows[:1], "classification", media=False).problems == []
    assert check_data([{"images": ["a", "b"], "sentence": "s", "label": True}], "nlvr", media=False).problems == []


def test_rows_that_could_not_be_read(folder: Path) -> None:
    write_json(folder / "train.json", [{"image": "red.png", "caption": "a"}, {"image": "/etc/x", "caption": "b"}])
    data = load_data(folder / "train.json", "captioning", on_bad_row="keep")
    (problem,) = check_data(data, "captioning").problems
    assert problem.where == "train.json, row 1" and "leads out of" in problem.message


@pytest.mark.parametrize("streaming", [False, True])
def test_lines_that_are_no_rows_are_kept(folder: Path, streaming: bool) -> None:
    """One broken line, or one broken sample of a shard, does not end a run that skips bad rows."""
    good = json.dumps({"image": "red.png", "caption": "a"})
    (folder / "a.jsonl").write_text("\n".join([good, "{broken", "[1]", good]))
    (folder / "b.csv").write_text("image,caption\nred.png,a\nred.png\nred.png,a,b\nred.png,c\n")
    for name, lines in (("a.jsonl", (1, 2)), ("b.csv", (1, 2))):
        data = load_data(folder / name, "captioning", on_bad_row="keep", streaming=streaming)
        report = check_data(data, "captioning")
        assert report.num_rows == 4
        assert [problem.where for problem in report.problems] == [f"{name}, row {line}" for line in lines]
        with pytest.raises(DataError, match=name):
            list(load_data(folder / name, "captioning", streaming=streaming))
    picture = encoded("red")
    samples = {"1": {"png": picture, "txt": b"a"}, "2": {"png": picture, "json": b"{"}, "3": {"png": picture}}
    samples |= {"4": {"png": picture, "txt": b"\xff"}, "5": {"png": picture[:60], "txt": b"a"}}
    write_shard(folder / "c.tar", samples)
    data = load_data(folder / "c.tar", "captioning", on_bad_row="keep", streaming=streaming)
    problems = check_data(data, "captioning").problems
    assert [problem.where for problem in problems] == [f"c.tar, sample {key}" for key in "2345"]
    assert "the file .json cannot be read" in problems[0].message and "'caption'" in problems[1].message
    assert problems[3].message.startswith("Cannot read the image 5.png from its bytes: ")


def test_the_rest_of_a_file_that_is_cut_off(folder: Path) -> None:
    samples = {str(key): {"png": encoded("red"), "txt": b"a"} for key in range(4)}
    whole = write_shard(folder / "a.tar", samples).read_bytes()
    (folder / "b.tar").write_bytes(whole[:3000])
    data = load_data(str(folder / "[ab].tar"), "captioning", on_bad_row="keep", streaming=True)
    (problem,) = check_data(data, "captioning").problems
    assert problem.where == "b.tar" and "cannot be read as a tar archive" in problem.message
    # a source of which nothing can be read is an error under both options
    (folder / "c.tar").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="c.tar cannot be read as a tar"):
        load_data(folder / "c.tar", "captioning", on_bad_row="keep")


def test_ids_of_other_rows_are_noted() -> None:
    rows = [{"image": name, "caption": "c", "image_id": id} for name, id in (("a", 1), ("a", 1), ("b", 1), ("c", 2))]
    report = check_data(rows, "retrieval", media=False)
    assert not report.problems and "1 rows have a image_id of another image (row 2: 1)" in str(report)
    rows = [{"image": "a", "question": question, "answer": "b", "question_id": 3} for question in ("q", "")]
    text = str(check_data(rows, "vqa", media=False))
    assert "1 of 2 rows" in text and "1 rows have a question_id that an earlier row has (row 1: 3)" in text
    assert check_data([{**row, "question_id": None} for row in rows], "vqa", media=False).notes == []


def test_answers_outside_the_classes() -> None:
    rows = [{"video": "a", "question": "q", "answer": answer} for answer in ("run", "fly", "fly")]
    report = check_data(rows, "video-qa", label2id={"run": 0}, media=False)
    assert not report.problems and "answers of 2 of 3 rows" in str(report)
    assert check_data(rows[1:], "video-qa", label2id={"run": 0}, media=False).counts == {"label": 1}


def test_videos(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", frames=6)
    (tmp_path / "b.mp4").write_bytes(b"nothing")
    content = (tmp_path / "a.mp4").read_bytes()
    values: list[Any] = [str(tmp_path / "a.mp4"), {"bytes": content, "path": "c.mp4"}, str(tmp_path / "b.mp4"), b"none"]
    rows = [{"video": value, "caption": "a", "origin": f"r{n}"} for n, value in enumerate(values)]
    rows.append({"video": values[0], "caption": "a", "start": 90.0, "origin": "r4"})
    report = check_data(rows, "video-retrieval", threads=1)  # r0 is read before r4, another part of the same file
    assert [problem.where for problem in report.problems] == ["r2", "r3", "r4"]
    assert "from its bytes" in report.problems[1].message and "start=90.0" in report.problems[2].message


# ---- in training ----


def test_bad_rows_are_replaced_in_training(folder: Path, processor: LavisBlipProcessor) -> None:
    rows = list(load_data(folder / "train.json", "captioning"))
    collate = make_collator("captioning", processor, training=True, on_bad_row="skip")
    batch = collate(rows)
    assert batch["pixel_values"].shape[0] == 5  # the size of a batch does not change
    # red, grey, grey, grey, red: the next good row of the batch
    first, second = (rows[0]["caption"].split()[1], rows[3]["caption"].split()[1])
    texts = [text.split()[1] for text in processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)]
    assert len(set(texts)) == 2 and texts[1] == texts[2] == texts[3] and texts[0] == texts[4], (first, second)
    summary = collate.summary()
    assert summary.count == 3 and set(summary.times) == {f"train.json, row {index}" for index in (1, 2, 4)}
    assert "No such image" in summary.reasons["train.json, row 4"] and "3 bad rows were skipped" in str(summary)


@pytest.mark.parametrize(("task", "training"), [("captioning", False), ("retrieval", True)])
def test_bad_rows_are_left_out(folder: Path, processor: LavisBlipProcessor, task: str, training: bool) -> None:
    """In evaluation a repeated row would count twice; in a contrastive loss it would be its own negative."""
    rows = list(load_data(folder / "train.json", task))
    collate = make_collator(task, processor, training=training, on_bad_row="skip")
    assert collate(rows)["pixel_values"].shape[0] == 2
    assert collate.summary().count == 3


def test_good_batches_are_unchanged(folder: Path, processor: LavisBlipProcessor) -> None:
    rows = [row for index, row in enumerate(load_data(folder / "train.json", "captioning")) if index in (0, 3)]
    batches = []
    for on_bad_row in ("raise", "skip"):
        torch.manual_seed(0)
        batches.append(make_collator("captioning", processor, training=True, on_bad_row=on_bad_row)(rows))
    assert all(torch.equal(value, batches[1][name]) for name, value in batches[0].items())


def test_a_batch_of_bad_rows_stops(folder: Path, processor: LavisBlipProcessor) -> None:
    rows = [row for index, row in enumerate(load_data(folder / "train.json", "captioning")) if index in (1, 2, 4)]
    with pytest.raises(DataError, match=r"(?s)All 3 rows of a batch are bad.*check_data.*train.json, row 1"):
        make_collator("captioning", processor, on_bad_row="skip")(rows)
    with pytest.raises(OSError, match="green.jpg"):
        make_collator("captioning", processor)(rows)


def test_errors_of_a_whole_batch_are_not_hidden(processor: LavisBlipProcessor) -> None:
    rows = [{"image": encoded("red"), "caption": "a", "image_id": 1}, {"image": encoded("red"), "caption": "a"}]
    with pytest.raises(ValueError, match="no 'image_id', but other rows"):
        make_collator("retrieval", processor, on_bad_row="skip")(rows)


def test_columns_that_are_wrong_are_skipped(processor: LavisBlipProcessor) -> None:
    good = {"image": encoded("red"), "caption": "a"}
    collate = make_collator("captioning", processor, on_bad_row="skip")
    assert len(collate([good, {"image": encoded("red")}, {"problem": "p", "origin": "x"}])["labels"]) == 1
    assert collate.summary().reasons["x"] == "p" and collate.summary().times == {"row 1 of a batch": 1, "x": 1}


def test_columns_that_could_be_collated_are_skipped(processor: LavisBlipProcessor) -> None:
    """An empty caption and an unknown class, under other names of columns."""
    rows: list[Any] = [
        {"picture": encoded("red"), "text": text, "origin": f"r{n}"} for n, text in enumerate(("a", " "))
    ]
    names = {"image": "picture", "caption": "text"}
    collate = make_collator("captioning", processor, training=True, on_bad_row="skip", columns=names)
    labels = collate(rows)["labels"]
    assert torch.equal(labels[0], labels[1]) and collate.summary().times == {"r1": 1}
    assert "empty or blank" in collate.summary().reasons["r1"]
    rows = [{"image": encoded("red"), "label": label} for label in (0, torch.tensor(1), 5, "dog")]
    collate = make_collator("classification", processor, label2id={"cat": 0, "cow": 1}, on_bad_row="skip")
    assert collate(rows)["labels"].tolist() == [0, 1]
    assert set(collate.summary().times) == {"row 2 of a batch", "row 3 of a batch"}


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_count_together(folder: Path, processor: LavisBlipProcessor, method: str) -> None:
    data = load_data(folder / "train.json", "captioning")
    data = data.select([0, 1, 0, 2, 3, 4] * 2)
    collate = make_collator("captioning", processor, training=True, on_bad_row="skip")
    loader = DataLoader(data, batch_size=2, collate_fn=collate, num_workers=2, multiprocessing_context=method)
    assert sum(len(batch["labels"]) for batch in loader) == 12
    assert collate.summary().times == {f"train.json, row {index}": 2 for index in (1, 2, 4)}


def test_the_file_of_skipped_rows(tmp_path: Path, processor: LavisBlipProcessor) -> None:
    collate = make_collator("captioning", processor, on_bad_row="skip")
    name = collate.file
    copy = pickle.loads(pickle.dumps(collate))
    assert copy.file == name and copy.processor is not None
    del copy
    assert os.path.exists(name)
    del collate
    assert not os.path.exists(name)
    kept = SkipBadRows(lambda rows: {"rows": [row["a"] for row in rows]}, file=tmp_path / "bad.jsonl")
    assert kept([{"a": 1}, {"b": 2}]) == {"rows": [1, 1]} and str(SkipBadRows(print).summary()) == "No row was skipped."
    with open(tmp_path / "bad.jsonl", "a") as file:
        file.write('{"row": "half')  # a process was killed while it wrote
    assert kept.summary().count == 1
    with pytest.raises(AttributeError):
        _ = kept.nothing


def test_broken_videos_are_skipped(goldens: Path, tmp_path: Path) -> None:
    videos = AlproProcessor(LavisVideoProcessor(size=16, num_frames=2), bert_tokenizer(goldens / "tokenizer"))
    write_clip(tmp_path / "a.mp4", frames=6)
    rows = [{"video": str(tmp_path / name), "question": "q", "answer": "run"} for name in ("a.mp4", "b.mp4")]
    collate = make_collator("video-qa", videos, training=True, label2id={"run": 0}, on_bad_row="skip")
    assert collate(rows)["pixel_values_videos"].shape[:2] == (2, 2)
    assert "No such video" in collate.summary().reasons[str(tmp_path / "b.mp4")]
