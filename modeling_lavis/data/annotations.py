# SPDX-License-Identifier: Apache-2.0
"""Published data sets: which annotation files each has, by split, and where their images and videos are.

[`ANNOTATIONS`] is the table, `annotation_readers` has one small function for each form of file. The files are the
user's: nothing is downloaded.
"""

import csv
import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from modeling_lavis.data import annotation_readers as readers
from modeling_lavis.data.annotation_readers import Reader
from modeling_lavis.data.columns import DataError
from modeling_lavis.data.folders import split_names
from modeling_lavis.data.records import Record, SourceFile
from modeling_lavis.data.rows import RowMaker, find_value


@dataclass(frozen=True)
class Files:
    """
    Annotation files that belong together.

    Args:
        reader (`Callable`): reads them.
        names (`tuple[str, ...]`): their names, or patterns; the reader gets them in this order.
        targets (`bool`, *optional*, defaults to `True`): whether they have captions, answers or labels.
        optional (`tuple[str, ...]`, *optional*): further files that the reader uses where they are.
    """

    reader: Reader
    names: tuple[str, ...]
    targets: bool = True
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Annotations:
    """
    The files of a published data set.

    Args:
        title (`str`): its name, with a reference.
        tasks (`tuple[str, ...]`): tasks that it is for.
        splits (`Mapping[str, tuple[Files, ...]]`): the files of each split; the first ones that are there are read.
        media (`tuple[str, ...]`): folders in which images or videos may be.
    """

    title: str
    tasks: tuple[str, ...]
    splits: Mapping[str, tuple[Files, ...]]
    media: tuple[str, ...] = ("", "images")


_CAPTIONS = ("captioning", "retrieval", "pretraining", "generative-pretraining")


def _karpathy(name: str, file: str, splits: Mapping[str, Reader]) -> Mapping[str, tuple[Files, ...]]:
    """LAVIS's three files, or the one of Karpathy."""
    return {
        split: (Files(readers.lavis_captions, (f"{name}_{split}.json",)), Files(reader, (file,)))
        for split, reader in splits.items()
    }


_KARPATHY_SPLITS: Mapping[str, Reader] = {
    "train": readers.karpathy_train,
    "val": readers.karpathy_val,
    "test": readers.karpathy_test,
}


def _vqa(prefix: str, lavis: Mapping[str, tuple[str, ...]], years: Mapping[str, str]) -> dict[str, tuple[Files, ...]]:
    """The official pair of files of a split, or LAVIS's one."""
    splits = {}
    for split, year in years.items():
        questions = f"{prefix}OpenEnded_mscoco_{year}_questions.json"
        answers = f"{prefix}mscoco_{year}_annotations.json"
        has_answers = not split.startswith("test")
        names = (questions, answers) if has_answers else (questions,)
        official = Files(readers.vqa_pair, names, targets=has_answers)
        splits[split] = (
            official,
            *(Files(readers.plain, (name,), has_answers and "eval" not in name) for name in lavis.get(split, ())),
        )
    return splits


def _videos(
    kinds: tuple[str, ...], official: Mapping[str, tuple[Files, ...]] | None = None
) -> Mapping[str, tuple[Files, ...]]:
    """LAVIS's files, such as `qa_train.json`, or the official ones."""
    return {
        split: (
            *(Files(readers.lavis_videos, (f"{kind}_{split}.json",)) for kind in kinds),
            *(official or {}).get(split, ()),
        )
        for split in ("train", "val", "test")
    }


