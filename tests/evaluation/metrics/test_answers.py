"""Accuracy of answers and classes against their definitions."""

from __future__ import annotations

import random
from statistics import mean
from typing import Any

import pytest

from modeling_lavis.evaluation.metrics import (
    aokvqa_accuracy,
    classification_accuracy,
    gqa_accuracy,
    normalize_answer,
    remove_punctuation,
    vqa_accuracy,
)


@pytest.mark.parametrize(
    ("answer", "normalized"),
    [
        ("The Dog", "dog"),
        ("an apple, a pear", "apple pear"),
        ("None", "0"),
        ("ten", "10"),
        ("twenty one", "twenty 1"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("ow's'at", "'ow's'at"),
        ("y'alld've", "y'all'd've"),
        ("shed", "shed"),
        ("left-hand side", "left hand side"),
        ("left -hand side", "left hand side"),
        ("left- hand", "left hand"),
        ("black/white", "black white"),
        ("black /white", "black white"),
        ("1,000", "1000"),
        ("1,000 a/b", "1000 ab"),
        ("10.5", "10.5"),
        ("u.s.a.", "usa"),
        (".5", ".5"),
        (" a\tb\nc ", "b c"),
        ("ski (snow)", "ski snow"),
        ("3 o'clock", "3 o'clock"),
        ("3 oclock", "3 o'clock"),
        ("", ""),
    ],
)
def test_normalized_answers(answer: str, normalized: str) -> None:
    assert normalize_answer(answer) == normalized


def test_at_most_32_periods_are_removed() -> None:
    assert remove_punctuation("." * 40) == "." * 8


def test_a_sign_beside_a_space_goes_everywhere() -> None:
    assert remove_punctuation("a-b c -d") == "ab c d"
    assert remove_punctuation("a-b c") == "a b c"


def accuracy_by_definition(prediction: str, answers: list[str]) -> float:
    """Mean over the annotators of the agreement with the others."""
    return mean(
        min(1, sum(other == prediction for k, other in enumerate(answers) if k != left_out) / 3)
        for left_out in range(len(answers))
    )


def test_vqa_accuracy_is_its_definition() -> None:
    generator = random.Random(0)
    words = ["cat", "dog", "bird"]
    answers = [[generator.choice(words) for _ in range(10)] for _ in range(60)]
    predictions = [generator.choice(words) for _ in answers]
    kinds = [generator.choice(["what", "how many"]) for _ in answers]
    found = vqa_accuracy(predictions, answers, question_types=kinds, answer_types=["other"] * 60)
    expected = [100 * accuracy_by_definition(p, a) for p, a in zip(predictions, answers, strict=True)]
    assert found.per_question == [round(value, 2) for value in expected]
    assert found.accuracy == round(mean(expected), 2)
    assert found.by_answer_type == {"other": found.accuracy}
    assert found.by_question_type == {
        kind: round(mean(v for v, k in zip(expected, kinds, strict=True) if k == kind), 2) for kind in set(kinds)
    }
    assert {0.0, 30.0, 60.0, 90.0, 100.0} <= set(found.per_question)


def test_types_are_optional() -> None:
    found = vqa_accuracy(["2"], [["2"] * 10])
    assert (found.accuracy, found.by_question_type, found.by_answer_type) == (100.0, None, None)


def test_answers_of_annotators_lose_punctuation_only_if_they_differ() -> None:
    assert vqa_accuracy(["u.s."], [["u.s."] * 10]).accuracy == 0.0
    assert vqa_accuracy(["u.s."], [["u.s."] * 9 + ["x"]]).accuracy == 100.0
    assert vqa_accuracy(["dont"], [["dont"] * 10]).accuracy == 0.0


def test_aokvqa_accuracy_compares_as_it_is() -> None:
    answers = [["cat"] * 2 + ["Cat"] * 8, ["dog"] * 10, ["x"] * 10]
    assert aokvqa_accuracy(["cat", "dog", "the x"], answers) == pytest.approx(100 * (2 / 3 + 1) / 3)


def test_gqa_accuracy_normalizes_both() -> None:
    assert gqa_accuracy(["The two-cats", "dog"], ["2 cats", "cat"]) == 50.0


@pytest.mark.parametrize(("predictions", "references"), [([1, 0, 2, 2], [1, 1, 2, 0]), (list("bacc"), list("bbca"))])
def test_classification_accuracy(predictions: Any, references: Any) -> None:
    assert classification_accuracy(predictions, references) == 0.5


@pytest.mark.parametrize("accuracy", [vqa_accuracy, aokvqa_accuracy], ids=["vqa", "aokvqa"])
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "predictions is empty"),
        (["a"], [["a"], ["b"]], "Got 1 predictions, but 2 references"),
        (["a"], [[]], r"references\[0\] is empty; expected the annotators' answers"),
        (["a"], ["a"], r"references\[0\] is a single str"),
        ([1], [["a"]], r"predictions\[0\] is 1 of type int; expected str"),
        (["a"], [[None]], r"references\[0\]\[0\] is None"),
    ],
)
def test_invalid_answers(accuracy: Any, predictions: Any, references: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        accuracy(predictions, references)


def test_other_numbers_of_types() -> None:
    with pytest.raises(ValueError, match="Got 1 predictions, but 2 question_types"):
        vqa_accuracy(["a"], [["a"]], question_types=["x", "y"])


def test_invalid_arguments_of_other_accuracies() -> None:
    with pytest.raises(ValueError, match="Got 2 predictions, but 1 references"):
        gqa_accuracy(["a", "b"], ["a"])
    with pytest.raises(ValueError, match=r"references\[0\] is \['a'\] of type list; expected str"):
        gqa_accuracy(["a"], [["a"]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="predictions is empty"):
        classification_accuracy([], [])
    with pytest.raises(ValueError, match="Example 1 has the prediction 2 and the reference 'b'"):
        classification_accuracy([1, 2], [1, "b"])  # type: ignore[list-item]
