# SPDX-License-Identifier: Apache-2.0
"""Readers of the annotation files of published data sets, one for each form.

A reader gets the paths of the files and the folder of images or videos, and yields where a record is from and the
record, under the names of the contract. Further fields that users may want (`choices`, `domain`) keep their names.
"""

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from modeling_lavis.data.columns import DataError
from modeling_lavis.data.records import VIDEO_SUFFIXES, Record, load_json, read_json

Records = Iterator[tuple[str, Record]]
Reader = Callable[[Sequence[str], str], Records]


def _stem(path: Any) -> str:
    return PurePosixPath(str(path).replace("\\", "/")).stem


def plain(paths: Sequence[str], folder: str) -> Records:
    """LAVIS's files whose records already have the names of the contract."""
    for path in paths:
        yield from read_json(path)


# ---- captions ----


def lavis_captions(paths: Sequence[str], folder: str) -> Records:
    """LAVIS's captions: a record per caption for training, and per image, without an id, for evaluation."""
    for place, record in plain(paths, folder):
        image_id = record.get("image_id")
        if image_id is None:
            # parity: the last part of the file name, a number in COCO and Flickr30k
            part = _stem(record["image"]).split("_")[-1]
            image_id = int(part) if part.isdecimal() else part
        yield place, {**record, "image_id": image_id}


def _karpathy(path: str, splits: Sequence[str], per_caption: bool) -> Records:
    for index, image in enumerate(load_json(path)["images"]):
        if image["split"] not in splits:
            continue
        name = "/".join(part for part in (image.get("filepath"), image["filename"]) if part)
        stem = _stem(name)
        image_id = image.get("cocoid", int(stem) if stem.isdecimal() else stem)
        captions = [sentence["raw"] for sentence in image["sentences"]]
        for caption in captions if per_caption else [captions]:
            yield f"image {index}", {"image": name, "caption": caption, "image_id": image_id}


def karpathy_train(paths: Sequence[str], folder: str) -> Records:
    """Karpathy's file: a record per caption of the split `train` and, in COCO, `restval`, as in LAVIS."""
    yield from _karpathy(paths[0], ("train", "restval"), per_caption=True)


def karpathy_val(paths: Sequence[str], folder: str) -> Records:
    """Karpathy's file: a record per image of the split `val`."""
    yield from _karpathy(paths[0], ("val",), per_caption=False)


def karpathy_test(paths: Sequence[str], folder: str) -> Records:
    """Karpathy's file: a record per image of the split `test`."""
    yield from _karpathy(paths[0], ("test",), per_caption=False)


def nocaps_lavis(paths: Sequence[str], folder: str) -> Records:
    """LAVIS's list of images, whose ids are called `img_id`."""
    for place, record in plain(paths, folder):
        yield place, {"image_id": record.get("img_id"), **record}


def nocaps_official(paths: Sequence[str], folder: str) -> Records:
    """The official file in COCO's form: a record per image; without captions for the test split."""
    content = load_json(paths[0])
    captions: dict[Any, list[str]] = {}
    for annotation in content.get("annotations", ()):
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    for index, image in enumerate(content["images"]):
        record = {"image": image["file_name"], "image_id": image["id"], "domain": image.get("domain")}
        if image["id"] in captions:
            record["caption"] = captions[image["id"]]
        yield f"image {index}", record


# ---- questions ----


def vqa_pair(paths: Sequence[str], folder: str) -> Records:
    """The official questions of VQAv2 or OK-VQA and, except for test splits, their annotations."""
    content = load_json(paths[0])
    annotations: Mapping[Any, Mapping[str, Any]] = {}
    if len(paths) > 1:
        annotations = {entry["question_id"]: entry for entry in load_json(paths[1])["annotations"]}
    # test-dev has the images of the test set
    images = content["data_subtype"].replace("test-dev", "test")
    for index, question in enumerate(content["questions"]):
        record = {
            "image": f"{images}/COCO_{images}_{int(question['image_id']):012d}.jpg",
            "question": question["question"],
            "question_id": question["question_id"],
            "dataset": "vqa",
        }
        if len(paths) > 1:
            if question["question_id"] not in annotations:
                raise DataError(
                    f"{paths[1]} has no annotation of question {question['question_id']} in {paths[0]}; the two files"
                    " are not of one version and split."
                )
            annotation = annotations[question["question_id"]]
            record["answer"] = [entry["answer"] for entry in annotation["answers"]]
            record["question_type"] = annotation.get("question_type")
            record["answer_type"] = annotation.get("answer_type")
        yield f"question {index}", record


