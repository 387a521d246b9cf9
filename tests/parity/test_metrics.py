"""Compares all metrics with what the field's own tools said: `LAVIS_GOLDENS/metrics`."""

from __future__ import annotations

import shutil
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from modeling_lavis.evaluation import metrics
from modeling_lavis.import_utils import is_available

from .goldens import METRICS, goldens_root, read_json

if not (goldens_root() / METRICS).is_dir():
    pytest.skip(f"no folder {goldens_root() / METRICS}", allow_module_level=True)

TOLERANCE = 1e-4
BLEU_ORDERS = (1, 2, 3, 4)
RANKS = (1, 5, 10)
SCORES = {"ROUGE-L": metrics.rouge_l, "CIDEr": metrics.cider}


@cache
def recorded(name: str) -> dict[str, Any]:
    return read_json(goldens_root() / METRICS / f"{name}.json")


def captions() -> tuple[list[str], list[str], list[list[str]]]:
    """Ids of the images, predictions and references, in the order of the predictions."""
    content = recorded("captions")
    ids = list(content["predictions"])
    assert set(content["references"]) == set(ids)
    return ids, [content["predictions"][i] for i in ids], [content["references"][i] for i in ids]


def close(value: float) -> Any:
    return pytest.approx(value, abs=TOLERANCE)


def test_metrics_recordings_are_read_completely() -> None:
    """A recording with entries that no test compares must not pass unnoticed."""
    content = recorded("captions")
    scores = {f"BLEU-{order}" for order in BLEU_ORDERS} | set(SCORES)
    assert set(content) == {
        "predictions",
        "references",
        "tokenized_predictions",
        "tokenized_references",
        "scores",
        "per_image",
    }
    assert set(content["scores"]) == scores | {"METEOR"}
    assert set(content["per_image"]) == scores
    assert set(recorded("vqa_accuracy")) == {"annotations", "predictions", "accuracy", "per_question"}
    assert set(recorded("vqa_accuracy")["accuracy"]) == {"overall", "perQuestionType", "perAnswerType"}
    assert set(recorded("retrieval")) == {"scores_i2t", "scores_t2i", "txt2img", "img2txt", "metrics"}


def test_metrics_tokens_of_predictions() -> None:
    ids, predictions, _ = captions()
    tokens = dict(zip(ids, metrics.tokenize_captions(predictions), strict=True))
    assert tokens == recorded("captions")["tokenized_predictions"]


def test_metrics_tokens_of_references() -> None:
    references = recorded("captions")["references"]
    tokens = iter(metrics.tokenize_captions([caption for own in references.values() for caption in own]))
    found = {name: [next(tokens) for _ in own] for name, own in references.items()}
    assert found == recorded("captions")["tokenized_references"]


@pytest.mark.parametrize("order", BLEU_ORDERS)
def test_metrics_bleu(order: int) -> None:
    ids, predictions, references = captions()
    score = metrics.bleu(predictions, references)[order - 1]
    assert score.score == close(recorded("captions")["scores"][f"BLEU-{order}"])
    assert dict(zip(ids, score.per_image, strict=True)) == close(recorded("captions")["per_image"][f"BLEU-{order}"])


@pytest.mark.parametrize("name", SCORES)
def test_metrics_of_captions(name: str) -> None:
    ids, predictions, references = captions()
    score = SCORES[name](predictions, references)
    assert score.score == close(recorded("captions")["scores"][name])
    assert dict(zip(ids, score.per_image, strict=True)) == close(recorded("captions")["per_image"][name])


def test_metrics_of_captions_in_one_call() -> None:
    _, predictions, references = captions()
    expected = {name.lower(): score for name, score in recorded("captions")["scores"].items() if name != "METEOR"}
    assert metrics.caption_scores(predictions, references) == close(expected | {"cider-d": expected["cider"]})


