"""Rows from files, folders, shards and objects."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, DatasetDict, Image, IterableDataset, List, Video

from modeling_lavis.data.collators import open_row_image
from modeling_lavis.data.columns import TASKS, DataError
from modeling_lavis.data.loading import load_data, load_label2id
from tests.data import data_files as files
from tests.data.data_files import COLORS, caption_rows, encoded, picture, write_json, write_json_lines, write_pictures

CAPTIONS = [f"a {color} square" for color in COLORS]


def colors_of(rows: Any) -> list[str]:
    """The color of the image of each row."""
    found = []
    for row in rows:
        pixel = np.asarray(open_row_image(row["image"]).convert("RGB"), int)[5, 5]
        found.append(min(COLORS, key=lambda color: abs(pixel - COLORS[color]).sum()))
    return found


def check_captions(rows: Any) -> None:
    assert [row["caption"] for row in rows] == CAPTIONS
    assert colors_of(rows) == list(COLORS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "images")
    return tmp_path


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return caption_rows([f"images/{path.name}" for path in sorted_pictures(folder)])


def sorted_pictures(folder: Path) -> list[Path]:
    return [next((folder / "images").glob(f"{color}.*")) for color in COLORS]


WRITERS = {"json": write_json, "jsonl": write_json_lines, "csv": files.write_csv, "parquet": files.write_parquet}


# ---- files ----


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", WRITERS)
def test_files_with_paths(folder: Path, kind: str, streaming: bool) -> None:
    path = WRITERS[kind](folder / f"train.{kind}", rows_in(folder))
    data = load_data(path, "captioning", streaming=streaming)
    assert isinstance(data, IterableDataset if streaming else Dataset)
    check_captions(data)
    assert list(data.column_names) == ["image", "caption", "image_id", "origin"]
    assert [row["image_id"] for row in data] == [0, 1, 2, 3]
    assert [row["origin"] for row in data][1] == f"train.{kind}, row 1"
    assert all(os.path.isabs(row["image"]) for row in data)
    (kept,) = load_data(path, "captioning", keep_columns=["extra"], streaming=streaming).take(3).skip(2)
    assert float(kept["extra"]) == 1.0


def test_json_lines_under_the_name_of_json_and_other_names_of_columns(folder: Path) -> None:
    rows = [{"file": row["image"], "text": row["caption"]} for row in rows_in(folder)]
    path = write_json_lines(folder / "train.json", rows)
    data = load_data(path, "retrieval", columns={"image": "file", "caption": "text"})
    check_captions(data)
    assert data["image_id"][0] == rows[0]["file"]  # equal paths are one image
    data = load_data(path, "captioning", columns={"image": "file", "caption": None})
    assert "caption" not in data.column_names and len(data) == 4


def test_csv_with_a_quotation_mark_that_is_not_closed(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('image,caption\na.png,"x\n' + "b.png,a dog\n" * 20_000)
    with pytest.raises(DataError, match="a field of more than 131,072 characters.*quotation mark"):
        load_data(path, "captioning")


def test_csv_has_lists_numbers_and_pairs(folder: Path) -> None:
    left, right = (f"images/{path.name}" for path in sorted_pictures(folder)[:2])
    rows = [
        {"left": left, "right": right, "sentence": "both, red", "label": "True"},
        {"left": right, "right": left, "sentence": "none", "label": ""},
    ]
    path = files.write_csv(folder / "pairs.csv", rows)
    data = load_data(path, "nlvr", columns={"images": ["left", "right"]})
    assert [os.path.basename(name) for name in data[1]["images"]] == ["green.jpg", "red.png"]
    assert data["label"] == ["True", None] and data[0]["sentence"] == "both, red"
    rows = [{"image": left, "question": "what?", "answer": ["a", "b"], "weight": [0.5, 0.5], "question_id": 7}]
    data = load_data(files.write_csv(folder / "vqa.csv", rows), "vqa")
    assert data[0]["answer"] == ["a", "b"] and data[0]["weight"] == [0.5, 0.5] and data[0]["question_id"] == 7


def test_a_column_has_one_type(folder: Path) -> None:
    names = [row["image"] for row in rows_in(folder)]
    rows = [
        {"image": names[0], "caption": "one", "image_id": 1},
        {"image": names[1], "caption": ["two", "three"], "image_id": "x"},
        {"image": names[2], "caption": "four"},
    ]
    path = write_json(folder / "train.json", rows)
    for streaming in (False, True):
        data = list(load_data(path, "captioning", streaming=streaming))
        assert [row["caption"] for row in data] == [["one"], ["two", "three"], ["four"]]
        assert [row["image_id"] for row in data] == ["1", "x", names[2]]


def test_a_stream_does_not_change_its_types_silently(folder: Path) -> None:
    name = rows_in(folder)[0]["image"]
    rows = [{"image": name, "caption": "a"}] * 300 + [{"image": name, "caption": ["a", "b"]}]
    path = write_json_lines(folder / "train.jsonl", rows)
    assert load_data(path, "captioning")[0]["caption"] == ["a"]
    with pytest.raises(DataError, match=r"train.jsonl, row 300, column 'caption': got.*without streaming"):
        list(load_data(path, "captioning", streaming=True))
    kept = list(load_data(path, "captioning", streaming=True, on_bad_row="keep"))
    assert len(kept) == 301 and kept[-1]["problem"].startswith("train.jsonl, row 300")


def test_bytes_in_parquet(tmp_path: Path, cache_of_datasets: Path) -> None:
    rows = [
        {"image": {"bytes": encoded(color), "path": f"{color}.png"}, "caption": caption}
        for color, caption in zip(COLORS, CAPTIONS)
    ]
    path = files.write_parquet(tmp_path / "train.parquet", rows)
    for streaming in (False, True):
        data = load_data(path, "captioning", streaming=streaming)
        check_captions(data)
        assert data.features["image"] == Image(decode=False)
    first, second = (load_data(path, "captioning").cache_files[0]["filename"] for _ in range(2))
    assert first == second and first.startswith(str(cache_of_datasets))
    # not from the cache after a change
    files.write_parquet(path, [{**row, "caption": "new"} for row in rows])
    assert set(load_data(path, "captioning")["caption"]) == {"new"}


# ---- shards ----


@pytest.mark.parametrize("source", ["folder", "file", "pattern"])
@pytest.mark.parametrize("streaming", [False, True])
def test_shards(tmp_path: Path, source: str, streaming: bool) -> None:
    shards = files.write_caption_shards(tmp_path, 1 if source == "file" else 2)
    names = {"folder": tmp_path, "file": shards[0], "pattern": str(tmp_path / "*.tar")}
    data = load_data(names[source], "pretraining", streaming=streaming)
    rows = sorted(data, key=lambda row: row["image_id"])
    check_captions(rows)
    assert rows[0]["origin"] == "shard-0.tar, sample 0000"
    if streaming:
        assert data.num_shards == len(shards)


def test_shards_of_pairs_labels_and_splits(tmp_path: Path) -> None:
    sample = {"0.png": encoded("red"), "1.jpg": encoded("blue", "JPEG"), "sentence.txt": b"it", "label.cls": b"True"}
    files.write_shard(tmp_path / "nlvr-train-0.tar", {"a/x": sample})
    files.write_shard(tmp_path / "nlvr-val-0.tar", {"b/x": sample, "b/y": sample})
    (row,) = load_data(tmp_path, "nlvr", split="train")
    assert row["sentence"] == "it" and row["label"] == "True"
    assert [entry["path"] for entry in row["images"]] == ["a/x.0.png", "a/x.1.jpg"]
    assert len(load_data(tmp_path, "nlvr", split="validation")) == 2
    with pytest.raises(DataError, match="holds shards of train, val"):
        load_data(tmp_path, "nlvr")


# ---- folders ----


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_imagefolder(folder: Path, kind: str) -> None:
    rows = [{"file_name": path.name, "caption": caption} for path, caption in zip(sorted_pictures(folder), CAPTIONS)]
    WRITERS[kind](folder / "images" / f"metadata.{kind}", rows)
    check_captions(load_data(folder / "images", "captioning"))
    (folder / "images").rename(folder / "validation")
    check_captions(load_data(folder, "captioning", split="val", format="imagefolder"))
    # as in datasets, one metadata file may stand beside the folders of splits
    rows = [{"file_name": f"validation/{row['file_name']}", "caption": row["caption"]} for row in rows]
    (folder / "validation" / f"metadata.{kind}").unlink()
    WRITERS[kind](folder / f"metadata.{kind}", [*rows, {"file_name": "train/none.png", "caption": "another"}])
    check_captions(load_data(folder, "captioning", split="val"))


def test_videofolder(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "metadata.jsonl", [{"video_file_name": "a.mp4", "caption": "it runs"}])
    (row,) = load_data(tmp_path, "video-retrieval")
    assert row["video"] == str(tmp_path / "a.mp4") and row["video_id"] == "a.mp4"


def test_folders_of_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for color in COLORS:
            write_pictures(tmp_path / split / f"class {color}")
    write_pictures(tmp_path / "train" / ".ipynb_checkpoints")
    data = load_data(tmp_path, "classification", split="train")
    assert len(data) == 16 and data["label"][-1] == "class red"
    names = load_label2id(tmp_path)
    assert names == {"class blue": 0, "class green": 1, "class grey": 2, "class red": 3}
    assert names == load_label2id(tmp_path / "val")


def test_lavis_folder(folder: Path) -> None:
    rows = rows_in(folder)
    write_json(folder / "train.json", rows)
    write_json(folder / "vqa_train.json", [{"image": rows[0]["image"], "question": "what?", "answer": ["a", "b"]}])
    write_json(folder / "vqa_dev.json", [{"image": rows[0]["image"], "question": "which?", "answer": ["a", "b"]}])
    write_json(folder / "labels.json", ["a", "b"])
    check_captions(load_data(folder, "captioning", split="train"))
    assert load_data(folder, "vqa", split="train")["question"] == ["what?"]
    assert load_data(folder, "vqa", split="val")["question"] == ["which?"]
    assert load_data(folder, "vqa", split="train+val")["question"] == ["what?", "which?"]
    assert load_label2id(folder) == {"a": 0, "b": 1}
    assert load_label2id(write_json(folder / "ans2label.json", {"b": 1, "a": 0})) == {"a": 0, "b": 1}
    with pytest.raises(DataError, match="ans2label.json and labels.json"):
        load_label2id(folder)


def test_annotations_folder_names_media_beside_it(folder: Path) -> None:
    write_json(folder / "annotations" / "train.json", rows_in(folder))
    check_captions(load_data(folder, "captioning", split="train"))


def test_ambiguous_folders_are_not_guessed(folder: Path) -> None:
    rows = rows_in(folder)
    write_json(folder / "cap_train.json", rows)
    write_json(folder / "itm_train.json", rows)
    with pytest.raises(DataError, match="several sets of rows.*cap_train.json, itm_train.json.*Give the path"):
        load_data(folder, "captioning", split="train")
    with pytest.raises(
        DataError, match="holds no rows for the task 'vqa'.*need image, question, answer.*cap_train.json"
    ):
        load_data(folder, "vqa", split="train")
    write_json(folder / "metadata.json", rows)
    files.write_caption_shards(folder)
    with pytest.raises(DataError, match="2 .tar shards"):
        load_data(folder, "captioning", split="train")
    check_captions(
        sorted(load_data(folder, "captioning", split="train", format="webdataset"), key=lambda row: row["image_id"])
    )


def test_save_to_disk(folder: Path) -> None:
    data = load_data(write_json(folder / "train.json", rows_in(folder)), "captioning")
    DatasetDict(train=data, val=data.select([0])).save_to_disk(folder / "saved")
    check_captions(load_data(folder / "saved", "captioning", split="train"))
    with pytest.raises(DataError, match="splits train, val"):
        load_data(folder / "saved", "captioning")


# ---- paths ----


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../secret.png", "leads out of"),
        ("images/../../secret.png", "leads out of"),
        ("/etc/hostname", "leads out of.*media_root="),
        ("http://example.org/a.png", "is a URL"),
        ("", "path is empty"),
        (3, "expected a path"),
    ],
)
def test_files_name_nothing_outside_their_folder(folder: Path, path: Any, message: str) -> None:
    name = write_json(folder / "train.json", [*rows_in(folder), {"image": path, "caption": "a"}])
    with pytest.raises(DataError, match=rf"train.json, row 4, column 'image'.*{message}"):
        load_data(name, "captioning")
    kept = load_data(name, "captioning", on_bad_row="keep")
    assert len(kept) == 5 and kept[4]["problem"] and kept[3]["problem"] is None


def test_media_root(folder: Path) -> None:
    rows = [{**row, "image": os.path.basename(row["image"])} for row in rows_in(folder)]
    path = write_json(folder / "other" / "train.json", rows)
    check_captions(load_data(path, "captioning", media_root=folder / "images"))
    absolute = [{**row, "image": str(folder / "images" / row["image"])} for row in rows]
    write_json(path, absolute)
    check_captions(load_data(path, "captioning", media_root=folder))
    with pytest.raises(DataError, match="leads out"):
        load_data(path, "captioning", media_root=folder / "other")
    (folder / "linked").symlink_to(folder / "images")
    check_captions(load_data(write_json(path, rows), "captioning", media_root=folder / "linked"))


# ---- objects ----


def test_list_of_dicts(folder: Path) -> None:
    paths = sorted_pictures(folder)
    images: list[Any] = [
        picture("red"),
        str(paths[1]),
        encoded("blue"),
        {"bytes": None, "path": str(paths[3])},
    ]
    rows = [{"image": image, "caption": caption} for image, caption in zip(images, CAPTIONS)]
    check_captions(load_data(rows, "captioning"))
    check_captions(load_data(rows, "captioning", streaming=True))
    rows[0]["image"] = np.asarray(picture("red"))
    check_captions(load_data(rows, "captioning"))
    relative = [{"image": path.name, "caption": caption} for path, caption in zip(paths, CAPTIONS)]
    check_captions(load_data(relative, "captioning", media_root=folder / "images"))
    with pytest.raises(DataError, match="row 1.*'caption'.*missing"):
        load_data([rows[0], {"image": "a"}], "captioning")


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_without_an_id_among_others(tmp_path: Path, streaming: bool) -> None:
    path = {"bytes": None, "path": "red.png"}
    images = [path, encoded("blue"), picture("red"), picture("red"), "red.png", encoded("blue")]
    rows = load_data([{"image": image, "caption": "x"} for image in images], "retrieval", streaming=streaming)
    ids = [row["image_id"] for row in rows]
    assert ids[0] == ids[4] == "red.png" and ids[1] == ids[5] and len(set(ids)) == 4 and None not in ids
    some: list[Any] = [{"image": encoded(color), "caption": "x"} for color in ("red", "blue", "blue")]
    assert "image_id" not in load_data(some, "retrieval").column_names
    some[0]["image_id"] = 3
    ids = load_data(some, "retrieval")["image_id"]
    assert ids[0] == 3 and ids[1] == ids[2] not in (3, None)


def test_videos_as_arrays(tmp_path: Path) -> None:
    clip = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.full((3, 8, 8, 3), 50, np.uint8)
    rows = [{"video": video, "caption": "a", "video_id": 1} for video in (clip, clip.transpose(0, 3, 1, 2), list(clip))]
    for row in load_data(rows, "video-retrieval"):
        frames = [np.asarray(PIL.Image.open(io.BytesIO(frame["bytes"]))) for frame in row["video"]]
        assert np.array_equal(np.stack(frames), clip)


@pytest.mark.parametrize("decode", [False, True])
def test_objects_of_datasets(folder: Path, decode: bool) -> None:
    paths = [str(path) for path in sorted_pictures(folder)]
    data = Dataset.from_dict({"picture": paths, "text": CAPTIONS, "more": [1] * 4}).cast_column(
        "picture", Image(decode=decode)
    )
    names = {"image": "picture", "caption": "text"}
    loaded = load_data(data, "captioning", columns=names)
    check_captions(loaded)
    assert loaded.features["image"] == Image(decode=False) and set(loaded.column_names) == {"image", "caption"}
    check_captions(load_data(data, "captioning", columns=names, streaming=True))
    check_captions(load_data(data.to_iterable_dataset(), "captioning", columns=names))
    check_captions(load_data(DatasetDict(all=data), "captioning", columns=names, keep_columns=["more"]))
    with pytest.raises(DataError, match="lacks the columns 'image', 'caption'"):
        load_data(data, "captioning")


def test_splits_of_objects_of_datasets(folder: Path) -> None:
    """Splits of a dict are named and joined like those of a folder."""
    data = Dataset.from_dict({"image": [str(path) for path in sorted_pictures(folder)], "caption": CAPTIONS})
    splits = DatasetDict(train=data.select([0, 1]), validation=data.select([2, 3]))
    assert load_data(splits, "captioning", split="val")["caption"] == CAPTIONS[2:]
    check_captions(load_data(splits, "captioning", split="train+val"))
    check_captions(load_data(splits, "captioning", split="train+val", streaming=True))
    for split in ("test", "train+test", "", None):
        with pytest.raises(DataError, match="has the splits train, validation; choose one"):
            load_data(splits, "captioning", split=split)


def test_objects_of_datasets_with_pairs_videos_and_unknown_columns(folder: Path) -> None:
    paths = [str(path) for path in sorted_pictures(folder)]
    pairs = Dataset.from_dict({"images": [paths[:2]], "sentence": ["a"], "label": ["True"]})
    pairs = pairs.cast_column("images", List(Image()))
    assert load_data(pairs, "nlvr").features["images"] == List(Image(decode=False))
    clips = Dataset.from_dict({"video": ["a.mp4"], "caption": ["a"]}).cast_column("video", Video())
    row = load_data(clips, "video-retrieval", media_root=folder)[0]
    assert row["video"]["path"] == str(folder / "a.mp4")
    stream = IterableDataset.from_generator(lambda: iter([{"image": paths[0], "caption": "a"}]))
    assert next(iter(load_data(stream, "captioning")))["image"] == paths[0]


# ---- errors ----


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"image": "a.png", "caption": "a"}, {"image": "a.png"', "not valid JSON.*line 1, column"),
        ("a.jsonl", '{"image": "a.png", "caption": "a"}\n{"image"\n', "a.jsonl, line 2: not valid JSON"),
        ("a.json", "[1, 2]", "row 0: got '1'; expected an object"),
        ("a.json", "[]", "there are no rows"),
        ("a.csv", "image,caption\na.png\n", "row 0 .line 2.: its number of fields"),
        ("a.csv", "image,text\na.png,b\n", "a.csv, row 0: the column 'caption'.*missing; the row has.*columns="),
        ("a.json", '[{"image": "a.png", "caption": {"x": 1}}]', "a.json, row 0, column 'caption': got dict"),
        ("a.parquet", "nonsense", "cannot be read as Parquet"),
        ("a.tar", "nonsense", "cannot be read as a tar"),
        ("a.json", '{"a":' * 20_000, "a.json, line 1: not valid JSON"),
        ("a.csv", "image,caption,caption\na.png,b,c\n", "the header has 'caption' twice"),
        ("a.xls", "", "files of this kind are not read"),
        ("a.csv", b"image,caption\n\xff\xfe,a\n", "not text in UTF-8"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=rf"(?s){message}"):
        load_data(path, "captioning")


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no task 'caption'; expected one of captioning"):
        load_data([], "caption")
    with pytest.raises(FileNotFoundError, match="no file or folder.*datasets.load_dataset"):
        load_data("some/dataset", "captioning")
    with pytest.raises(ValueError, match="no column 'text'; it has image, caption, image_id"):
        load_data(tmp_path, "captioning", columns={"text": "caption"})
    with pytest.raises(ValueError, match="format is 'tar'; expected one of imagefolder"):
        load_data(tmp_path, "captioning", format="tar")
    with pytest.raises(ValueError, match="on_bad_row is 'skip'"):
        load_data(tmp_path, "captioning", on_bad_row="skip")
    with pytest.raises(DataError, match="list of rows is empty"):
        load_data([], "captioning")
    with pytest.raises(DataError, match="The data set has no rows"):
        load_data(Dataset.from_dict({"image": [], "caption": []}), "captioning")
    with pytest.raises(DataError, match="row 0, column 'image': cannot be stored.*an array of uint8"):
        load_data([{"image": torch.zeros(3, 4, 4), "caption": "a"}], "captioning")
    with pytest.raises(TypeError, match="source is int"):
        load_data(3, "captioning")


def test_every_task_loads_its_columns(folder: Path) -> None:
    names = [row["image"] for row in rows_in(folder)]
    values = {"image": names[0], "images": names[:2], "video": "a.mp4", "text": "a", "texts": ["a", "b"], "label": "a"}
    values |= {"id": 3, "number": 1.5, "numbers": [1.0, 2.0]}
    for task, columns in TASKS.items():
        row = {column.name: values[column.kind] for column in columns.columns}
        data = load_data(write_json(folder / f"{task}.json", [row]), task)
        assert data.column_names == [*columns.names, "origin"]
        needed = {column.name: values[column.kind] for column in columns.needed()}
        loaded = load_data(write_json(folder / f"{task}.json", [needed]), task)
        assert set(needed) <= set(loaded.column_names)
    assert json.loads((folder / "vqa.json").read_text())[0]["answer"] == ["a", "b"]
