"""Scores of captions against their definitions, written as loops."""

from __future__ import annotations

import math
import random
from itertools import combinations
from typing import Any

import pytest

from modeling_lavis.evaluation.metrics import bleu, caption_scores, cider, cider_d, meteor, rouge_l, spice

WORDS = "a the cat dog sits runs on under table red".split()


def sentences(seed: int, images: int = 7, words: int = len(WORDS)) -> tuple[list[str], list[list[str]]]:
    generator = random.Random(seed)

    def sentence() -> str:
        return " ".join(generator.choices(WORDS[:words], k=generator.randint(1, 9)))

    return [sentence() for _ in range(images)], [
        [sentence() for _ in range(generator.randint(1, 4))] for _ in range(images)
    ]


def ngrams(sentence: str, n: int) -> list[tuple[str, ...]]:
    words = sentence.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def bleu_by_definition(predictions: list[str], references: list[list[str]], order: int) -> float:
    precisions = []
    for n in range(1, order + 1):
        matched = total = 0
        for prediction, own in zip(predictions, references, strict=True):
            grams = ngrams(prediction, n)
            total += len(grams)
            for gram in set(grams):
                matched += min(grams.count(gram), max(ngrams(reference, n).count(gram) for reference in own))
        precisions.append(matched / total)
    length = sum(len(prediction.split()) for prediction in predictions)
    closest = 0
    for prediction, own in zip(predictions, references, strict=True):
        size = len(prediction.split())
        closest += min((abs(len(reference.split()) - size), len(reference.split())) for reference in own)[1]
    return min(1, math.exp(1 - closest / length)) * math.prod(precisions) ** (1 / order)


@pytest.mark.parametrize("seed", range(3))
def test_bleu_is_its_definition(seed: int) -> None:
    predictions, references = sentences(seed, images=25, words=3)
    scores = bleu(predictions, references)
    for order in (1, 2, 3, 4):
        expected = bleu_by_definition(predictions, references, order)
        assert scores[order - 1].score == pytest.approx(expected, abs=1e-6)
        assert expected > 0.01
    ones = [bleu_by_definition([p], [r], 1) for p, r in zip(predictions, references, strict=True)]
    assert scores[0].per_image == pytest.approx(ones, abs=1e-6)


def test_bleu_of_fewer_orders() -> None:
    predictions, references = sentences(0)
    assert bleu(predictions, references, max_order=2) == bleu(predictions, references)[:2]
    with pytest.raises(ValueError, match="max_order is 0; expected at least 1"):
        bleu(predictions, references, max_order=0)


def longest_common(first: list[str], second: list[str]) -> int:
    """By trying all subsequences."""

    def is_in(words: tuple[str, ...]) -> bool:
        rest = iter(second)
        return all(word in rest for word in words)

    return max(n for n in range(len(first) + 1) if any(is_in(words) for words in combinations(first, n)))


def test_rouge_l_is_its_definition() -> None:
    predictions, references = sentences(4)
    expected = []
    for prediction, own in zip(predictions, references, strict=True):
        words = prediction.split()
        common = [longest_common(words, reference.split()) for reference in own]
        precision = max(c / len(words) for c in common)
        recall = max(c / len(reference.split()) for c, reference in zip(common, own, strict=True))
        both = recall + 1.44 * precision
        expected.append(2.44 * precision * recall / both if both else 0.0)
    found = rouge_l(predictions, references)
    assert found.per_image == pytest.approx(expected)
    assert found.score == pytest.approx(sum(expected) / len(expected))
    assert len(set(expected)) > 4


