# SPDX-License-Identifier: Apache-2.0
"""`make_collator`: the collator of a task and a processor, with the published training transform."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from modeling_lavis.data.checks import RowCheck, SkipBadRows
from modeling_lavis.data.collators import (
    ENTAILMENT_LABELS,
    PAIR_LABELS,
    CaptioningCollator,
    ClassificationCollator,
    GenerativePretrainingCollator,
    ImagePairCollator,
    ImageTextCollator,
    QuestionAnsweringCollator,
)
from modeling_lavis.data.columns import task_columns
from modeling_lavis.data.row_changes import ChangedRows, RowChanges
from modeling_lavis.data.transforms import ImageTrainTransform
from modeling_lavis.data.video_collators import VideoQuestionAnsweringCollator, VideoTextCollator
from modeling_lavis.data.video_transforms import alpro_video_train


@dataclass(frozen=True)
class Collation:
    """
    How the rows of a task are collated.

    Args:
        collator (`Callable`): class of the collator.
        labels (`Mapping[str, int]`, *optional*): default class indices; `None` if the task has none.
        needs_labels (`bool`, *optional*): whether there are classes, but no default ones.
        training (`Mapping[str, Any]`, *optional*): options in training.
        options (`Mapping[str, Any]`, *optional*): options always.
        contrastive (`bool`, *optional*): whether rows of a batch are each other's negatives.
    """

    collator: Callable[..., Any]
    labels: Mapping[str, int] | None = None
    needs_labels: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    contrastive: bool = False

    @property
    def has_labels(self) -> bool:
        """Whether the collator takes `label2id`."""
        return self.needs_labels or self.labels is not None


COLLATIONS: Mapping[str, Collation] = {
    "captioning": Collation(CaptioningCollator),
    "retrieval": Collation(ImageTextCollator, contrastive=True),
    "pretraining": Collation(ImageTextCollator, contrastive=True),
    "generative-pretraining": Collation(GenerativePretrainingCollator),
    "vqa": Collation(QuestionAnsweringCollator),
    "nlvr": Collation(ImagePairCollator, PAIR_LABELS, training={"swap": True}),
    "classification": Collation(ClassificationCollator, ENTAILMENT_LABELS, options={"default_text": ""}),
    "video-qa": Collation(VideoQuestionAnsweringCollator, needs_labels=True),
    "video-retrieval": Collation(VideoTextCollator, contrastive=True),
}
"""The collator of each task."""


def training_transform(processor: Any, **options: Any) -> Callable[[Any], torch.Tensor]:
    """
    The published training transform of a processor's family, at the size and with the normalization of the processor.

    Args:
        processor (`ProcessorMixin`): a processor of this package.
        options: other options of [`ImageTrainTransform`] or [`VideoTrainTransform`], e.g. `flip_probability=0.0` for
            texts that tell left from right.

    Returns:
        `Callable`: `blip_image_train` for ALBEF and BLIP, `blip2_image_train` for BLIP-2, `alpro_video_train` for
        ALPRO.

    Raises:
        ValueError: the processor's images are not square.
    """
    videos = getattr(processor, "video_processor", None)
    part = videos if videos is not None else processor.image_processor
    size = part.size if isinstance(part.size, int) else {part.size["height"], part.size["width"]}
    sides = {size} if isinstance(size, int) else size
    if len(sides) != 1:
        raise ValueError(
            f"The processor makes images of {part.size}; training transforms make squares. Pass transform=."
        )
    options = {"image_mean": part.image_mean, "image_std": part.image_std, **options}
    if videos is not None:
        return alpro_video_train(sides.pop(), videos.num_frames, **options)
    # blip_image_train and blip2_image_train differ in this alone
    options.setdefault("augment", "Blip2" not in type(processor).__name__)
    # as in evaluation, where training would otherwise see black below transparent pixels
    for name in ("do_exif_transpose", "background"):
        if hasattr(part, name):
            options.setdefault(name, getattr(part, name))
    return ImageTrainTransform(sides.pop(), **options)


def make_collator(
    task: str,
    processor: Any,
    *,
    training: bool = False,
    label2id: Mapping[str, int] | None = None,
    transform: Callable[[Any], torch.Tensor] | None = None,
    transform_options: Mapping[str, Any] | None = None,
    row_changes: Mapping[str, Any] | RowChanges | None = None,
    on_bad_row: str = "raise",
    **options: Any,
) -> Callable[[Any], dict[str, Any]]:
    """
    The collator of a task: rows of [`load_data`] to batches for a plain `Trainer` or `DataLoader`.

    A Trainer needs `TrainingArguments(remove_unused_columns=False)`.

    Args:
        task (`str`): a key of `TASKS`.
        processor (`ProcessorMixin`): processor of the model.
        training (`bool`, *optional*, defaults to `False`):
            whether to apply the published training transform of the family (see [`training_transform`]), and to swap
            the images of pairs for the task `nlvr`; the evaluation transform of the processor otherwise.
        label2id (`Mapping[str, int]`, *optional*):
            class indices of names, e.g. `model.config.label2id` or [`load_label2id`]. Defaults to those of NLVR2 and
            SNLI-VE for `nlvr` and `classification`; `video-qa` needs it.
        transform (`Callable`, *optional*): another transform, in training or not.
        transform_options (`Mapping[str, Any]`, *optional*): options of [`training_transform`].
        row_changes (`Mapping[str, Any]` or [`RowChanges`], *optional*):
            for training: random changes of image and words together, or their options, e.g.
            `{"mirror_probability": 0.5, "mirror_words": {"left": "right"}}`.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` for rows that cannot be read, or have an empty text or an unknown label; see
            [`SkipBadRows`].
        options: options of the collator, such as `columns`, `text_options`, `image_numbers`, `answer_length`.

    Returns:
        `Callable`: the collator; a [`SkipBadRows`] under `on_bad_row="skip"`.

    Raises:
        ValueError: the task is unknown, the processor is of another family, or an option does not fit.
    """
    columns = task_columns(task)
    collation = COLLATIONS[task]
    is_video = columns.media.kind == "video"
    if is_video != (getattr(processor, "video_processor", None) is not None):
        raise ValueError(
            f"The task {task!r} is about {'videos' if is_video else 'images'}, which a {type(processor).__name__} does"
            " not process; load the processor of the model that is trained."
        )
    if on_bad_row not in ("raise", "skip"):
        raise ValueError(f"on_bad_row is {on_bad_row!r}; expected 'raise' or 'skip'.")
    if transform_options and (transform is not None or not training):
        raise ValueError("transform_options are those of the training transform: give training=True and no transform.")
    if transform is None and training:
        transform = training_transform(processor, **dict(transform_options or {}))
    arguments: dict[str, Any] = {**collation.options, **(collation.training if training else {}), **options}
    if collation.has_labels:
        labels = label2id if label2id is not None else collation.labels
        if labels is None:
            raise ValueError(
                f"The task {task!r} needs label2id: the model's config.label2id, or load_label2id(...) of the data's"
                " ans2label.json."
            )
        arguments["label2id"] = labels
    elif label2id is not None:
        raise ValueError(f"The task {task!r} has no classes; leave label2id out.")
    collator: Any = collation.collator(processor, transform=transform, **arguments)
    if row_changes is not None:
        if is_video:
            raise ValueError(f"The task {task!r} is about videos, which row_changes do not change; leave it out.")
        if not isinstance(row_changes, RowChanges):
            row_changes = RowChanges(columns=collator.columns, open_image=collator.open_image, **row_changes)
        collator = ChangedRows(collator, row_changes)
    if on_bad_row == "raise":
        return collator
    # answers outside the classes are part of video question answering
    known = None if task == "video-qa" else arguments.get("label2id")
    check = RowCheck(task, known, targets=training, names=dict(options.get("columns") or {}))
    return SkipBadRows(collator, replace=training and not collation.contrastive, check=check)


__all__ = ["COLLATIONS", "Collation", "make_collator", "training_transform"]
