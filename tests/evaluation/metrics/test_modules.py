"""The metrics as modules of evaluate, without network, in one and several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modeling_lavis.evaluation import metrics
from modeling_lavis.evaluation.metrics import load_metric, metric_names, module_path

evaluate = pytest.importorskip("evaluate", reason="the modules need the extra [train]")

CAPTIONS = (["a red cat sits", "two dogs run"], [["a red cat sits here", "a cat"], ["two dogs run fast"]])
ANSWERS = (["2", "dog"], [["2"] * 10, ["dog"] * 2 + ["cat"] * 8])
SCORES = ([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]], [[0, 2], [1]])
CASES: dict[str, tuple[tuple[Any, Any], dict[str, Any]]] = {
    "bleu": (CAPTIONS, {"bleu-4": metrics.bleu(*CAPTIONS)[3].score, "bleu-1": metrics.bleu(*CAPTIONS)[0].score}),
    "rouge_l": (CAPTIONS, {"rouge-l": metrics.rouge_l(*CAPTIONS).score}),
    "cider": (CAPTIONS, {"cider": metrics.cider(*CAPTIONS).score}),
    "cider_d": (CAPTIONS, {"cider-d": metrics.cider_d(*CAPTIONS).score}),
    "caption_scores": (CAPTIONS, metrics.caption_scores(*CAPTIONS)),
    "vqa_accuracy": (ANSWERS, {"accuracy": metrics.vqa_accuracy(*ANSWERS).accuracy}),
    "aokvqa_accuracy": (ANSWERS, {"accuracy": metrics.aokvqa_accuracy(*ANSWERS)}),
    "gqa_accuracy": ((["The dog", "2"], ["dog", "3"]), {"accuracy": 50.0}),
    "classification_accuracy": (([1, 2, 0], [1, 2, 2]), {"accuracy": 2 / 3}),
    "recall_at_k": (SCORES, metrics.recall_at_k(*SCORES)),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and caches of its own."""
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "cache"))


def test_every_metric_is_tested() -> None:
    assert sorted(CASES) == metric_names()


@pytest.mark.parametrize("name", CASES)
def test_modules_give_what_the_functions_give(name: str) -> None:
    (predictions, references), expected = CASES[name]
    metric = evaluate.load(str(module_path(name)))
    found = metric.compute(predictions=predictions, references=references)
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    for prediction, reference in zip(predictions, references, strict=True):
        metric.add(prediction=prediction, reference=reference)
    again = metric.compute()
    assert {key: again[key] for key in expected} == pytest.approx(expected)


def test_options_of_modules() -> None:
    assert set(load_metric("bleu").compute(predictions=CAPTIONS[0], references=CAPTIONS[1], max_order=2)) == {
        "bleu-1",
        "bleu-2",
    }
    paper = load_metric("cider").compute(predictions=CAPTIONS[0], references=CAPTIONS[1], variant="paper")
    assert paper["cider"] == pytest.approx(metrics.cider(*CAPTIONS, variant="paper").score)
    found = load_metric("recall_at_k").compute(predictions=[[0.5, 0.5]], references=[[1]], ranks=(1,), ties="last")
    assert found["R@1"] == 100.0


def test_names_of_classes() -> None:
    assert load_metric("classification_accuracy").compute(predictions=["a", "b"], references=["a", "c"]) == {
        "accuracy": 0.5
    }


def test_accuracy_by_types() -> None:
    metric = load_metric("vqa_accuracy", "types")
    types = {"question_types": ["how many", "what"], "answer_types": ["number", "other"]}
    found = metric.compute(predictions=ANSWERS[0], references=ANSWERS[1], **types)
    assert found == {
        "accuracy": 80.0,
        "by_question_type": {"how many": 100.0, "what": 60.0},
        "by_answer_type": {"number": 100.0, "other": 60.0},
    }


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="There is no metric 'f1'; expected one of aokvqa_accuracy, bleu,"):
        load_metric("f1")
    with pytest.raises(ValueError, match="The configuration is 'kinds'; expected 'default' or 'types'"):
        load_metric("vqa_accuracy", "kinds")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_several_processes(processes: int, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "HF_EVALUATE_OFFLINE": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, str(Path(__file__).parent / "metric_worker.py")]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(processes), str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for rank in range(processes)
    ]
    results = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in started]
    assert [process.returncode for process in started] == [0] * processes
    # three questions with 3 of 10 matching answers, three without
    expected = metrics.vqa_accuracy(["2"], [["2"] * 3 + ["cat"] * 7]).accuracy
    assert results[0] == {
        "accuracy": round(expected / 2, 2),
        "by_question_type": {"how many": expected, "what": 0.0},
        "by_answer_type": {"other": round(expected / 2, 2)},
    }
    assert results[1:] == [None] * (processes - 1)
