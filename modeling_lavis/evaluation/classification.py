# SPDX-License-Identifier: Apache-2.0
"""Evaluation of classifiers: of an image and a text, of two images and a text, and of a video and a question."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modeling_lavis.data.collators import (
    ENTAILMENT_LABELS,
    PAIR_LABELS,
    ClassificationCollator,
    ImagePairCollator,
    Row,
    as_integer,
    index_of_integer,
    label_to_id,
)
from modeling_lavis.data.columns import class_names
from modeling_lavis.data.video_collators import VideoQuestionAnsweringCollator
from modeling_lavis.evaluation.prediction import Running, predict, unwrapped
from modeling_lavis.evaluation.results import EvaluationResult, result_id
from modeling_lavis.progress import Shown


def evaluate_classification(
    model: Any,
    processor: Any,
    rows: Any,
    *,
    label2id: Mapping[str, int] | None = None,
    default_text: str = "",
    batch_size: int = 32,
    num_workers: int = 0,
    progress: Shown = None,
    on_bad_row: str = "raise",
    columns: Mapping[str, str] | None = None,
    image_root: str | os.PathLike | None = None,
    return_predictions: bool = False,
) -> Any:
    """
    Classify images with texts, for example visual entailment (SNLI-VE), or images alone.

    Args:
        model (`PreTrainedModel`): a head `ForImageAndTextClassification`.
        processor (`ProcessorMixin`): its processor.
        rows: rows `{image, [sentence], [label], [id]}`. A label is a name or an index; if no row has one, there are
            predictions, but no metrics.
        label2id (`Mapping[str, int]`, *optional*): index of each label; by default the model's, or that of SNLI-VE for
            models without names of labels.
        default_text (`str`, *optional*, defaults to `""`): text of rows without a sentence.
        batch_size, num_workers, progress, on_bad_row, columns, image_root, return_predictions: see
            [`evaluate_captioning`].

    Returns:
        `dict[str, float]` with `"accuracy"`, the fraction of rows with the right label, or an [`EvaluationResult`].

    Raises:
        ValueError: there are no rows, an option has an unsupported value, a label is unknown, or only some rows have
            labels.
        OSError: an image cannot be read.
    """
    labels = _labels(model, label2id, ENTAILMENT_LABELS)
    collate = ClassificationCollator(
        processor, image_root=image_root, columns=columns, label2id=labels, default_text=default_text
    )
    running = Running(batch_size, num_workers, progress, on_bad_row)
    return _evaluate(model, rows, _WithoutLabels(collate, "label"), labels, columns, running, return_predictions)


def evaluate_image_pairs(
    model: Any,
    processor: Any,
    rows: Any,
    *,
    label2id: Mapping[str, int] | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: Shown = None,
    on_bad_row: str = "raise",
    columns: Mapping[str, str] | None = None,
    image_root: str | os.PathLike | None = None,
    return_predictions: bool = False,
) -> Any:
    """
    Classify statements about pairs of images, for example NLVR2.

    Args:
        model (`PreTrainedModel`): a head `ForImagesAndTextClassification`.
        processor (`ProcessorMixin`): its processor.
        rows: rows `{images: [left, right], sentence, [label], [id]}`, as for [`evaluate_classification`].
        label2id (`Mapping[str, int]`, *optional*): index of each label; by default the model's, or that of NLVR2 for
            models without names of labels.
        batch_size, num_workers, progress, on_bad_row, columns, image_root, return_predictions: see
            [`evaluate_captioning`].

    Returns and raises as [`evaluate_classification`].
    """
    labels = _labels(model, label2id, PAIR_LABELS)
    collate = ImagePairCollator(processor, image_root=image_root, columns=columns, label2id=labels)
    running = Running(batch_size, num_workers, progress, on_bad_row)
    return _evaluate(model, rows, _WithoutLabels(collate, "label"), labels, columns, running, return_predictions)


def evaluate_video_question_answering(
    model: Any,
    processor: Any,
    rows: Any,
    *,
    label2id: Mapping[str, int] | None = None,
    batch_size: int = 8,
    num_workers: int = 0,
    progress: Shown = None,
    on_bad_row: str = "raise",
    columns: Mapping[str, str] | None = None,
    image_root: str | os.PathLike | None = None,
    return_predictions: bool = False,
) -> Any:
    """
    Answer questions about videos by a classifier over answers, for example on MSRVTT-QA.

    Args:
        model (`PreTrainedModel`): a head `ForVideoQuestionAnswering`.
        processor (`ProcessorMixin`): its processor.
        rows: rows `{video, question, [answer], [question_id], [start], [end]}`. Answers that the model does not know
            count as wrong.
        label2id (`Mapping[str, int]`, *optional*): index of each answer; the model's by default.
        batch_size (`int`, *optional*, defaults to 8): videos per batch and process.
        num_workers, progress, on_bad_row, columns, image_root, return_predictions: see [`evaluate_captioning`].

    Returns:
        `dict[str, float]` with `"accuracy"`, the fraction of questions with the right answer, or an
        [`EvaluationResult`] whose predictions have the form of VQA's server.

    Raises: as [`evaluate_classification`].
    """
    labels = dict(unwrapped(model).config.label2id if label2id is None else label2id)
    collate = VideoQuestionAnsweringCollator(processor, image_root=image_root, columns=columns, label2id=labels)
    running = Running(batch_size, num_workers, progress, on_bad_row)
    without_answers = _WithoutLabels(collate, "answer")
    options = {"first_token_only": True}
    return _evaluate(model, rows, without_answers, labels, columns, running, return_predictions, options)


class _WithoutLabels:
    """Inputs of the model without labels, so that neither losses nor momentum encoders run."""

    def __init__(self, collate: Any, field: str) -> None:
        self.collate, self.field = collate, field

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        column = self.collate.columns.get(self.field, self.field)
        return self.collate([{name: value for name, value in row.items() if name != column} for row in rows])


def _evaluate(
    model: Any,
    rows: Any,
    collate: _WithoutLabels,
    label2id: Mapping[str, int],
    columns: Mapping[str, str] | None,
    running: Running,
    return_predictions: bool,
    options: Mapping[str, Any] | None = None,
) -> Any:
    model, names = unwrapped(model), dict(columns or {})
    is_answer = collate.field == "answer"
    id_field = "question_id" if is_answer else "id"
    target_name, id_name = names.get(collate.field, collate.field), names.get(id_field, id_field)
    id2label = {index: name for name, index in label2id.items()}
    # of several names for one class, that of the model
    known = (model.config.id2label or {}).items()
    id2label |= {index: name for index, name in known if label2id.get(name) == index}
    to_index: Callable[[Any, Mapping[str, int]], int] = _answer_to_id if is_answer else label_to_id

    # integers of a column of classes are positions in its own names, which may be another order
    own_names = class_names(rows, target_name)

    def record(row: Row, position: int) -> dict[str, Any]:
        target = row.get(target_name)
        if own_names is not None and isinstance(target, int) and 0 <= target < len(own_names):
            target = own_names[target] if own_names[target] in label2id else target
        index = None if target is None else to_index(target, label2id)
        if index is not None and not is_answer and index not in id2label:
            raise ValueError(f"The label {target!r} is none of the classes {sorted(label2id)}, nor the index of one.")
        # an answer that the model does not know has no index
        reference = str(target) if index is None else id2label.get(index, str(target))
        return {id_field: result_id(row, id_name, position), "target": index, "reference": reference}

    def step(batch: dict[str, Any]) -> list[dict[str, Any]]:
        scores, indices = model(**batch, **(options or {})).logits.float().softmax(dim=-1).max(dim=-1)
        found = zip(indices.tolist(), scores.tolist(), strict=True)
        return [{"index": index, "score": score} for index, score in found]

    found = predict(model, rows, collate, record, step, running)
    entries = list(found.rows.values())
    without = [entry[id_field] for entry in entries if entry["target"] is None]
    if without and len(without) < len(entries):
        raise ValueError(
            f"{len(without)} of {len(entries)} rows have no {target_name!r}, for example the row {without[0]!r};"
            " expected one in all rows, or in none."
        )
    metrics = {}
    if not without:
        from modeling_lavis.evaluation.metrics import classification_accuracy

        predicted, targets = [entry["index"] for entry in entries], [entry["target"] for entry in entries]
        metrics = {"accuracy": classification_accuracy(predicted, targets)}
    if not return_predictions:
        return metrics
    named = [(entry, id2label.get(entry["index"], str(entry["index"]))) for entry in entries]
    if is_answer:
        predictions = [{id_field: entry[id_field], "answer": name} for entry, name in named]
    else:
        predictions = [{id_field: entry[id_field], "label": name, "score": entry["score"]} for entry, name in named]
    references = [] if without else [entry["reference"] for entry in entries]
    return EvaluationResult(metrics, predictions, found.skipped, references, list(found.rows))


def _labels(model: Any, given: Mapping[str, int] | None, default: Mapping[str, int]) -> dict[str, int]:
    """The given index of each label, or the model's, or the default one if the model's labels have no names."""
    if given is not None:
        return dict(given)
    config = unwrapped(model).config
    own = dict(config.label2id or {})
    is_unnamed = own == {f"LABEL_{index}": index for index in range(len(own))}
    return dict(default) if is_unnamed and len(own) == len(default) else own


def _answer_to_id(answer: Any, label2id: Mapping[str, int]) -> int:
    """Index of an answer, -1 for one that the model does not know."""
    if isinstance(answer, str):
        return label2id.get(answer, -1)
    index = as_integer(answer)
    if index is None:
        raise ValueError(f"The answer of a row is {answer!r}; expected a string, or the index of a class.")
    return index_of_integer(index, label2id)


__all__ = ["evaluate_classification", "evaluate_image_pairs", "evaluate_video_question_answering"]
