# SPDX-License-Identifier: Apache-2.0
"""Bad rows: found before training by [`check_data`], or skipped, counted and reported by [`SkipBadRows`]."""

import json
import os
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from modeling_lavis.data.collators import index_of_integer, open_row_image
from modeling_lavis.data.columns import ORIGIN, PROBLEM, Column, DataError, TaskColumns, task_columns
from modeling_lavis.data.video_collators import open_row_video
from modeling_lavis.progress import Progress, Shown

logger = logging.get_logger(__name__)

KINDS = ("row", "column", "text", "answer", "label", "media")
"""Kinds of problems, in the order in which they are found; a row has at most one."""

_REMEDIES = {
    "row": "correct or remove it",
    "column": "give the name in the file as columns={{{column!r}: ...}} to load_data, or fill it in",
    "text": "write a text or remove the row",
    "answer": "give one answer or a list, and as many weights as answers",
    "label": "correct it, or pass a label2id that has it",
    "media": "copy the file again or remove the row, or train with on_bad_row='skip'",
}


@dataclass(frozen=True)
class RowProblem:
    """
    What is wrong with a row.

    Args:
        where (`str`): file and row.
        kind (`str`): one of [`KINDS`].
        message (`str`): what was found, what was expected.
        remedy (`str`): what to do.
        index (`int`, *optional*): position of the row, if it is known.
    """

    where: str
    kind: str
    message: str
    remedy: str
    index: int | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.message} To do: {self.remedy}."