ANNOTATIONS: Mapping[str, Annotations] = {
    "coco": Annotations(
        "COCO captions, Karpathy's splits (arXiv:1504.00325, arXiv:1412.2306)",
        _CAPTIONS,
        _karpathy("coco_karpathy", "dataset_coco.json", _KARPATHY_SPLITS),
    ),
    "flickr30k": Annotations(
        "Flickr30k, Karpathy's splits (arXiv:1505.04870)",
        _CAPTIONS,
        _karpathy("flickr30k", "dataset_flickr30k.json", _KARPATHY_SPLITS),
        ("", "images", "flickr30k-images", "flickr30k_images"),
    ),
    "vqav2": Annotations(
        "VQAv2 (arXiv:1612.00837)",
        ("vqa",),
        _vqa(
            "v2_",
            {"train": ("vqa_train.json",), "val": ("vqa_val.json", "vqa_val_eval.json"), "test": ("vqa_test.json",)},
            {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"},
        ),
    ),
    "vg-qa": Annotations(
        "Visual Genome questions (arXiv:1602.07332)",
        ("vqa",),
        {
            "train": (
                Files(readers.vg_lavis, ("vg_qa.json",)),
                Files(readers.vg_official, ("question_answers.json",)),
            )
        },
    ),
    "okvqa": Annotations(
        "OK-VQA (arXiv:1906.00067)",
        ("vqa",),
        _vqa(
            "",
            {"train": ("okvqa_train.json",), "val": ("okvqa_val_eval.json", "vqa_val_eval.json")},
            {"train": "train2014", "val": "val2014"},
        ),
    ),
    "aokvqa": Annotations(
        "A-OKVQA (arXiv:2206.01718)",
        ("vqa",),
        {
            split: (Files(readers.aokvqa, (f"aokvqa_v1p0_{split}.json",), targets=split != "test"),)
            for split in ("train", "val", "test")
        },
    ),
    "gqa": Annotations(
        "GQA, balanced questions, or all (arXiv:1902.09506)",
        ("vqa",),
        {
            "train": (Files(readers.gqa, ("train_balanced_questions.json",)),),
            "train-all": (
                Files(readers.gqa, ("train_all_questions*.json",)),
                Files(readers.gqa, ("train_all_questions/train_all_questions_*.json",)),
            ),
            "val": (Files(readers.gqa, ("val_balanced_questions.json",)),),
            "val-all": (Files(readers.gqa, ("val_all_questions.json",)),),
            "testdev": (Files(readers.gqa, ("testdev_balanced_questions.json",)),),
            "testdev-all": (Files(readers.gqa, ("testdev_all_questions.json",)),),
            "test": (Files(readers.gqa, ("test_balanced_questions.json",), targets=False),),
        },
        ("images", ""),
    ),
    "nlvr2": Annotations(
        "NLVR2 (arXiv:1811.00491)",
        ("nlvr",),
        {
            "train": (
                Files(readers.plain, ("nlvr_train.json",)),
                Files(readers.nlvr2_train, ("train.json",)),
            ),
            "dev": (Files(readers.plain, ("nlvr_dev.json",)), Files(readers.nlvr2_dev, ("dev.json",))),
            "test1": (Files(readers.plain, ("nlvr_test.json",)), Files(readers.nlvr2_test, ("test1.json",))),
        },
    ),
    "snli-ve": Annotations(
        "SNLI-VE (arXiv:1901.06706)",
        ("classification",),
        {
            split: (
                Files(readers.snli_ve_official, (f"snli_ve_{split}.jsonl",)),
                Files(readers.snli_ve_lavis, (f"ve_{split}.json",)),
            )
            for split in ("train", "dev", "test")
        },
        ("", "images", "flickr30k-images", "flickr30k_images", "flickr30k_images/flickr30k_images"),
    ),
    "nocaps": Annotations(
        "NoCaps (arXiv:1812.08658)",
        ("captioning",),
        {
            "val": (
                Files(readers.nocaps_official, ("nocaps_val_4500_captions.json",)),
                Files(readers.nocaps_lavis, ("nocaps_val.json",), targets=False),
                Files(readers.nocaps_official, ("nocaps_val_image_info.json",), targets=False),
            ),
            "test": (
                Files(readers.nocaps_lavis, ("nocaps_test.json",), targets=False),
                Files(readers.nocaps_official, ("nocaps_test_image_info.json",), targets=False),
            ),
        },
        ("", "images", "val", "test"),
    ),
    "msrvtt": Annotations(
        "MSR-VTT (Xu et al. 2016) and MSRVTT-QA (Xu et al. 2017)",
        ("video-retrieval", "video-qa"),
        {},
        ("videos", "videos/all", "", "TrainValVideo", "TestVideo"),
    ),
    "msvd": Annotations(
        "MSVD (Chen and Dolan 2011) and MSVD-QA (Xu et al. 2017)",
        ("video-retrieval", "video-qa"),
        {},
        ("videos", "YouTubeClips", "video", ""),
    ),
    "didemo": Annotations(
        "DiDeMo, all descriptions of a video as one text (arXiv:1708.01641)",
        ("video-retrieval",),
        _videos(
            ("retrieval",),
            {split: (Files(readers.didemo_official, (f"{split}_data.json",)),) for split in ("train", "val", "test")},
        ),
        ("videos", ""),
    ),
}
"""Published data sets by the name of their format."""

_VIDEO_TASKS: Mapping[tuple[str, str], Mapping[str, tuple[Files, ...]]] = {
    ("msrvtt", "video-retrieval"): {
        **_videos(
            ("retrieval", "cap"),
            {
                "train": (
                    Files(readers.msrvtt_train, ("train_val_videodatainfo.json",)),
                    Files(readers.msrvtt_train, ("MSRVTT_data.json",)),
                ),
                "val": (
                    Files(readers.msrvtt_val, ("train_val_videodatainfo.json",)),
                    Files(readers.msrvtt_val, ("MSRVTT_data.json",)),
                ),
                "test": (
                    Files(readers.msrvtt_test, ("test_videodatainfo.json",)),
                    Files(readers.msrvtt_test, ("MSRVTT_data.json",)),
                ),
            },
        ),
        "test-1k": (Files(readers.msrvtt_1k, ("MSRVTT_JSFUSION_test.csv",)),),
    },
    ("msrvtt", "video-qa"): _videos(
        ("qa",), {split: (Files(readers.msrvtt_qa, (f"{split}_qa.json",)),) for split in ("train", "val", "test")}
    ),
    ("msvd", "video-retrieval"): _videos(("retrieval", "cap")),
    ("msvd", "video-qa"): _videos(
        ("qa",),
        {
            split: (Files(readers.msvd_qa, (f"{split}_qa.json",), optional=("youtube_mapping.txt",)),)
            for split in ("train", "val", "test")
        },
    ),
}
"""Splits of data sets whose files differ between tasks."""


def splits_of(format: str, task: str) -> Mapping[str, tuple[Files, ...]]:
    """
    The splits of a published data set, with their files.

    Raises:
        DataError: the data set is not for this task.
    """
    annotations = ANNOTATIONS[format]
    if task not in annotations.tasks:
        raise DataError(f"{format!r} is for {' and '.join(annotations.tasks)}, not for {task!r}.")
    return annotations.splits or _VIDEO_TASKS[format, task]


@dataclass(frozen=True)
class AnnotationFile(SourceFile):
    """
    Annotation files of one split, as one source.

    Args:
        files (`Files`): what they are.
        paths (`tuple[str, ...]`): where they are, in the order of their names, and those of `optional`.
    """

    files: Files = Files(readers.plain, ())
    paths: tuple[str, ...] = ()

    def records_and_errors(self) -> Iterator[tuple[str, Record | DataError]]:
        """As in the base class."""
        try:
            yield from self.files.reader(self.paths, self.media_folder)
        except DataError:
            raise
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError, RecursionError, csv.Error) as error:
            raise DataError(
                f"{self.path} does not have the form of the published file: {type(error).__name__} {error}. Check that"
                " it is the file of this data set; load files of another form without format=."
            ) from error


