# SPDX-License-Identifier: Apache-2.0
"""One evaluation for each task, by the names of the tasks in `modeling_lavis.data`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from modeling_lavis.evaluation.captioning import evaluate_captioning
from modeling_lavis.evaluation.classification import (
    evaluate_classification,
    evaluate_image_pairs,
    evaluate_video_question_answering,
)
from modeling_lavis.evaluation.question_answering import evaluate_question_answering
from modeling_lavis.evaluation.retrieval_rows import evaluate_retrieval

EVALUATIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "captioning": evaluate_captioning,
        "retrieval": evaluate_retrieval,
        "vqa": evaluate_question_answering,
        "nlvr": evaluate_image_pairs,
        "classification": evaluate_classification,
        "video-qa": evaluate_video_question_answering,
        "video-retrieval": evaluate_retrieval,
        "pretraining": evaluate_retrieval,
        "generative-pretraining": evaluate_captioning,
    }
)
"""Evaluation of each task. Heads for pretraining are evaluated by what they learn: retrieval, or captions."""


def evaluate(task: str, model: Any, processor: Any, rows: Any, **options: Any) -> Any:
    """
    Evaluate a model on the rows of a task.

    Args:
        task (`str`): a key of [`EVALUATIONS`].
        model (`PreTrainedModel`): the model.
        processor (`ProcessorMixin`): its processor.
        rows: rows with the columns of the task.
        options: options of the task's function, such as `batch_size`, `generation_options`, `answers` or `k`.

    Returns:
        `dict[str, float]` of metrics, or with `return_predictions=True` an [`EvaluationResult`].

    Raises:
        ValueError: the task is unknown; others see the task's function.
    """
    if task not in EVALUATIONS:
        raise ValueError(f"There is no task {task!r}; expected one of {', '.join(EVALUATIONS)}.")
    return EVALUATIONS[task](model, processor, rows, **options)


__all__ = ["EVALUATIONS", "evaluate"]