@dataclass
class DataReport:
    """
    What [`check_data`] found.

    Args:
        task (`str`): the task.
        num_rows (`int`): number of rows that were checked.
        problems (`list[RowProblem]`): the bad rows, in order.
        notes (`list[str]`): what can be used, but should be known.
    """

    task: str
    num_rows: int = 0
    problems: list[RowProblem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Number of problems of each kind."""
        return dict(Counter(problem.kind for problem in self.problems))

    def raise_if_bad(self) -> None:
        """
        Stop if there are bad rows.

        Raises:
            DataError: there are; the message names the first ones, and counts all.
        """
        if self.problems:
            raise DataError(str(self))

    def __str__(self) -> str:
        if not self.problems:
            return "\n".join([f"{self.num_rows} rows for {self.task}: all can be used.", *self.notes])
        counts = ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
        shown = "\n".join(f"  {_one_line(str(problem))}" for problem in self.problems[:10])
        more = len(self.problems) - 10
        text = f"{len(self.problems)} of {self.num_rows} rows for {self.task} cannot be used ({counts}):\n{shown}"
        return "\n".join([text, *([f"  and {more} more"] if more > 0 else []), *self.notes])


def check_data(
    rows: Iterable[Mapping[str, Any]],
    task: str,
    *,
    label2id: Mapping[str, int] | None = None,
    max_rows: int | None = None,
    targets: bool = True,
    media: bool = True,
    threads: int = 4,
    progress: Shown = None,
) -> DataReport:
    """
    Look for rows that training or evaluation cannot use: all of them, before it starts.

    Args:
        rows (`Iterable[Mapping[str, Any]]`): rows of [`load_data`], or other rows with the columns of the task.
        task (`str`): a key of `TASKS`.
        label2id (`Mapping[str, int]`, *optional*): known classes; without it, labels of any name are right.
        max_rows (`int`, *optional*): number of rows to check, evenly spread; all by default.
        targets (`bool`, *optional*, defaults to `True`): whether captions, answers and labels are needed.
        media (`bool`, *optional*, defaults to `True`):
            whether to decode every image, and the first frame of every video; each file once.
        threads (`int`, *optional*, defaults to 4): number of files decoded at a time.
        progress (`bool` or `TextIO`, *optional*): whether or where progress is shown, see
            `modeling_lavis.progress.Progress`; by default on a terminal.

    Returns:
        `DataReport`: the bad rows; `report.raise_if_bad()` raises an error that names them.

    Raises:
        ValueError: the task is unknown, or `max_rows` or `threads` is not positive.
    """
    columns = task_columns(task)
    if threads < 1 or (max_rows is not None and max_rows < 1):
        raise ValueError(f"threads is {threads} and max_rows {max_rows}; expected positive numbers.")
    report, known, ids = DataReport(task), _KnownFiles(columns), _Ids(columns)
    first_sentence: list[bool] = []
    unknown = 0
    # answers outside the classes are part of video question answering
    labels = None if task == "video-qa" else label2id
    total = min(len(rows), max_rows or len(rows)) if isinstance(rows, Sized) else max_rows
    with ThreadPoolExecutor(threads) as pool, Progress(total, "checking", "rows", shown=progress) as shown:
        chosen = _choose(rows, max_rows)
        while chunk := list(islice(chosen, 16 * threads)):
            texts = [
                row_problem(row, columns, labels, targets, f"row {index}")
                or _uneven(row, columns, first_sentence, f"row {index}")
                for index, row in chunk
            ]
            unreadable = list(pool.map(known.problem, chunk)) if media else [None] * len(chunk)
            for index, row in chunk:
                ids.look_at(row, f"row {index}")
            report.num_rows += len(chunk)
            shown.update(len(chunk))
            found = ((index, text or file) for (index, _), text, file in zip(chunk, texts, unreadable))
            report.problems += [replace(problem, index=index) for index, problem in found if problem is not None]
            if task == "video-qa" and label2id is not None:
                unknown += sum(_is_unknown(row, label2id) for _, row in chunk)
    if unknown:
        report.notes.append(
            f"The answers of {unknown} of {report.num_rows} rows are none of the {len(label2id or ())} classes: they"
            " give no loss, and count as wrong."
        )
        if unknown == report.num_rows:
            report.problems.append(RowProblem("all rows", "label", report.notes.pop(), _REMEDIES["label"]))
    report.notes += ids.notes()
    return report


def _is_unknown(row: Any, label2id: Mapping[str, int]) -> bool:
    answer = row.get("answer") if isinstance(row, Mapping) else None
    return isinstance(answer, str) and answer not in label2id


def _choose(rows: Any, max_rows: int | None) -> Iterator[tuple[int, Any]]:
    has_index = hasattr(rows, "__len__") and hasattr(rows, "__getitem__")
    if max_rows is None or not has_index or len(rows) <= max_rows:
        yield from islice(enumerate(rows), max_rows)
        return
    for number in range(max_rows):
        index = number * len(rows) // max_rows
        yield index, rows[index]


class _Ids:
    """Notes ids that several rows have, and should not."""

    def __init__(self, task: TaskColumns) -> None:
        self.media = task.media.name
        self.media_id = f"{self.media}_id" if f"{self.media}_id" in task.names else None
        self.has_questions = "question_id" in task.names
        self.files: dict[Any, str] = {}
        self.questions: set[Any] = set()
        self.found: dict[str, list[str]] = {"file": [], "question": []}

    def look_at(self, row: Any, where: str) -> None:
        """Take note of the ids of a row."""
        if not isinstance(row, Mapping) or row.get(PROBLEM) is not None:
            return
        where = str(row.get(ORIGIN) or where)
        identity = None if self.media_id is None else row.get(self.media_id)
        path = _path_of(row.get(self.media))
        if isinstance(identity, (int, str)) and path is not None and self.files.setdefault(identity, path) != path:
            self.found["file"].append(f"{where}: {identity!r}")
        question = row.get("question_id") if self.has_questions else None
        if isinstance(question, (int, str)):
            if question in self.questions:
                self.found["question"].append(f"{where}: {question!r}")
            self.questions.add(question)

    def notes(self) -> list[str]:
        """What was found, for the report."""
        notes = []
        if found := self.found["file"]:
            notes.append(
                f"{len(found)} rows have a {self.media_id} of another {self.media} ({found[0]}): their texts count as"
                f" right for both. Give each {self.media} its own, or leave the column out."
            )
        if found := self.found["question"]:
            notes.append(
                f"{len(found)} rows have a question_id that an earlier row has ({found[0]}): result files would have"
                " several answers to one question."
            )
        return notes


class _KnownFiles:
    """Opens images and videos; files (of videos, the same part) once, however many rows have them."""

    def __init__(self, task: TaskColumns) -> None:
        self.task = task
        self.problems: dict[tuple[Any, ...], str | None] = {}

    def problem(self, numbered: tuple[int, Any]) -> RowProblem | None:
        index, row = numbered
        if not isinstance(row, Mapping):
            return None
        where = str(row.get(ORIGIN) or f"row {index}")
        media = self.task.media
        value = row.get(media.name)
        if value is None or row.get(PROBLEM) is not None:
            return None  # reported as a column
        entries = list(value) if media.kind == "images" and isinstance(value, (list, tuple)) else [value]
        for entry in entries:
            path = _path_of(entry)
            key = (path, row.get("start"), row.get("end"))
            message = self.problems[key] if key in self.problems else self._open(entry, row)
            if path is not None:
                self.problems[key] = message
            if message is not None:
                return RowProblem(where, "media", f"{message}", _REMEDIES["media"])
        return None

    def _open(self, entry: Any, row: Mapping[str, Any]) -> str | None:
        try:
            if self.task.media.kind == "video":
                open_row_video(entry, row)
            else:
                open_row_image(entry)
        except ImportError:
            raise
        except Exception as error:  # decoders raise unrelated types
            return _reason(error)
        return None


def _path_of(entry: Any) -> str | None:
    if isinstance(entry, Mapping):
        entry = entry.get("path") if entry.get("bytes") is None else None
    return os.fspath(entry) if isinstance(entry, (str, os.PathLike)) else None


# ---- a row without its media ----


def row_problem(
    row: Any,
    task: TaskColumns,
    label2id: Mapping[str, int] | None = None,
    targets: bool = True,
    where: str = "row",
) -> RowProblem | None:
    """
    What is wrong with the columns of a row, apart from the content of its images and videos.

    Args:
        row (`Mapping[str, Any]`): the row.
        task (`TaskColumns`): the task.
        label2id (`Mapping[str, int]`, *optional*): known classes.
        targets (`bool`, *optional*, defaults to `True`): whether captions, answers and labels are needed.
        where (`str`, *optional*): where the row is from, if it does not say so.

    Returns:
        `RowProblem`, or `None` for a row that can be used.
    """
    if not isinstance(row, Mapping):
        return RowProblem(where, "row", f"it is {type(row).__name__}; expected a dict of columns.", _REMEDIES["row"])
    where = str(row.get(ORIGIN) or where)
    if row.get(PROBLEM) is not None:
        message = str(row[PROBLEM]).removeprefix(f"{where}: ").removeprefix(f"{where}, ")
        return RowProblem(where, "column", message, _REMEDIES["row"])
    needed = {column.name for column in task.needed(targets)}
    for column in task.columns:
        value = row.get(column.name)
        if value is None:
            if column.name in needed:
                message = f"the column {column.name!r} is empty or missing; the row has {sorted(row)}."
                return RowProblem(where, "column", message, _REMEDIES["column"].format(column=column.name))
            continue
        found = _value_problem(column, value, row, label2id)
        if found is not None:
            kind, message = found
            return RowProblem(where, kind, f"the column {column.name!r} {message}", _REMEDIES[kind])
    return None


def _value_problem(
    column: Column, value: Any, row: Mapping[str, Any], label2id: Mapping[str, int] | None
) -> tuple[str, str] | None:
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)) and column.kind not in ("image", "video"):
        value = value.tolist()
    if isinstance(value, float) and value.is_integer() and column.kind == "label":
        value = int(value)
    if column.kind == "images" and not (isinstance(value, (list, tuple)) and len(value) == 2):
        return "column", f"is {str(value)[:60]!r}; expected two images."
    if column.kind == "text" and column.name != "prompt":
        return _text_problem(value)
    if column.kind == "texts":
        kind = "answer" if column.name == "answer" else "text"
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, (list, tuple)):
            return kind, f"is {str(value)[:60]!r}; expected a text or a list of texts."
        if not values:
            return kind, "is an empty list."
        return next((problem for entry in values if (problem := _text_problem(entry))), None)
    if column.kind == "label":
        return _label_problem(value, label2id)
    if column.kind == "numbers":
        answers = row.get("answer")
        count = len(answers) if isinstance(answers, (list, tuple, np.ndarray)) else 1
        weights = value if isinstance(value, (list, tuple)) else [value]
        if len(weights) != count:
            return "answer", f"has {len(weights)} numbers for {count} answers."
        if not all(isinstance(weight, (int, float)) and 0 <= weight < float("inf") for weight in weights):
            return "answer", f"is {str(value)[:60]}; expected numbers from 0."
    return None


def _text_problem(value: Any) -> tuple[str, str] | None:
    if not isinstance(value, str):
        return "text", f"has {type(value).__name__} {str(value)[:60]!r}; expected a text."
    return None if value.strip() else ("text", "is empty or blank; expected a text.")


def _label_problem(value: Any, label2id: Mapping[str, int] | None) -> tuple[str, str] | None:
    if isinstance(value, bool):
        value = str(value)
    if label2id is None:
        return None if isinstance(value, (str, int)) else ("label", f"is {value!r}; expected a name or an index.")
    if isinstance(value, int):
        known = set(label2id.values())
        is_known = index_of_integer(value, label2id) in known
        return None if is_known else ("label", f"is {value}; expected one of {sorted(known)[:20]}.")
    if value not in label2id:
        return "label", f"is {str(value)[:60]!r}, an unknown class; known are {sorted(label2id)[:20]}."
    return None


def _uneven(row: Any, task: TaskColumns, first: list[bool], where: str) -> RowProblem | None:
    """A row without a sentence among rows that have one, or the other way round."""
    if task.task != "classification" or not isinstance(row, Mapping):
        return None
    has_sentence = row.get("sentence") is not None
    if not first:
        first.append(has_sentence)
    if has_sentence == first[0]:
        return None
    message = f"it has {'a' if has_sentence else 'no'} sentence, unlike the first row; expected one in all or in none."
    return RowProblem(str(row.get(ORIGIN) or where), "column", message, _REMEDIES["row"])


# ---- skipping ----


@dataclass(frozen=True)
class SkippedRows:
    """
    Rows that were skipped, by all processes.

    Args:
        count (`int`): how often a row was skipped.
        reasons (`Mapping[str, str]`): what was wrong, by the name of the row.
        times (`Mapping[str, int]`): how often, by the name of the row.
    """

    count: int
    reasons: Mapping[str, str]
    times: Mapping[str, int]

    def __str__(self) -> str:
        if not self.count:
            return "No row was skipped."
        shown = "\n".join(
            _one_line(f"  {name} ({self.times[name]}x): {reason}") for name, reason in list(self.reasons.items())[:10]
        )
        more = len(self.reasons) - 10
        return f"{len(self.reasons)} bad rows were skipped, {self.count} times in all:\n{shown}" + (
            f"\n  and {more} more" if more > 0 else ""
        )


class SkipBadRows:
    """
    A collator that survives rows that cannot be read: it leaves them out or replaces them, and counts them.

    A batch is collated as a whole; only if that fails, its rows are tried one by one. Which rows are bad and what
    replaces them follows from the batch alone, so that a resumed training sees the same batches.

    Workers write one line for each skipped row to a file that all of them share (also those of several nodes, if
    `file` is on a file system that they share), so the count is complete, and survives a killed process. [`summary`]
    reads it. The first skip of a row is a warning, too.

    Args:
        collator (`Callable`): the collator.
        replace (`bool`, *optional*, defaults to `True`):
            whether another row of the batch takes the place of a bad one, so that batches keep their size; `False`
            leaves bad rows out, for evaluation, and for contrastive losses, which take a repeated row for a negative.
        file (`str` or `os.PathLike`, *optional*):
            file of skipped rows, one JSON object per line; by default a temporary one, removed with this object.
        check (`Callable`, *optional*):
            returns the problem of a row that the collator would take, such as an empty caption, or `None`; by default
            rows are bad only if they cannot be collated.

    Raises (in a call):
        DataError: all rows of a batch are bad.
    """

    def __init__(
        self,
        collator: Callable[[Any], dict[str, Any]],
        replace: bool = True,
        file: str | os.PathLike | None = None,
        check: Callable[[Any], RowProblem | None] | None = None,
    ) -> None:
        self.collator = collator
        self.replace = replace
        self.check = check
        self._warned: set[str] = set()
        if file is None:
            handle, self.file = tempfile.mkstemp(prefix="bad-rows-", suffix=".jsonl")
            os.close(handle)
            # of this process alone: copies in workers do not remove it
            self._finalizer = weakref.finalize(self, _remove, self.file, os.getpid())
        else:
            self.file = os.fspath(file)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_finalizer"}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "collator":
            raise AttributeError(name)
        return getattr(self.collator, name)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Collate rows, without bad ones.

        Args:
            rows (`Sequence[Mapping[str, Any]]`): rows of the data set.

        Returns:
            `dict[str, Any]`: the batch.

        Raises:
            DataError: all rows are bad. Other errors: the rows can be collated one by one, but not together.
        """
        bad: dict[int, Exception] = {}
        for index, row in enumerate(rows if self.check is not None else ()):
            problem = self.check(row) if self.check is not None else None
            if problem is not None:
                bad[index] = DataError(problem.message)
        whole_error: Exception | None = None
        if not bad:
            try:
                return self.collator(rows)
            except (ImportError, MemoryError):
                raise
            except Exception as error:  # decoders raise unrelated types
                whole_error = error
        good: list[int] = []
        for index, row in enumerate(rows):
            try:
                if index not in bad:
                    self.collator([row])
                    good.append(index)
            except (ImportError, MemoryError):
                raise
            except Exception as error:
                bad[index] = error
        if whole_error is not None and not bad:
            raise whole_error
        if not good:
            listed = "".join(
                "\n" + _one_line(f"  {_name_of(rows[index], index)}: {_reason(error)}")
                for index, error in list(bad.items())[:5]
            )
            raise DataError(
                f"All {len(rows)} rows of a batch are bad, so nothing is left to train on. Run check_data on the"
                f" data set.{listed}"
            ) from whole_error
        for index, reason in sorted(bad.items()):
            self._report(_name_of(rows[index], index), reason)
        if self.replace:
            # the next good row of the batch, from the first one after the last
            chosen = [index if index in good else _next(good, index) for index in range(len(rows))]
        else:
            chosen = good
        return self.collator([rows[index] for index in chosen])

    def _report(self, name: str, error: Exception) -> None:
        reason = _reason(error)
        if name not in self._warned:
            self._warned.add(name)
            logger.warning(f"Skipped a bad row, {name}: {reason}")
        line = json.dumps({"row": name, "reason": reason[:500]}) + "\n"
        # one write to a file opened for appending: lines of several workers do not mix
        with open(self.file, "ab", buffering=0) as file:
            file.write(line.encode())

    def summary(self) -> SkippedRows:
        """
        What was skipped so far, by all workers of all epochs.

        Returns:
            `SkippedRows`: counts and reasons.
        """
        reasons: dict[str, str] = {}
        times: Counter[str] = Counter()
        if os.path.exists(self.file):
            with open(self.file, encoding="utf-8") as file:
                for line in file:
                    if line.endswith("\n"):  # else a killed process was writing
                        entry = json.loads(line)
                        reasons.setdefault(entry["row"], entry["reason"])
                        times[entry["row"]] += 1
        return SkippedRows(times.total(), reasons, dict(times))


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _reason(error: Exception) -> str:
    # a KeyError as a text has quotes around its message
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error) or type(error).__name__


