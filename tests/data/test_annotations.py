"""Annotation files of published data sets, in their official form, from a user's folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeling_lavis.data.annotations import ANNOTATIONS, splits_of
from modeling_lavis.data.columns import TASKS, DataError
from modeling_lavis.data.loading import load_data
from tests.data.data_files import write_json, write_json_lines

COCO_TRAIN = "train2014/COCO_train2014_000000000009.jpg"
COCO_VAL = "val2014/COCO_val2014_000000000042.jpg"
TEN = ["red", "red", "blue", "red", "red", "red", "red", "red", "red", "dark red"]


def karpathy(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    def image(split: str, texts: list[str], **fields: Any) -> dict[str, Any]:
        sentences = [{"raw": text, "tokens": text.split(), "sentid": 1} for text in texts]
        return {"split": split, "sentences": sentences, "sentids": [1], "imgid": 0, **fields}

    return {"dataset": "x", "images": [image("train", ["A.", "B."], **first), image("test", ["C.", "D."], **second)]}


def coco(folder: Path) -> None:
    train = {"filepath": "train2014", "filename": "COCO_train2014_000000000009.jpg", "cocoid": 9}
    val = {"filepath": "val2014", "filename": "COCO_val2014_000000000042.jpg", "cocoid": 42}
    content = karpathy(train, val)
    content["images"].append({**content["images"][0], "split": "restval", "cocoid": 10})
    write_json(folder / "dataset_coco.json", content)


def coco_lavis(folder: Path) -> None:
    annotations = folder / "annotations"
    write_json(
        annotations / "coco_karpathy_train.json",
        [{"image": COCO_TRAIN, "caption": text, "image_id": "coco_9"} for text in ("A.", "B.")],
    )
    write_json(annotations / "coco_karpathy_test.json", [{"image": COCO_VAL, "caption": ["C.", "D."]}])


def flickr(folder: Path) -> None:
    write_json(folder / "dataset_flickr30k.json", karpathy({"filename": "1001.jpg"}, {"filename": "1002.jpg"}))


def flickr_lavis(folder: Path) -> None:
    write_json(
        folder / "flickr30k_train.json",
        [{"image": "flickr30k-images/1001.jpg", "caption": text, "image_id": 5} for text in ("A.", "B.")],
    )
    write_json(folder / "flickr30k_test.json", [{"image": "flickr30k-images/1002.jpg", "caption": ["C.", "D."]}])


def vqa_files(prefix: str, split: str, year: str, image_id: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        question = {"image_id": image_id, "question": "What color?", "question_id": image_id * 1000}
        write_json(
            folder / f"{prefix}OpenEnded_mscoco_{year}_questions.json",
            {"data_type": "mscoco", "data_subtype": year, "task_type": "Open-Ended", "questions": [question]},
        )
        if split != "test-dev":
            answers = [{"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(TEN, 1)]
            annotation = {
                "image_id": image_id,
                "question_id": image_id * 1000,
                "question_type": "what color",
                "answer_type": "other",
                "multiple_choice_answer": "red",
                "answers": answers,
            }
            write_json(folder / f"{prefix}mscoco_{year}_annotations.json", {"annotations": [annotation]})

    return write


def vqa_lavis(name: str, **fields: Any) -> Callable[[Path], None]:
    row = {"image": COCO_VAL, "question": "What color?", "question_id": 42000, "dataset": "vqa", **fields}
    return lambda folder: write_json(folder / name, [row]) and None


def vg(folder: Path) -> None:
    qas = [{"qa_id": 7, "image_id": 3, "question": "What color?", "answer": "Red.", "a_objects": [], "q_objects": []}]
    write_json(folder / "question_answers.json", [{"id": 3, "qas": qas}])


def vg_lavis(folder: Path) -> None:
    row = {"image": "VG_100K_2/3.jpg", "question": "What color?", "answer": "red", "question_id": 7}
    write_json(folder / "vg_qa.json", [row])


def aokvqa(folder: Path) -> None:
    row = {
        "split": "val",
        "image_id": 42,
        "question_id": "22MexNkBPpdZGX6sxbxVBH",
        "question": "What color?",
        "choices": ["red", "blue", "green", "grey"],
        "correct_choice_idx": 0,
        "direct_answers": TEN,
        "difficult_direct_answer": False,
        "rationales": ["It is red."] * 3,
    }
    write_json(folder / "aokvqa_v1p0_val.json", [row])
    hidden = ("correct_choice_idx", "direct_answers", "rationales")
    write_json(
        folder / "aokvqa_v1p0_test.json",
        [{**{name: value for name, value in row.items() if name not in hidden}, "split": "test"}],
    )


def gqa(folder: Path) -> None:
    question = {
        "imageId": "2354786",
        "question": "Is the sky dark?",
        "answer": "yes",
        "fullAnswer": "Yes, the sky is dark.",
        "isBalanced": True,
        "types": {"detailed": "existAttr", "semantic": "attr", "structural": "verify"},
    }
    write_json(folder / "questions" / "testdev_balanced_questions.json", {"201307251": question})


def gqa_lavis(folder: Path) -> None:
    row = {"image": "2354786.jpg", "question": "Is the sky dark?", "answer": "yes", "question_id": "201307251"}
    write_json(folder / "testdev_balanced_questions.json", [row])


def nlvr2(folder: Path) -> None:
    row = {"sentence": "Two dogs.", "label": "True", "query": "dogs", "synset": "dog"}
    write_json_lines(folder / "train.json", [{**row, "identifier": "train-10171-0-0", "directory": 63}])
    write_json_lines(folder / "dev.json", [{**row, "identifier": "dev-850-0-1"}])


def nlvr2_lavis(folder: Path) -> None:
    for split in ("train", "dev"):
        name = {"train": "train/63/train-10171-0", "dev": "dev/dev-850-0"}[split]
        images = [f"{name}-img0.png", f"{name}-img1.png"]
        write_json(folder / f"nlvr_{split}.json", [{"images": images, "sentence": "Two dogs.", "label": "True"}])


def snli_ve(folder: Path) -> None:
    rows = [
        {"Flickr30K_ID": "1001", "gold_label": label, "sentence1": "A dog.", "sentence2": "An animal.", "pairID": "x"}
        for label in ("entailment", "-")
    ]
    write_json_lines(folder / "snli_ve_dev.jsonl", rows)


def snli_ve_lavis(folder: Path) -> None:
    write_json(folder / "ve_dev.json", [{"image": "1001", "sentence": "An animal.", "label": "entailment"}])


def nocaps(folder: Path) -> None:
    image = {"id": 4, "open_images_id": "0013", "file_name": "0013.jpg", "domain": "near-domain", "coco_url": "x"}
    captions = [{"image_id": 4, "id": n, "caption": text} for n, text in enumerate(("C.", "D."))]
    write_json(folder / "nocaps_val_4500_captions.json", {"images": [image], "annotations": captions})
    write_json(folder / "nocaps_test_image_info.json", {"images": [image]})


def nocaps_lavis(folder: Path) -> None:
    write_json(folder / "nocaps_val.json", [{"image": "val/0013.jpg", "img_id": 4}])


def msrvtt(folder: Path) -> None:
    videos = [{"video_id": f"video{n}", "split": split} for n, split in enumerate(("train", "validate"))]
    sentences = [{"sen_id": n, "video_id": f"video{n % 2}", "caption": text} for n, text in enumerate("ABC")]
    write_json(folder / "train_val_videodatainfo.json", {"videos": videos, "sentences": sentences})
    (folder / "MSRVTT_JSFUSION_test.csv").write_text('key,vid_key,video_id,sentence\nret0,msr1,video7020,"a, b"\n')


def msrvtt_lavis(folder: Path) -> None:
    write_json(folder / "retrieval_val.json", [{"video": "video1.mp4", "caption": "B"}])


def video_qa(folder: Path) -> None:
    write_json(folder / "val_qa.json", [{"answer": "dog", "id": 5, "question": "what?", "video_id": 1}])


def msvd_qa(folder: Path) -> None:
    video_qa(folder)
    (folder / "youtube_mapping.txt").write_text("-4wsuPCjDBc_5_15 vid1\n")
    (folder / "YouTubeClips").mkdir()
    (folder / "YouTubeClips" / "-4wsuPCjDBc_5_15.avi").touch()


def video_qa_lavis(folder: Path) -> None:
    write_json(
        folder / "qa_val.json", [{"video": "video1.mp4", "question": "what?", "answer": "dog", "question_id": 5}]
    )


def didemo(folder: Path) -> None:
    moment = {"video": "54@N00_24_27.mov", "times": [[0, 0]], "num_segments": 6}
    write_json(folder / "val_data.json", [{**moment, "description": text} for text in ("first a dog ", "then a cat")])


def didemo_lavis(folder: Path) -> None:
    write_json(folder / "retrieval_val.json", [{"video": "54@N00_24_27.mp4", "caption": "first a dog then a cat"}])


COCO_ROWS = [{"image": COCO_TRAIN, "caption": text, "image_id": 9} for text in ("A.", "B.")]
QUESTION = {"question": "What color?", "answer": TEN}
PAIR = {"sentence": "Two dogs.", "label": "True"}

#: writer of the files, format, task, split, and what the rows have, with images below the folder
CASES: dict[str, tuple[Callable[[Path], None], str, str, str, list[dict[str, Any]]]] = {
    "coco, Karpathy's file": (coco, "coco", "captioning", "train", [*COCO_ROWS, {"image_id": 10}, {"image_id": 10}]),
    "coco, Karpathy's test images": (
        coco,
        "coco",
        "retrieval",
        "test",
        [{"image": COCO_VAL, "caption": ["C.", "D."], "image_id": 42}],
    ),
    "coco, LAVIS": (coco_lavis, "coco", "pretraining", "train", [{**row, "image_id": "coco_9"} for row in COCO_ROWS]),
    "coco, LAVIS's test images": (
        coco_lavis,
        "coco",
        "captioning",
        "test",
        [{"image": COCO_VAL, "caption": ["C.", "D."], "image_id": 42}],
    ),
    "flickr30k, Karpathy's file": (
        flickr,
        "flickr30k",
        "retrieval",
        "train",
        [{"image": "1001.jpg", "caption": text, "image_id": 1001} for text in ("A.", "B.")],
    ),
    "flickr30k, LAVIS": (
        flickr_lavis,
        "flickr30k",
        "captioning",
        "test",
        [{"image": "flickr30k-images/1002.jpg", "caption": ["C.", "D."], "image_id": 1002}],
    ),
    "vqav2": (
        vqa_files("v2_", "val", "val2014", 42),
        "vqav2",
        "vqa",
        "val",
        [{**QUESTION, "image": COCO_VAL, "question_id": 42000, "question_type": "what color", "answer_type": "other"}],
    ),
    "vqav2, test": (
        vqa_files("v2_", "test-dev", "test-dev2015", 1),
        "vqav2",
        "vqa",
        "test-dev",
        [{"image": "test2015/COCO_test2015_000000000001.jpg", "question": "What color?", "question_id": 1000}],
    ),
    "vqav2, LAVIS": (
        vqa_lavis("vqa_val.json", answer=TEN),
        "vqav2",
        "vqa",
        "val",
        [{**QUESTION, "image": COCO_VAL, "question_id": 42000, "dataset": "vqa"}],
    ),
    "vqav2, LAVIS's test": (vqa_lavis("vqa_test.json"), "vqav2", "vqa", "test", [{"question_id": 42000}]),
    "vg-qa": (
        vg,
        "vg-qa",
        "vqa",
        "train",
        [{"image": "VG_100K/3.jpg", "answer": "red", "question_id": 7, "dataset": "vg"}],
    ),
    "vg-qa, LAVIS": (
        vg_lavis,
        "vg-qa",
        "vqa",
        "train",
        [{"image": "VG_100K_2/3.jpg", "answer": "red", "dataset": "vg"}],
    ),
    "okvqa": (
        vqa_files("", "train", "train2014", 9),
        "okvqa",
        "vqa",
        "train",
        [{**QUESTION, "image": COCO_TRAIN, "question_id": 9000}],
    ),
    "okvqa, LAVIS": (vqa_lavis("okvqa_val_eval.json", answer=TEN), "okvqa", "vqa", "val", [QUESTION]),
    "aokvqa": (
        aokvqa,
        "aokvqa",
        "vqa",
        "val",
        [{**QUESTION, "image": "val2017/000000000042.jpg", "question_id": "22MexNkBPpdZGX6sxbxVBH"}],
    ),
    "aokvqa, test": (aokvqa, "aokvqa", "vqa", "test", [{"image": "test2017/000000000042.jpg"}]),
    "gqa": (
        gqa,
        "gqa",
        "vqa",
        "testdev",
        [{"image": "2354786.jpg", "answer": "yes", "question_id": "201307251", "question_type": "verify"}],
    ),
    "gqa, LAVIS": (gqa_lavis, "gqa", "vqa", "testdev", [{"image": "2354786.jpg", "answer": "yes"}]),
    "nlvr2": (
        nlvr2,
        "nlvr2",
        "nlvr",
        "train",
        [{**PAIR, "images": ["train/63/train-10171-0-img0.png", "train/63/train-10171-0-img1.png"]}],
    ),
    "nlvr2, dev": (
        nlvr2,
        "nlvr2",
        "nlvr",
        "val",
        [{**PAIR, "images": ["dev/dev-850-0-img0.png", "dev/dev-850-0-img1.png"]}],
    ),
    "nlvr2, LAVIS": (
        nlvr2_lavis,
        "nlvr2",
        "nlvr",
        "train+dev",
        [{"images": [f"{name}-img0.png", f"{name}-img1.png"]} for name in ("train/63/train-10171-0", "dev/dev-850-0")],
    ),
    "snli-ve": (
        snli_ve,
        "snli-ve",
        "classification",
        "dev",
        [{"image": "1001.jpg", "sentence": "An animal.", "label": "entailment"}],
    ),
    "snli-ve, LAVIS": (
        snli_ve_lavis,
        "snli-ve",
        "classification",
        "val",
        [{"image": "1001.jpg", "sentence": "An animal.", "label": "entailment"}],
    ),
    "nocaps": (nocaps, "nocaps", "captioning", "val", [{"image": "0013.jpg", "caption": ["C.", "D."], "image_id": 4}]),
    "nocaps, test": (nocaps, "nocaps", "captioning", "test", [{"image": "0013.jpg", "image_id": 4}]),
    "nocaps, LAVIS": (nocaps_lavis, "nocaps", "captioning", "val", [{"image": "val/0013.jpg", "image_id": 4}]),
    "msrvtt": (
        msrvtt,
        "msrvtt",
        "video-retrieval",
        "train",
        [{"video": "video0.mp4", "caption": text, "video_id": "video0"} for text in ("A", "C")],
    ),
    "msrvtt, 1k": (
        msrvtt,
        "msrvtt",
        "video-retrieval",
        "test-1k",
        [{"video": "video7020.mp4", "caption": "a, b", "video_id": "video7020"}],
    ),
    "msrvtt, LAVIS": (
        msrvtt_lavis,
        "msrvtt",
        "video-retrieval",
        "val",
        [{"video": "video1.mp4", "caption": "B", "video_id": "video1"}],
    ),
    "msrvtt-qa": (
        video_qa,
        "msrvtt",
        "video-qa",
        "val",
        [{"video": "video1.mp4", "question": "what?", "answer": "dog", "question_id": 5}],
    ),
    "msrvtt-qa, LAVIS": (video_qa_lavis, "msrvtt", "video-qa", "val", [{"video": "video1.mp4", "answer": "dog"}]),
    "msvd-qa": (
        msvd_qa,
        "msvd",
        "video-qa",
        "val",
        [{"video": "YouTubeClips/-4wsuPCjDBc_5_15.avi", "question": "what?", "answer": "dog", "question_id": 5}],
    ),
    "msvd-qa, LAVIS": (video_qa_lavis, "msvd", "video-qa", "val", [{"video": "video1.mp4", "answer": "dog"}]),
    "didemo": (
        didemo,
        "didemo",
        "video-retrieval",
        "val",
        [{"video": "54@N00_24_27.mp4", "caption": "first a dog then a cat", "video_id": "54@N00_24_27"}],
    ),
    "didemo, LAVIS": (
        didemo_lavis,
        "didemo",
        "video-retrieval",
        "val",
        [{"video": "54@N00_24_27.mp4", "caption": "first a dog then a cat", "video_id": "54@N00_24_27"}],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_published_files(name: str, tmp_path: Path) -> None:
    write, format, task, split, expected = CASES[name]
    write(tmp_path)
    rows = list(load_data(tmp_path, task, format=format, split=split))
    media = TASKS[task].media.name
    for row, wanted in zip(rows, expected, strict=True):
        for column, value in wanted.items():
            if column == media:
                paths = value if isinstance(value, list) else [value]
                value = [str(tmp_path / path) for path in paths]
                assert (row[column] if isinstance(row[column], list) else [row[column]]) == value
            else:
                assert row[column] == value, column
    assert list(load_data(tmp_path, task, format=format, split=split, streaming=True)) == rows


def test_every_data_set_is_tested() -> None:
    assert {case[1] for case in CASES.values()} == set(ANNOTATIONS)
    tested = {(case[1], case[2]) for case in CASES.values()}
    assert {("msrvtt", "video-qa"), ("msvd", "video-qa"), ("msrvtt", "video-retrieval")} <= tested


def test_media_are_found_where_they_are(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "images" / "train2014").mkdir(parents=True)
    (tmp_path / "images" / COCO_TRAIN).touch()
    assert load_data(tmp_path, "captioning", format="coco", split="train")[0]["image"] == str(
        tmp_path / "images" / COCO_TRAIN
    )
    elsewhere = tmp_path / "elsewhere"
    rows = load_data(tmp_path, "captioning", format="coco", split="train", media_root=elsewhere)
    assert rows[0]["image"] == str(elsewhere / COCO_TRAIN)
    flickr(tmp_path)
    (tmp_path / "flickr30k-images").mkdir()
    (tmp_path / "flickr30k-images" / "1001.jpg").touch()
    row = load_data(tmp_path, "retrieval", format="flickr30k", split="train")[0]
    assert row["image"] == str(tmp_path / "flickr30k-images" / "1001.jpg")


def test_second_folder_of_visual_genome(tmp_path: Path) -> None:
    vg(tmp_path)
    (tmp_path / "VG_100K_2").mkdir()
    (tmp_path / "VG_100K_2" / "3.jpg").touch()
    assert load_data(tmp_path, "vqa", format="vg-qa", split="train")[0]["image"].endswith("VG_100K_2/3.jpg")


def test_further_fields_can_be_kept(tmp_path: Path) -> None:
    aokvqa(tmp_path)
    row = load_data(tmp_path, "vqa", format="aokvqa", split="val", keep_columns=["choices", "correct_choice_idx"])[0]
    assert row["choices"][row["correct_choice_idx"]] == "red"
    nocaps(tmp_path)
    row = load_data(tmp_path, "captioning", format="nocaps", split="val", keep_columns=["domain"])[0]
    assert row["domain"] == "near-domain"


def test_errors_name_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="coco_karpathy_train.json or dataset_coco.json"):
        load_data(tmp_path, "captioning", format="coco", split="train")
    with pytest.raises(DataError, match="no split 'minival' for captioning; it has train, val, test"):
        load_data(tmp_path, "captioning", format="coco", split="minival")
    with pytest.raises(DataError, match="Give split=, one of train"):
        load_data(tmp_path, "captioning", format="coco")
    with pytest.raises(DataError, match="'coco' is for captioning and .*, not for 'vqa'"):
        load_data(tmp_path, "vqa", format="coco", split="train")
    write_json(tmp_path / "dataset_coco.json", {"images": [{"file": 1}]})
    with pytest.raises(DataError, match="does not have the form of the published file: KeyError 'split'"):
        load_data(tmp_path, "captioning", format="coco", split="train")
    vqa_files("v2_", "val", "val2014", 42)(tmp_path)
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    path.write_text(json.dumps({"annotations": []}))
    with pytest.raises(DataError, match="no annotation of question 42000.*not of one version"):
        load_data(tmp_path, "vqa", format="vqav2", split="val")
    assert set(splits_of("gqa", "vqa")) >= {"train", "val", "testdev", "test"}