def annotation_files(folder: str, maker: RowMaker, split: str | None, format: str) -> tuple[list[SourceFile], RowMaker]:
    """
    Find the annotation files of a published data set in a user's folder.

    Args:
        folder (`str`): folder with the files, or with a folder `annotations` or `annotation` that has them.
        maker (`RowMaker`): makes the rows; its `media_root` is searched for images and videos.
        split (`str`, *optional*): split, by its official name or `train`, `val`, `test`; `"train+val"` for two.
        format (`str`): a key of [`ANNOTATIONS`].

    Returns:
        `tuple[list[SourceFile], RowMaker]`: the files, and the maker for their rows.

    Raises:
        FileNotFoundError: the files are not there. DataError: the data set has no such split, or another task.
    """
    splits = splits_of(format, maker.task.task)
    if split is None:
        raise DataError(f"Give split=, one of {', '.join(splits)}.")
    sources: list[SourceFile] = []
    targets = True
    for part in split.split("+"):
        name = next((known for known in [part, *split_names(part), f"{part}1"] if known in splits), None)
        if name is None:
            raise DataError(f"{format!r} has no split {part!r} for {maker.task.task}; it has {', '.join(splits)}.")
        found = _find(folder, splits[name])
        if found is None:
            alternatives = " or ".join(" with ".join(files.names) for files in splits[name])
            raise FileNotFoundError(
                f"{folder} has no annotation files of {format!r}, split {name!r}. Expected {alternatives}, there or in"
                " its folder annotations."
            )
        files, paths = found
        targets = targets and files.targets
        source = AnnotationFile(paths[0], "annotations", files=files, paths=paths)
        base = Path(maker.media_root if maker.media_root is not None else folder)
        sources.append(_with_media(source, base, maker, ANNOTATIONS[format].media))
    # the folder of the media is now that of each source
    return sources, dataclasses.replace(maker, media_root=None, targets=targets)


def _find(folder: str, alternatives: tuple[Files, ...]) -> tuple[Files, tuple[str, ...]] | None:
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"There is no folder {folder!r}; expected one with annotation files.")
    for files in alternatives:
        for inner in (".", "annotations", "annotation", "data", "questions"):
            base = Path(folder) / inner
            paths: list[str] = []
            for name in files.names:
                paths += sorted(str(path) for path in base.glob(name))
            if len(paths) >= len(files.names) and all(any(base.glob(name)) for name in files.names):
                paths += [str(base / name) for name in files.optional if (base / name).is_file()]
                return files, tuple(paths)
    return None


def _with_media(source: AnnotationFile, base: Path, maker: RowMaker, folders: tuple[str, ...]) -> AnnotationFile:
    """The source with the folder in which its first image or video is; the base if it is in none."""
    for inner in folders:
        candidate = dataclasses.replace(source, folder=str(base / inner))
        record = next((record for _, record in candidate.records()), None)
        _, value = find_value(record or {}, maker.task.media, maker.names)
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, str) and os.path.exists(base / inner / first):
            return candidate
    return dataclasses.replace(source, folder=str(base))


__all__ = ["ANNOTATIONS", "AnnotationFile", "Annotations", "Files", "annotation_files", "splits_of"]