@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR is a Java program, and there is no Java")
@pytest.mark.skipif(not is_available("pycocoevalcap"), reason="METEOR comes with pycocoevalcap, which is not installed")
def test_metrics_meteor() -> None:
    _, predictions, references = captions()
    assert metrics.meteor(predictions, references).score == close(recorded("captions")["scores"]["METEOR"])


def test_metrics_vqa_accuracy() -> None:
    content = recorded("vqa_accuracy")
    predictions = {entry["question_id"]: entry["answer"] for entry in content["predictions"]}
    questions = content["annotations"]
    found = metrics.vqa_accuracy(
        [predictions[question["question_id"]] for question in questions],
        [[entry["answer"] for entry in question["answers"]] for question in questions],
        [question["question_type"] for question in questions],
        [question["answer_type"] for question in questions],
    )
    assert found.accuracy == close(content["accuracy"]["overall"])
    assert found.by_question_type == close(content["accuracy"]["perQuestionType"])
    assert found.by_answer_type == close(content["accuracy"]["perAnswerType"])
    ids = [str(question["question_id"]) for question in questions]
    assert dict(zip(ids, found.per_question, strict=True)) == close(content["per_question"])


def relevant(table: dict[str, Any], rows: int) -> list[list[int]]:
    """Relevant columns of each row; an image has several texts, a text one image."""
    return [np.atleast_1d(table[str(row)]).tolist() for row in range(rows)]


def recalls(direction: str, table: str) -> list[dict[str, float]]:
    """Recall with the recorded order of equal scores, a reversed sort, and with the worst and the best order."""
    content = recorded("retrieval")
    scores = torch.tensor(content[direction], dtype=torch.float32)
    columns = relevant(content[table], len(scores))
    found = [metrics.recall_at_k(scores, columns, RANKS, ties="last")]
    is_relevant = torch.zeros_like(scores, dtype=torch.bool)
    for row, own in enumerate(columns):
        is_relevant[row, own] = True
    for last in (is_relevant, ~is_relevant):
        order = torch.cat([(~last).nonzero(), last.nonzero()])
        # by row, the columns of `last` behind the others, which the first of equal scores wins
        order = order[order[:, 0].argsort(stable=True)][:, 1].view_as(scores)
        places = order.argsort(dim=1)
        moved = [places[row, own].tolist() for row, own in enumerate(columns)]
        found.append(metrics.recall_at_k(scores.gather(1, order), moved, RANKS, ties="first"))
    return found


@pytest.mark.parametrize(
    ("prefix", "direction", "table"), [("txt", "scores_i2t", "img2txt"), ("img", "scores_t2i", "txt2img")]
)
def test_metrics_recall(prefix: str, direction: str, table: str) -> None:
    found, worst, best = recalls(direction, table)
    names = {f"R@{rank}": f"{prefix}_r{rank}" for rank in RANKS} | {"R@mean": f"{prefix}_r_mean"}
    for name, original in names.items():
        value = recorded("retrieval")["metrics"][original]
        # numpy's sort leaves the order of equal scores open where a row is long; then only the bounds are known
        if worst[name] == best[name]:
            assert found[name] == close(value), original
        assert worst[name] - TOLERANCE <= value <= best[name] + TOLERANCE, original


def test_metrics_recall_means() -> None:
    content = recorded("retrieval")["metrics"]
    assert set(content) == {
        *(f"{prefix}_r{suffix}" for prefix in ("txt", "img") for suffix in (*RANKS, "_mean")),
        "r_mean",
        "agg_metrics",
    }
    text, worst_text, best_text = recalls("scores_i2t", "img2txt")
    image, worst_image, best_image = recalls("scores_t2i", "txt2img")
    if (worst_text, worst_image) == (best_text, best_image):
        assert (text["R@mean"] + image["R@mean"]) / 2 == close(content["r_mean"])
        assert text["R@mean"] == close(content["agg_metrics"])
    else:
        assert content["r_mean"] == close((content["txt_r_mean"] + content["img_r_mean"]) / 2)
        assert content["agg_metrics"] == close(content["txt_r_mean"])
