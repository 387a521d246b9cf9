# SPDX-License-Identifier: Apache-2.0
"""Evaluation of answers about images: generated freely, or ranked from a closed list."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modeling_lavis.data.collators import Row, RowCollator
from modeling_lavis.evaluation.generating import best_sequences, with_newline
from modeling_lavis.evaluation.prediction import Running, move, predict, unwrapped
from modeling_lavis.evaluation.results import EvaluationResult, result_id
from modeling_lavis.models.distributed import rank
from modeling_lavis.progress import Shown

logger = logging.getLogger(__name__)

#: numbers of answers to a question for which the accuracy of VQAv2 is meant; it has ten
_ANNOTATORS = range(8, 13)

#: How answers are compared, see [`evaluate_question_answering`].
METRICS = ("vqa", "a-okvqa", "gqa", "exact")


class _QuestionInputs(RowCollator):
    """Images and questions, as `generate` and `rank_answers` take them."""

    def __init__(self, *args: Any, prompt: str | None = None, as_prompts: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prompt, self.as_prompts = prompt, as_prompts

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        self._check_rows(rows)
        questions = [self._field(row, "question") for row in rows]
        batch = {"pixel_values": self._pixel_values(self._field(row, "image") for row in rows)}
        if self.as_prompts:
            return {**batch, **self.processor.question_inputs(questions, self.prompt, return_tensors="pt")}
        if self.prompt is not None:
            questions = [self.prompt.replace("{}", question) for question in questions]
        return {**batch, **self._tokenize(questions, cleaning="question")}


def evaluate_question_answering(
    model: Any,
    processor: Any,
    rows: Any,
    *,
    answers: Sequence[str] | None = None,
    num_candidates: int | None = None,
    length_normalization: str | None = None,
    generation_options: Mapping[str, Any] | None = None,
    prompt: str | None = None,
    metric: str | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: Shown = None,
    on_bad_row: str = "raise",
    columns: Mapping[str, str] | None = None,
    image_root: str | os.PathLike | None = None,
    return_predictions: bool = False,
) -> Any:
    """
    Answer questions about images, and compare the answers with those of the rows.

    Args:
        model (`PreTrainedModel`): a head for question answering, or one with a language model.
        processor (`ProcessorMixin`): its processor.
        rows: rows `{image, question, answer, [question_id], [question_type], [answer_type]}`. `answer` is a string or
            the list of the answers of all annotators; if no row has one, there are predictions, but no metrics.
        answers (sequence of `str`, *optional*): closed list for `rank_answers`; without it, `generate` answers.
        num_candidates (`int`, *optional*): with `answers`, how many of them are scored completely, chosen by their
            first token; 128 by default, all of them with a language model.
        length_normalization (`str`, *optional*): with `answers` and a language model, `"sum"` (the default) or `"mean"`
            of the log-likelihoods of an answer's tokens.
        generation_options (`Mapping[str, Any]`, *optional*): options of `generate`; the model's own by default.
        prompt (`str`, *optional*): text with one `"{}"` for the question; the processor's `question_template` for
            language models, and the question alone for other heads, by default.
        metric (`str`, *optional*): how answers are compared:

            * `"vqa"`: accuracy of VQAv2 and OK-VQA against ten annotators, with the official normalization of answers;
              the default if there are several answers to a question. Also by `question_type` and `answer_type`. With
              another number of answers than about ten, a right answer scores less than 100, and a warning says so.
            * `"a-okvqa"`: a third of the number of annotators with exactly this answer, at most 1.
            * `"gqa"`: equal to the one answer after the normalization; the default if all questions have one answer.
            * `"exact"`: equal to one of the answers, as it is written.
        batch_size, num_workers, progress, on_bad_row, columns, image_root, return_predictions: see
            [`evaluate_captioning`].

    Returns:
        `dict[str, float]` with `"accuracy"` in percent and, by types, `"accuracy/question_type/..."` and
        `"accuracy/answer_type/..."`, or an [`EvaluationResult`] whose predictions have the form of VQA's server.

    Raises:
        ValueError: there are no rows, an option has an unsupported value or does not fit the others, or only some
            questions have answers.
        OSError: an image cannot be read.
    """
    model, names = unwrapped(model), dict(columns or {})
    _check_options(model, answers, num_candidates, length_normalization, generation_options, prompt, metric)
    as_prompts = bool(getattr(model, "answers_prompts", False))
    collate = _QuestionInputs(processor, image_root=image_root, columns=names, prompt=prompt, as_prompts=as_prompts)
    fields = {name: names.get(name, name) for name in ("answer", "question_id", "question_type", "answer_type")}

    def record(row: Row, position: int) -> dict[str, Any]:
        types = {name: row.get(fields[name]) for name in ("question_type", "answer_type")}
        given = _texts(row.get(fields["answer"]))
        return {"question_id": result_id(row, fields["question_id"], position), "references": given, **types}

    if answers is not None:
        texts = list(answers)
        template = {"template": prompt} if as_prompts else {}
        candidates = move(dict(processor.answer_candidates(texts, **template)), model.device)
        ranking = {"num_candidates": num_candidates, "length_normalization": length_normalization}
        ranking = {name: value for name, value in ranking.items() if value is not None}

        def step(batch: dict[str, Any]) -> list[dict[str, Any]]:
            best = model.rank_answers(**batch, **candidates, **ranking).best
            return [{"answer": texts[index]} for index in best.tolist()]
    else:
        options = with_newline(generation_options or {}, model, processor)

        def step(batch: dict[str, Any]) -> list[dict[str, Any]]:
            prompt_length = 0
            if not as_prompts:  # an answer does not depend on the padding of its question
                batch = {**batch, "encoder_attention_mask": batch["attention_mask"]}
            elif not model.config.is_encoder_decoder:
                prompt_length = batch["input_ids"].shape[1]
            ids = best_sequences(model.generate(**batch, **options), len(batch["pixel_values"]))[:, prompt_length:]
            return [{"answer": text} for text in processor.post_process_answers(ids)]

    found = predict(model, rows, collate, record, step, Running(batch_size, num_workers, progress, on_bad_row))
    questions = list(found.rows.values())
    predictions = [{"question_id": entry["question_id"], "answer": entry["answer"]} for entry in questions]
    metrics = _metrics(questions, metric)
    if not return_predictions:
        return metrics
    references = [entry["references"] for entry in questions] if metrics else []
    return EvaluationResult(metrics, predictions, found.skipped, references, list(found.rows))


def _check_options(
    model: Any,
    answers: Sequence[str] | None,
    num_candidates: int | None,
    length_normalization: str | None,
    generation_options: Mapping[str, Any] | None,
    prompt: str | None,
    metric: str | None,
) -> None:
    name = type(model).__name__
    if answers is not None:
        if isinstance(answers, str) or not len(answers) or not all(isinstance(text, str) for text in answers):
            raise ValueError(f"answers is {answers!r:.80}; expected a list of at least one string.")
        if generation_options:
            raise ValueError("Got answers and generation_options: answers of a list are ranked, not generated.")
        if length_normalization is not None and not getattr(model, "answers_prompts", False):
            raise ValueError(f"length_normalization is for language models; {name} sums over the tokens. Leave it out.")
    elif num_candidates is not None or length_normalization is not None:
        raise ValueError("num_candidates and length_normalization are for ranking a list; pass it as answers.")
    if prompt is not None and prompt.count("{}") != 1:
        raise ValueError(f"prompt is {prompt!r}; expected a text with one '{{}}' for the question.")
    if metric not in (None, *METRICS):
        raise ValueError(f"metric is {metric!r}; expected one of {METRICS}.")


def _metrics(questions: list[dict[str, Any]], metric: str | None) -> dict[str, float]:
    from modeling_lavis.evaluation import metrics

    without = [entry["question_id"] for entry in questions if not entry["references"]]
    if len(without) == len(questions):
        return {}
    if without:
        raise ValueError(
            f"{len(without)} of {len(questions)} questions have no answer to compare with, for example the question"
            f" {without[0]!r}; expected answers to all questions, or to none."
        )
    answers, references = [entry["answer"] for entry in questions], [entry["references"] for entry in questions]
    if metric is None:
        metric = "vqa" if any(len(given) > 1 for given in references) else "gqa"
    if metric == "vqa":
        if rank() == 0:
            _warn_of_answers(questions)
        return _vqa_metrics(questions, answers, references)
    if metric == "exact":
        return {"accuracy": 100 * sum(map(_is_in, answers, references)) / len(answers)}
    if metric == "a-okvqa":
        return {"accuracy": metrics.aokvqa_accuracy(answers, references)}
    if several := [entry["question_id"] for entry in questions if len(set(entry["references"])) > 1]:
        raise ValueError(
            f"metric='gqa' compares with one answer, but the question {several[0]!r} has several. Use 'vqa' for the"
            " answers of ten annotators, or 'exact' if each of the answers is right."
        )
    return {"accuracy": metrics.gqa_accuracy(answers, [given[0] for given in references])}


def _warn_of_answers(questions: list[dict[str, Any]]) -> None:
    """Log a warning if a right answer cannot have the full accuracy of VQAv2."""
    from modeling_lavis.evaluation.metrics import normalize_answer, remove_punctuation

    found = []
    if few := [entry for entry in questions if len(entry["references"]) not in _ANNOTATORS]:
        count = len(few[0]["references"])
        found.append(
            f"{len(few)} of {len(questions)} questions have another number of answers than about ten, for example the"
            f" question {few[0]['question_id']!r} with {count}: of one answer a right prediction has an accuracy of 0,"
            " of two equal ones 33.3"
        )
    unreachable = []
    for entry in questions:
        given = set(entry["references"])
        compared = {remove_punctuation(text) for text in given} if len(given) > 1 else given
        if not any(normalize_answer(text) == text for text in compared):
            unreachable.append(entry)
    if 2 * len(unreachable) > len(questions):  # the data of VQAv2 have a few
        entry = unreachable[0]
        found.append(
            f"no prediction equals an answer to {len(unreachable)} of {len(questions)} questions, for example"
            f" {entry['references'][0]!r:.80} of the question {entry['question_id']!r}, since predictions lose"
            " capitals, articles and number words"
        )
    if found:
        logger.warning(
            f"The accuracy of metric='vqa', which is that of VQAv2, is too low: {'; '.join(found)}. Give metric='exact'"
            " if each of the answers is right as it is written, metric='gqa' for one answer, or ten answers per"
            " question in the form of VQAv2."
        )


def _vqa_metrics(questions: list[dict[str, Any]], answers: list[str], references: list[list[str]]) -> dict[str, float]:
    """Accuracy of VQAv2, of all questions and, if all have a type, by type."""
    from modeling_lavis.evaluation.metrics import vqa_accuracy

    types = {f"{name}s": [entry[name] for entry in questions] for name in ("question_type", "answer_type")}
    types = {name: values for name, values in types.items() if None not in values}
    found = vqa_accuracy(answers, references, **types)
    metrics = {"accuracy": found.accuracy}
    for kind, scores in (("question_type", found.by_question_type), ("answer_type", found.by_answer_type)):
        metrics.update({f"accuracy/{kind}/{name}": score for name, score in (scores or {}).items()})
    return metrics


def _texts(answer: Any) -> list[str]:
    """The answers of a row as a list, empty without any."""
    if answer is None or isinstance(answer, str):
        return [] if answer is None else [answer]
    if isinstance(answer, (Sequence, np.ndarray)) and all(isinstance(text, str) for text in answer):
        return [str(text) for text in answer]
    raise ValueError(f"The answer of a row is {answer!r}; expected a string or a list of strings.")


def _is_in(answer: str, references: list[str]) -> bool:
    return answer in references


__all__ = ["METRICS", "evaluate_question_answering"]