def vg_lavis(paths: Sequence[str], folder: str) -> Records:
    """LAVIS's questions of Visual Genome, marked for their lower weight."""
    for place, record in plain(paths, folder):
        yield place, {**record, "dataset": "vg"}


def vg_official(paths: Sequence[str], folder: str) -> Records:
    """The official questions of Visual Genome, whose images are in the folders `VG_100K` and `VG_100K_2`."""
    for image in load_json(paths[0]):
        number = image.get("id", image.get("image_id"))
        second = f"VG_100K_2/{number}.jpg"
        name = second if os.path.exists(os.path.join(folder, second)) else f"VG_100K/{number}.jpg"
        for entry in image["qas"]:
            yield (
                f"question {entry['qa_id']}",
                {
                    "image": name,
                    "question": entry["question"],
                    "answer": entry["answer"].strip().rstrip(".").lower(),
                    "question_id": entry["qa_id"],
                    "dataset": "vg",
                },
            )


def aokvqa(paths: Sequence[str], folder: str) -> Records:
    """A-OKVQA: direct answers, with `choices` and `correct_choice_idx`; LAVIS's copy has the path of the image, too."""
    for place, record in plain(paths, folder):
        row = {**record, "image": record.get("image") or f"{record['split']}2017/{int(record['image_id']):012d}.jpg"}
        if record.get("direct_answers") is not None:
            row["answer"] = record["direct_answers"]
        yield place, row


def gqa(paths: Sequence[str], folder: str) -> Records:
    """GQA: an object by question id (official), or a list (LAVIS)."""
    for path in paths:
        content = load_json(path)
        if isinstance(content, list):
            yield from read_json(path)
            continue
        for question_id, entry in content.items():
            record = {"image": f"{entry['imageId']}.jpg", "question": entry["question"], "question_id": question_id}
            if entry.get("answer") is not None:
                record["answer"] = entry["answer"]
            kinds = entry.get("types") or {}
            record["question_type"], record["answer_type"] = kinds.get("structural"), kinds.get("semantic")
            yield f"question {question_id}", record


# ---- statements ----


def _nlvr2(paths: Sequence[str], folder: str, place_of: Callable[[Record], str]) -> Records:
    for place, record in plain(paths, folder):
        # train-10171-0-0 is the first statement on the pair train-10171-0
        pair = record["identifier"].rpartition("-")[0]
        images = [f"{place_of(record)}/{pair}-img{side}.png" for side in (0, 1)]
        yield place, {**record, "images": images}


def nlvr2_train(paths: Sequence[str], folder: str) -> Records:
    """NLVR2's training statements; images are in `train/<directory>`."""
    yield from _nlvr2(paths, folder, lambda record: f"train/{record['directory']}")


def nlvr2_dev(paths: Sequence[str], folder: str) -> Records:
    """NLVR2's development statements; images are in `dev`."""
    yield from _nlvr2(paths, folder, lambda record: "dev")


def nlvr2_test(paths: Sequence[str], folder: str) -> Records:
    """NLVR2's public test statements; images are in `test1`."""
    yield from _nlvr2(paths, folder, lambda record: "test1")


def snli_ve_official(paths: Sequence[str], folder: str) -> Records:
    """The official JSON Lines of SNLI-VE; pairs without a majority label (`-`) are left out, as in SNLI."""
    for place, record in read_json(paths[0]):
        if record["gold_label"] == "-":
            continue
        image = str(record.get("Flickr30K_ID") or record["Flikr30kID"])
        yield (
            place,
            {
                "image": image if image.endswith(".jpg") else f"{image}.jpg",
                "sentence": record["sentence2"],
                "label": record["gold_label"],
                "premise": record.get("sentence1"),
            },
        )


