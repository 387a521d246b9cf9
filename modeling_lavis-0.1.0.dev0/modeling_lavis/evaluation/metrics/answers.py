# SPDX-License-Identifier: Apache-2.0
"""Accuracy of answers to questions about images: VQAv2 and OK-VQA, A-OKVQA, GQA."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .inputs import check_lengths, check_strings

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# parity: the official code passes the flag re.UNICODE, 32, as the number of replacements
_MOST_PERIODS = 32
_ARTICLES = ("a", "an", "the")
_NUMBERS = {"none": "0", "zero": "0"} | {
    word: str(number) for number, word in enumerate("one two three four five six seven eight nine ten".split(), start=1)
}
#: matches among the other nine answers for full accuracy
_FULL_AGREEMENT = 3
_DECIMALS = 2


def _contractions() -> dict[str, str]:
    """Words without their apostrophe, and with it. These are the pairs of VQA's evaluation, not all of English."""
    endings = {
        "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
        "'ve": "could might must not should they we what where who would you",
        "'d": "he how it someone something there they where who you",
        "'s": "he how somebody someone that there what when where who why",
        "'ll": "how it somebody someone something they what who why you",
        "'re": "there they what why you",
    }
    pairs = {
        word + ending.replace("'", ""): word + ending for ending, words in endings.items() for word in words.split()
    }
    # With two apostrophes, one of which is missing.
    doubled = [f"{word}n't've" for word in "could had might should would".split()]
    doubled += [f"{word}'d've" for word in "he it she somebody someone something there they we who you".split()]
    doubled += ["y'all'll", "y'all'd've", "'ow's'at"]
    for word in doubled:
        places = [place for place, character in enumerate(word) if character == "'"]
        pairs |= {word[:place] + word[place + 1 :]: word for place in places}
    # parity: the official table adds an apostrophe to these, and removes one from the last
    return pairs | {"maam": "ma'am", "oclock": "o'clock", "twas": "'twas", "yall": "y'all", "somebody'd": "somebodyd"}


_CONTRACTIONS = _contractions()


@dataclass(frozen=True)
class VqaAccuracy:
    """
    Accuracies of answers in percent, rounded to two decimals as in VQA's official evaluation.

    Args:
        accuracy (`float`): of all questions.
        per_question (`list[float]`): of each question, in the order of the predictions.
        by_question_type (`dict[str, float]` or `None`): by question type, if types were given.
        by_answer_type (`dict[str, float]` or `None`): by answer type, if types were given.
    """

    accuracy: float
    per_question: list[float]
    by_question_type: dict[str, float] | None = None
    by_answer_type: dict[str, float] | None = None


def remove_punctuation(answer: str) -> str:
    """
    Remove punctuation from an answer as VQA's official evaluation does.

    A sign becomes a space, or nothing if it touches a space somewhere in the answer or the answer has a number with a
    comma. A period goes unless a digit follows.
    """
    in_number = _COMMA_IN_NUMBER.search(answer) is not None
    result = answer
    for sign in _PUNCTUATION:
        beside_space = f"{sign} " in answer or f" {sign}" in answer
        result = result.replace(sign, "" if beside_space or in_number else " ")
    return _PERIOD.sub("", result, count=_MOST_PERIODS)


