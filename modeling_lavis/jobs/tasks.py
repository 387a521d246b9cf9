# SPDX-License-Identifier: Apache-2.0
"""What a job computes: the pipeline, the columns that it reads, and the record that it writes for each item."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """
    A task of jobs.

    Args:
        verb (`str`): its name, that of a command.
        pipelines (`Mapping[str, str]`): tasks of `transformers.pipeline` by modality, `"image"` or `"video"`.
        texts (`tuple[str, ...]`): columns that the model takes in addition to images or videos.
        make_record (`Callable`): function from a result of the pipeline and the row of the item to the columns of the
            record.
        text (`str`, *optional*): column of the record that stands for it in a text file.
        constants (`Mapping[str, Any]`, *optional*): columns that are equal in all records.
        optional (`tuple[str, ...]`, *optional*): those of `texts` that inputs need not have.
    """

    verb: str
    pipelines: Mapping[str, str]
    texts: tuple[str, ...]
    make_record: Callable[[Any, Mapping[str, Any]], Record] = field(repr=False)
    text: str | None = None
    constants: Mapping[str, Any] = field(default_factory=dict)
    optional: tuple[str, ...] = ()

    def record(self, result: Any, row: Mapping[str, Any]) -> Record:
        """The columns that a job writes for an item, as JSON has them: without infinite numbers."""
        record: Record = finite({**self.constants, **self.make_record(result, row)})
        return record

    def length(self, row: Mapping[str, Any]) -> int:
        """Characters of the texts of a row, by which batches are made."""
        texts = [row[name] for name in self.texts if row.get(name) is not None]
        # values of other types are failures of their rows alone, which the pipeline finds
        return sum(
            sum(len(str(part)) for part in text) if isinstance(text, (list, tuple)) else len(str(text))
            for text in texts
        )


def finite(value: Any) -> Any:
    """A value of JSON with `None` in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return {name: finite(entry) for name, entry in value.items()} if isinstance(value, Mapping) else value


def _best(name: str, results: list[dict[str, Any]], key: str) -> Record:
    """The best of several texts with its scores, and all of them if there are several."""
    scores = [name for name in ("score", "beam_score") if name in results[0]]
    record: Record = {name: results[0][key]}
    record.update({score: results[0][score] for score in scores})
    if len(results) > 1:
        record[f"{name}s"] = [result[key] for result in results]
        record.update({f"{score}s": [result[score] for result in results] for score in scores})
    return record


def _caption(result: Any, row: Mapping[str, Any]) -> Record:
    prompt = {"prompt": row["prompt"]} if row.get("prompt") is not None else {}
    return {**prompt, **_best("caption", result, "generated_text")}


def _answer(result: Any, row: Mapping[str, Any]) -> Record:
    question = {"question": row["question"]} if row.get("question") is not None else {}
    return {**question, **_best("answer", result, "answer")}


def _match(result: Any, row: Mapping[str, Any]) -> Record:
    return dict(result[0]) if len(result) == 1 else {"matches": result}


def _embed(result: Any, row: Mapping[str, Any]) -> Record:
    text = {"text": row["text"]} if row.get("text") is not None else {}
    return {**text, **{name: values.tolist() for name, values in result.items()}}


TASKS: Mapping[str, Task] = {
    task.verb: task
    for task in (
        Task("caption", {"image": "image-captioning"}, ("prompt",), _caption, text="caption", optional=("prompt",)),
        Task(
            "answer",
            {"image": "image-question-answering", "video": "video-question-answering"},
            ("question",),
            _answer,
            text="answer",
        ),
        Task("match", {"image": "image-text-matching", "video": "video-text-matching"}, ("text",), _match),
        Task(
            "embed",
            {"image": "multimodal-feature-extraction", "video": "multimodal-feature-extraction"},
            ("text",),
            _embed,
        ),
    )
}
"""Tasks by verb."""

CAPFILT_SCORES = Task("capfilt-scores", {}, ("text",), lambda result, row: dict(result), optional=("text",))
"""Web texts and captions of images, with the scores of a filter; see `modeling_lavis.jobs.filtering`."""


def task_of_job(verb: str) -> Task:
    """The task of a job by the verb that it was begun with."""
    return CAPFILT_SCORES if verb == CAPFILT_SCORES.verb else TASKS[verb]


__all__ = ["CAPFILT_SCORES", "TASKS", "Record", "Task", "finite", "task_of_job"]