def snli_ve_lavis(paths: Sequence[str], folder: str) -> Records:
    """LAVIS's SNLI-VE, whose images are ids of Flickr30k."""
    for place, record in plain(paths, folder):
        image = str(record["image"])
        yield place, {**record, "image": image if image.endswith(".jpg") else f"{image}.jpg"}


# ---- videos ----


def lavis_videos(paths: Sequence[str], folder: str) -> Records:
    """LAVIS's captions and questions of videos."""
    for place, record in plain(paths, folder):
        yield place, {"video_id": _stem(record["video"]), **record}


class _VideoNames:
    """Names of video files by their stem; annotation files leave out the suffix."""

    def __init__(self, folder: str) -> None:
        entries = os.listdir(folder) if os.path.isdir(folder) else []
        self.names = {
            _stem(name): name for name in sorted(entries) if name[name.rfind(".") :].lower() in VIDEO_SUFFIXES
        }

    def __getitem__(self, stem: str) -> str:
        return self.names.get(stem, f"{stem}.mp4")


def _msrvtt(paths: Sequence[str], folder: str, splits: Sequence[str]) -> Records:
    names, content = _VideoNames(folder), load_json(paths[0])
    chosen = {video["video_id"] for video in content["videos"] if video["split"] in splits}
    for index, sentence in enumerate(content["sentences"]):
        video_id = sentence["video_id"]
        if video_id in chosen:
            record = {"video": names[video_id], "caption": sentence["caption"], "video_id": video_id}
            yield f"sentence {index}", record


def msrvtt_train(paths: Sequence[str], folder: str) -> Records:
    """The official `videodatainfo` of MSR-VTT: a record per sentence of a training video."""
    yield from _msrvtt(paths, folder, ("train",))


def msrvtt_val(paths: Sequence[str], folder: str) -> Records:
    """The official `videodatainfo` of MSR-VTT: a record per sentence of a validation video."""
    yield from _msrvtt(paths, folder, ("validate", "val"))


def msrvtt_test(paths: Sequence[str], folder: str) -> Records:
    """The official `videodatainfo` of MSR-VTT: a record per sentence of a test video."""
    yield from _msrvtt(paths, folder, ("test",))


def msrvtt_1k(paths: Sequence[str], folder: str) -> Records:
    """The 1,000 test pairs of MSR-VTT that retrieval is usually scored on (split "1k-A")."""
    names = _VideoNames(folder)
    with open(paths[0], encoding="utf-8-sig", newline="") as file:
        for index, entry in enumerate(csv.DictReader(file)):
            video_id = entry["video_id"]
            yield f"row {index}", {"video": names[video_id], "caption": entry["sentence"], "video_id": video_id}


def msrvtt_qa(paths: Sequence[str], folder: str) -> Records:
    """The official questions of MSRVTT-QA, whose videos have numbers."""
    names = _VideoNames(folder)
    for place, record in plain(paths, folder):
        video_id = f"video{record['video_id']}"
        yield place, {**record, "video": names[video_id], "question_id": record["id"]}


def msvd_qa(paths: Sequence[str], folder: str) -> Records:
    """The official questions of MSVD-QA; `youtube_mapping.txt` has the names of the numbered videos."""
    names, clips = _VideoNames(folder), {}
    for path in paths[1:]:
        with open(path, encoding="utf-8") as file:
            clips = {number: clip for clip, number in (line.split() for line in file if line.strip())}
    for place, record in plain(paths[:1], folder):
        number = f"vid{record['video_id']}"
        yield place, {**record, "video": names[clips.get(number, number)], "question_id": record["id"]}


def didemo_official(paths: Sequence[str], folder: str) -> Records:
    """DiDeMo: the descriptions of all moments of a video, in the order of the file, as one text."""
    names = _VideoNames(folder)
    descriptions: dict[str, list[str]] = {}
    for _, record in plain(paths, folder):
        descriptions.setdefault(record["video"], []).append(record["description"])
    for video, texts in descriptions.items():
        stem = _stem(video)
        caption = " ".join(text.strip() for text in texts)
        yield f"video {video}", {"video": names[stem], "caption": caption, "video_id": stem}


__all__ = ["Reader", "Records"]
