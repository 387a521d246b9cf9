# SPDX-License-Identifier: Apache-2.0
"""The columns that the rows of a data set have, by task: one contract for loading, checking, collating, evaluating.

The names are those of LAVIS's annotation files. `docs/data.md` shows this table to users.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

INPUT, TARGET, OPTIONAL = "always", "for training and scores", "optional"

ORIGIN = "origin"
"""Column that says where a row is from, such as `train.json, row 17`, for messages; written by `load_data`."""

PROBLEM = "problem"
"""Column that says why a row could not be read, under `load_data(on_bad_row="keep")`; `None` for all other rows."""


class DataError(ValueError):
    """Data that cannot be used as they are; the message names file, row and remedy."""


@dataclass(frozen=True)
class Column:
    """
    A column of a task.

    Args:
        name (`str`): name of the column.
        kind (`str`):
            what its values are: `"image"`, `"images"` (two), `"video"`, `"text"`, `"texts"` (one text or a list),
            `"label"` (a name, a boolean or a class index), `"id"` (an integer or a string), `"number"`, or `"numbers"`
            (one number or a list).
        needed (`str`): `"always"`, `"for training and scores"` (not to predict) or `"optional"`.
        meaning (`str`): description for the documentation.
    """

    name: str
    kind: str
    needed: str
    meaning: str


@dataclass(frozen=True)
class TaskColumns:
    """
    The columns of a task.

    Args:
        task (`str`): name of the task.
        heads (`str`): which heads it is for, for the documentation.
        columns (`tuple[Column, ...]`): the columns.
    """

    task: str
    heads: str
    columns: tuple[Column, ...]

    @cached_property
    def names(self) -> list[str]:
        """Names of all columns."""
        return [column.name for column in self.columns]

    @cached_property
    def media(self) -> Column:
        """The column of images or videos."""
        return next(column for column in self.columns if column.kind in MEDIA_KINDS)

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"The task {self.task!r} has no column {name!r}; it has {', '.join(self.names)}.")

    def needed(self, targets: bool = True) -> list[Column]:
        """The columns that every row has; without `targets`, those that predicting needs."""
        levels = (INPUT, TARGET) if targets else (INPUT,)
        return [column for column in self.columns if column.needed in levels]


_MAX_DIGITS = 19  # of an integer of 64 bits; longer ones stay texts

MEDIA_KINDS = ("image", "images", "video")

_IMAGE = Column("image", "image", INPUT, "the image")
_IMAGE_ID = Column("image_id", "id", OPTIONAL, "rows of one image share it; by default the path of the image")
_VIDEO = Column("video", "video", INPUT, "the video")
_QUESTION = Column("question", "text", INPUT, "the question")
_QUESTION_ID = Column("question_id", "id", OPTIONAL, "number of the question, for result files")
_START = Column("start", "number", OPTIONAL, "time in seconds from which frames are sampled")
_END = Column("end", "number", OPTIONAL, "time in seconds before which frames are sampled")
_CAPTION = "one caption, or a list of which training draws one"


def _pairs(task: str, heads: str) -> TaskColumns:
    return TaskColumns(task, heads, (_IMAGE, Column("caption", "texts", INPUT, _CAPTION), _IMAGE_ID))


TASKS: Mapping[str, TaskColumns] = {
    columns.task: columns
    for columns in (
        TaskColumns(
            "captioning",
            "`ForConditionalGeneration`",
            (_IMAGE, Column("caption", "texts", TARGET, _CAPTION), _IMAGE_ID),
        ),
        _pairs("retrieval", "`ForImageTextRetrieval`"),
        TaskColumns(
            "vqa",
            "`ForQuestionAnswering`",
            (
                _IMAGE,
                _QUESTION,
                Column("answer", "texts", TARGET, "one answer, or those of all annotators"),
                _QUESTION_ID,
                Column("weight", "numbers", OPTIONAL, "weight of each answer; by default its share of the answers"),
                Column("dataset", "text", OPTIONAL, "where the question is from; answers of `vg` weigh 0.2"),
                Column("question_type", "text", OPTIONAL, "for accuracy by type of question"),
                Column("answer_type", "text", OPTIONAL, "for accuracy by type of answer"),
            ),
        ),
        TaskColumns(
            "nlvr",
            "`ForImagesAndTextClassification`",
            (
                Column("images", "images", INPUT, "left and right image"),
                Column("sentence", "text", INPUT, "the statement"),
                Column("label", "label", TARGET, "`True` or `False`"),
            ),
        ),
        TaskColumns(
            "classification",
            "`ForImageAndTextClassification`",
            (
                _IMAGE,
                Column("sentence", "text", OPTIONAL, "the statement, in all rows or in none"),
                Column("label", "label", TARGET, "name or index of the class"),
            ),
        ),
        TaskColumns(
            "video-qa",
            "`ForVideoQuestionAnswering`",
            (
                _VIDEO,
                _QUESTION,
                Column("answer", "label", TARGET, "the answer, or the index of its class"),
                _QUESTION_ID,
                _START,
                _END,
            ),
        ),
        TaskColumns(
            "video-retrieval",
            "`ForVideoTextRetrieval`",
            (
                _VIDEO,
                Column("caption", "texts", INPUT, _CAPTION),
                Column("video_id", "id", OPTIONAL, "rows of one video share it; by default the path of the video"),
                _START,
                _END,
            ),
        ),
        _pairs("pretraining", "`ForPreTraining`"),
        TaskColumns(
            "generative-pretraining",
            "`LavisBlip2ForConditionalGeneration`",
            (
                _IMAGE,
                Column("caption", "texts", TARGET, _CAPTION),
                _IMAGE_ID,
                Column("prompt", "text", OPTIONAL, "text before the caption, without loss"),
            ),
        ),
    )
}
"""Columns of every task, by its name."""


def task_columns(task: str) -> TaskColumns:
    """
    Look up the columns of a task.

    Args:
        task (`str`): name of the task.

    Returns:
        `TaskColumns`: its columns.

    Raises:
        ValueError: there is no such task.
    """
    if task not in TASKS:
        raise ValueError(f"There is no task {task!r}; expected one of {', '.join(TASKS)}.")
    return TASKS[task]


def class_names(rows: Any, column: str) -> list[str] | None:
    """Names of the classes of a column of `datasets.ClassLabel`, whose values are their indices; `None` for others."""
    features = getattr(rows, "features", None) or {}
    return getattr(features.get(column), "names", None)


def hash_id(value: Any) -> int:
    """An integer of 63 bits for an id, the same in every process, where Python's own hash of strings differs."""
    return int.from_bytes(hashlib.sha1(str(value).encode()).digest()[:8], "big") >> 1


def is_plain_integer(text: str) -> bool:
    """Whether a text is the decimal form of an integer from 0; "007", which may be another id than "7", is not."""
    return len(text) < _MAX_DIGITS and text.isdecimal() and str(int(text)) == text


def contract_table() -> str:
    """The contract as a table in Markdown, for the documentation."""
    lines = ["| task | column | values | needed | meaning |", "| --- | --- | --- | --- | --- |"]
    values = {
        "image": "image",
        "images": "two images",
        "video": "video",
        "text": "string",
        "texts": "string, or list of strings",
        "label": "string, boolean or integer",
        "id": "integer or string",
        "number": "number",
        "numbers": "number, or list of numbers",
    }
    for columns in TASKS.values():
        name = f"`{columns.task}`"
        for column in columns.columns:
            lines.append(f"| {name} | `{column.name}` | {values[column.kind]} | {column.needed} | {column.meaning} |")
            name = ""
    return "\n".join(lines) + "\n"


__all__ = [
    "ORIGIN",
    "PROBLEM",
    "TASKS",
    "Column",
    "DataError",
    "TaskColumns",
    "contract_table",
    "task_columns",
]
