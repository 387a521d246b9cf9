# SPDX-License-Identifier: Apache-2.0
"""What an evaluation returns, and the result files of the official evaluation servers."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modeling_lavis.data.columns import is_plain_integer
from modeling_lavis.files import whole_file

#: Forms of result files: a list of records (COCO captions, VQA), or A-OKVQA's mapping by question.
FORMATS = ("list", "a-okvqa")


@dataclass
class EvaluationResult:
    """
    Metrics and predictions of an evaluation.

    Args:
        metrics (`dict[str, float]`): metrics by name; empty without reference answers.
        predictions (`list[dict[str, Any]]`): one record per image or question, in the order of the rows, in the form
            that the official evaluation servers take: `{"image_id": ..., "caption": ...}` for captions,
            `{"question_id": ..., "answer": ...}` for questions, `{"id": ..., "label": ..., "score": ...}` for classes.
        skipped (`dict[int, str]`, *optional*): position of each row that was left out, and the reason.
        references (`list[Any]`, *optional*): what each prediction was compared with, in the same order: the captions of
            an image, the answers to a question, or the name of a class; empty if there is nothing.
        positions (`list[int]`, *optional*): position of the row of each prediction, of several rows the first.
    """

    metrics: dict[str, float]
    predictions: list[dict[str, Any]]
    skipped: dict[int, str] = field(default_factory=dict)
    references: list[Any] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def save_predictions(self, path: str | os.PathLike, format: str = "list") -> None:
        """
        Write the predictions as JSON, completely or not at all.

        Args:
            path (`str` or `os.PathLike`): the file; an existing one is replaced.
            format (`str`, *optional*, defaults to `"list"`): `"list"`, the form of the COCO caption and VQA servers, or
                `"a-okvqa"`, that of A-OKVQA's leaderboard: `{question_id: {"multiple_choice": "", "direct_answer":
                answer}}`.

        Raises:
            ValueError: the format is unknown, or the predictions are not answers to questions.
        """
        if format not in FORMATS:
            raise ValueError(f"format is {format!r}; expected one of {FORMATS}.")
        content: Any = self.predictions
        if format == "a-okvqa":
            if not all("question_id" in row and "answer" in row for row in self.predictions):
                raise ValueError("The format 'a-okvqa' is for answers to questions; these predictions have none.")
            content = {
                str(row["question_id"]): {"multiple_choice": "", "direct_answer": row["answer"]}
                for row in self.predictions
            }
        write_json(path, content)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write JSON to a temporary file in the same folder, and move it to `path` when it is complete."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False, default=_plain) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Numbers of NumPy and torch as numbers of Python."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON.")


def result_id(row: Mapping[str, Any], name: str, index: int) -> Any:
    """
    The id of a row for result files: a number where it is one, as the servers expect; by default `index`.

    "007" stays a text, since "7" may be another id.
    """
    value = row.get(name)
    if value is None:
        return index
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, str) and is_plain_integer(value) else value


__all__ = ["FORMATS", "EvaluationResult", "result_id", "write_json"]