def cider_by_definition(predictions: list[str], references: list[list[str]], coco: bool) -> list[float]:
    def weights(sentence: str, n: int) -> dict[tuple[str, ...], float]:
        grams = ngrams(sentence, n)
        documents = {g: sum(any(g in ngrams(r, n) for r in own) for own in references) for g in grams}
        return {g: grams.count(g) * math.log(len(references) / max(1, documents[g])) for g in grams}

    scores = []
    for prediction, own in zip(predictions, references, strict=True):
        total = 0.0
        for reference in own:
            # COCO's tool takes the number of 2-grams as the length
            difference = len(ngrams(prediction, 2)) - len(ngrams(reference, 2))
            for n in (1, 2, 3, 4):
                p, r = weights(prediction, n), weights(reference, n)
                norms = math.hypot(*p.values()) * math.hypot(*r.values())
                product = sum((min(p[g], r[g]) if coco else p[g]) * r[g] for g in p if g in r)
                value = product / norms if norms else 0.0
                total += value * math.exp(-(difference**2) / 72) if coco else value
        scores.append(10 * total / 4 / len(own))
    return scores


@pytest.mark.parametrize("variant", ["coco", "paper"])
def test_cider_is_its_definition(variant: str) -> None:
    predictions, references = sentences(5)
    expected = cider_by_definition(predictions, references, variant == "coco")
    found = cider(predictions, references, variant=variant)
    assert found.per_image == pytest.approx(expected)
    assert found.score == pytest.approx(sum(expected) / len(expected))
    if variant == "coco":
        assert cider_d(predictions, references) == found
    else:
        assert found.score > cider(predictions, references).score * 1.01


def test_unknown_variant_of_cider() -> None:
    with pytest.raises(ValueError, match="variant is 'r'; expected 'coco' or 'paper'"):
        cider(["a"], [["a"]], variant="r")


def test_caption_scores_are_the_single_scores() -> None:
    predictions, references = sentences(6)
    expected = {f"bleu-{n}": score.score for n, score in enumerate(bleu(predictions, references), start=1)}
    expected |= {"rouge-l": rouge_l(predictions, references).score}
    expected |= {name: cider(predictions, references).score for name in ("cider", "cider-d")}
    assert caption_scores(predictions, references) == expected


def test_perfect_and_empty_captions() -> None:
    references = [["a red cat sits here"], ["two dogs run on the grass"]]
    perfect = caption_scores([own[0] for own in references], references)
    assert perfect["bleu-4"] == pytest.approx(1, abs=1e-6) and perfect["rouge-l"] == pytest.approx(1)
    assert perfect["cider"] == pytest.approx(10)
    assert all(score == pytest.approx(0, abs=1e-6) for score in caption_scores(["", "..."], references).values())


def test_captions_are_tokenized_unless_they_are() -> None:
    references = [["the cat isn't here"]]
    assert bleu(["the cat is n't here."], references)[3].score == pytest.approx(1, abs=1e-6)
    assert bleu(["the cat isn't here."], references, tokenized=True)[0].score < 0.9


SCORES = [bleu, rouge_l, cider, cider_d, caption_scores, meteor, spice]


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.__name__)
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "predictions is empty; expected at least one example"),
        (["a", "b"], [["a"]], "Got 2 predictions, but 1 references"),
        (["a"], [[]], r"references\[0\] is empty; expected at least one reference"),
        (["a"], ["a"], r"references\[0\] is a single str \('a'\); expected a list"),
        ("a", [["a"]], r"predictions is a single str \('a'\)"),
        ([None], [["a"]], r"predictions\[0\] is None of type NoneType; expected str"),
        (["a"], [["a", 1]], r"references\[0\]\[1\] is 1 of type int; expected str"),
    ],
)
def test_invalid_captions(score: Any, predictions: Any, references: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(predictions, references)


@pytest.mark.parametrize("score", [meteor, spice], ids=["METEOR", "SPICE"])
def test_scores_by_java_say_what_to_install(score: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ImportError, match=r"the command 'java' was not found.*modeling-lavis\[coco\]"):
        score(["a"], [["a"]])
    monkeypatch.setattr("shutil.which", lambda name: "/bin/java")
    monkeypatch.setattr("modeling_lavis.import_utils.is_available", lambda name: False)
    with pytest.raises(ImportError, match=r"'pycocoevalcap' is not installed.*modeling-lavis\[coco\]"):
        score(["a"], [["a"]])