@dataclass(frozen=True)
class RowCheck:
    """
    [`row_problem`] for the rows that a collator gets, for [`SkipBadRows`].

    Args:
        task (`str`): the task.
        label2id (`Mapping[str, int]`, *optional*): known classes.
        targets (`bool`, *optional*, defaults to `True`): whether captions, answers and labels are needed.
        names (`Mapping[str, str]`, *optional*): names of the columns of the rows, where they differ.
    """

    task: str
    label2id: Mapping[str, int] | None = None
    targets: bool = True
    names: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, row: Any) -> RowProblem | None:
        """The problem of a row, `None` if it has none."""
        if self.names and isinstance(row, Mapping):
            row = {**row, **{name: row.get(column) for name, column in self.names.items()}}
        return row_problem(row, task_columns(self.task), self.label2id, self.targets)


def _remove(path: str, process: int) -> None:
    if os.getpid() == process and os.path.exists(path):
        os.remove(path)


def _next(good: list[int], index: int) -> int:
    return next((candidate for candidate in good if candidate > index), good[0])


def _name_of(row: Any, index: int) -> str:
    if not isinstance(row, Mapping):
        return f"row {index} of a batch"
    if row.get(ORIGIN):
        return str(row[ORIGIN])
    media = next((_path_of(row[name]) for name in ("image", "video") if row.get(name) is not None), None)
    return media or f"row {index} of a batch"


__all__ = ["DataReport", "RowCheck", "RowProblem", "SkipBadRows", "SkippedRows", "check_data", "row_problem"]