def normalize_answer(answer: str) -> str:
    """
    Normalize a predicted answer as VQA's official evaluation does: punctuation ([`remove_punctuation`]), lower case,
    number words up to ten as digits, no articles, apostrophes in contractions.

    Args:
        answer (`str`): an answer, for example `"The dont-know, ten"`.

    Returns:
        `str`: for example `"dont know 10"`.
    """
    text = remove_punctuation(answer.replace("\n", " ").replace("\t", " ").strip())
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    question_types: Sequence[str] | None = None,
    answer_types: Sequence[str] | None = None,
) -> VqaAccuracy:
    """
    Accuracy of VQAv2 and OK-VQA (Antol et al., 2015, https://arxiv.org/abs/1505.00468), as the official evaluation
    computes it: the mean over the annotators of min(1, matches among the answers of the others / 3).

    Predictions are normalized by [`normalize_answer`]. Annotators' answers lose their punctuation, and only if they
    are not all the same; they are expected in lower case as in the annotation files.

    Args:
        predictions (sequence of `str`): one answer per question.
        references (sequence of sequences of `str`): the annotators' answers to each question, ten in VQAv2.
        question_types (sequence of `str`, *optional*): type of each question, for example `"how many"`.
        answer_types (sequence of `str`, *optional*): type of each answer: `"yes/no"`, `"number"` or `"other"`.

    Returns:
        [`VqaAccuracy`].

    Raises:
        ValueError: If there are no predictions, the numbers differ, a question has no answers of annotators, or an
            answer is no `str`.
    """
    _check_answers(predictions, references)
    check_lengths(predictions=predictions, question_types=question_types, answer_types=answer_types)
    accuracies = [_agreement(*pair) for pair in zip(predictions, references)]
    return VqaAccuracy(
        accuracy=_percent(accuracies),
        per_question=[_percent([accuracy]) for accuracy in accuracies],
        by_question_type=None if question_types is None else _by_type(accuracies, question_types),
        by_answer_type=None if answer_types is None else _by_type(accuracies, answer_types),
    )


def _agreement(prediction: str, references: Sequence[str]) -> float:
    answers = [remove_punctuation(answer) for answer in references] if len(set(references)) > 1 else list(references)
    matches = [answer == normalize_answer(prediction) for answer in answers]
    total = sum(matches)
    return sum(min(1.0, (total - own) / _FULL_AGREEMENT) for own in matches) / len(matches)


def _by_type(accuracies: Sequence[float], types: Sequence[str]) -> dict[str, float]:
    groups: Mapping[str, list[float]] = defaultdict(list)
    for accuracy, name in zip(accuracies, types):
        groups[name].append(accuracy)
    return {name: _percent(group) for name, group in groups.items()}


def _percent(accuracies: Sequence[float]) -> float:
    return round(100 * sum(accuracies) / len(accuracies), _DECIMALS)


def aokvqa_accuracy(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """
    Accuracy of direct answers of A-OKVQA (Schwenk et al., 2022, https://arxiv.org/abs/2206.01718) in percent: the mean
    of min(1, annotators with exactly this answer / 3). Answers are compared as they are, in lower case or not.

    Args:
        predictions (sequence of `str`): one answer per question.
        references (sequence of sequences of `str`): the annotators' answers to each question.

    Returns:
        `float`: accuracy in percent.

    Raises:
        ValueError: If there are no predictions, the numbers differ, a question has no answers of annotators, or an
            answer is no `str`.
    """
    _check_answers(predictions, references)
    agreements = [
        min(1.0, list(answers).count(prediction) / _FULL_AGREEMENT)
        for prediction, answers in zip(predictions, references)
    ]
    return 100 * sum(agreements) / len(agreements)


def gqa_accuracy(predictions: Sequence[str], references: Sequence[str]) -> float:
    """
    Accuracy of GQA (Hudson and Manning, 2019, https://arxiv.org/abs/1902.09506) in percent: the share of predictions
    that equal the answer, after [`normalize_answer`] of both.

    Args:
        predictions (sequence of `str`): one answer per question.
        references (sequence of `str`): the answer to each question.

    Returns:
        `float`: accuracy in percent.

    Raises:
        ValueError: If there are no predictions, the numbers differ, or an answer is no `str`.
    """
    check_lengths(predictions=predictions, references=references)
    check_strings("predictions", predictions)
    check_strings("references", references)
    hits = [
        normalize_answer(prediction) == normalize_answer(answer) for prediction, answer in zip(predictions, references)
    ]
    return 100 * sum(hits) / len(hits)


def _check_answers(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    check_lengths(predictions=predictions, references=references)
    check_strings("predictions", predictions)
    for row, answers in enumerate(references):
        if isinstance(answers, str):
            raise ValueError(
                f"references[{row}] is a single str ({answers[:40]!r}); expected a list of the annotators' answers."
            )
        if not len(answers):
            raise ValueError(f"references[{row}] is empty; expected the annotators' answers to each question.")
        check_strings(f"references[{row}]", answers)


__all__ = ["VqaAccuracy", "aokvqa_accuracy", "gqa_accuracy", "normalize_answer", "remove_punctuation", "vqa_accuracy"]
