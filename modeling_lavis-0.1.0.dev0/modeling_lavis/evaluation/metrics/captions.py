# SPDX-License-Identifier: Apache-2.0
"""Scores of captions as COCO caption evaluation computes them: BLEU, ROUGE-L, CIDEr.

All functions take one prediction and any number of references per image, tokenize them as COCO's tool does, and return
the score over all images and of each image.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .inputs import check_lengths, check_strings
from .ptb_tokenizer import tokenize_captions

# parity: COCO's BLEU adds these to counts and lengths
_TINY = 1e-15
_SMALL = 1e-9
_ROUGE_BETA = 1.2
_CIDER_ORDER = 4
_CIDER_SIGMA = 6.0
_CIDER_SCALE = 10.0

NGrams = Counter[tuple[str, ...]]


class CaptionScore(NamedTuple):
    """
    A score of captions.

    Args:
        score (`float`): over all images.
        per_image (`list[float]`): of each image, in the order of the predictions.
    """

    score: float
    per_image: list[float]


def tokenize_for_scores(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenized: bool = False
) -> tuple[list[str], list[list[str]]]:
    """
    Check predictions and references and tokenize them, each of the two in one go as COCO's tool does.

    Args:
        predictions (sequence of `str`): one caption per image.
        references (sequence of sequences of `str`): at least one reference per image.
        tokenized (`bool`, *optional*, defaults to `False`): whether they are tokens joined by spaces already.

    Returns:
        Predictions and references as tokens joined by spaces.

    Raises:
        ValueError: If there are no predictions, the numbers differ, an image has no reference, or a caption is no
            `str`.
    """
    check_lengths(predictions=predictions, references=references)
    check_strings("predictions", predictions)
    for row, captions in enumerate(references):
        if isinstance(captions, str):
            raise ValueError(
                f"references[{row}] is a single str ({captions[:40]!r}); expected a list of references for each image."
            )
        if not captions:
            raise ValueError(f"references[{row}] is empty; expected at least one reference for each image.")
        check_strings(f"references[{row}]", captions)
    if tokenized:
        return list(predictions), [list(captions) for captions in references]
    flat = iter(tokenize_captions([caption for captions in references for caption in captions]))
    return tokenize_captions(predictions), [[next(flat) for _ in captions] for captions in references]


def bleu(
    predictions: Sequence[str], references: Sequence[Sequence[str]], max_order: int = 4, *, tokenized: bool = False
) -> list[CaptionScore]:
    """
    BLEU-1 to BLEU-`max_order` (Papineni et al., 2002, https://aclanthology.org/P02-1040), in [0, 1], with the brevity
    penalty by the reference that is closest in length.

    Args:
        predictions (sequence of `str`): one caption per image.
        references (sequence of sequences of `str`): at least one reference per image.
        max_order (`int`, *optional*, defaults to 4): longest n-grams.
        tokenized (`bool`, *optional*, defaults to `False`): whether captions are tokens joined by spaces already.

    Returns:
        `list[CaptionScore]`: the score of each order; the last is BLEU-4 by default.

    Raises:
        ValueError: If there are no predictions, the numbers differ, an image has no reference, a caption is no `str`,
            or `max_order` is less than 1.
    """
    if max_order < 1:
        raise ValueError(f"max_order is {max_order}; expected at least 1.")
    predicted, referenced = tokenize_for_scores(predictions, references, tokenized)
    statistics = [_bleu_statistics(*pair, max_order) for pair in zip(predicted, referenced)]
    total = [sum(column) for column in zip(*statistics)]
    overall = _bleu_scores(total, max_order)
    per_image = [_bleu_scores(row, max_order) for row in statistics]
    return [CaptionScore(overall[n], [scores[n] for scores in per_image]) for n in range(max_order)]


def _bleu_statistics(prediction: str, references: Sequence[str], max_order: int) -> list[int]:
    """Length, closest length of a reference, then for each order the matched n-grams and all n-grams."""
    words = prediction.split()
    lengths = [len(reference.split()) for reference in references]
    closest = min(lengths, key=lambda length: (abs(length - len(words)), length))
    counts = _ngrams(words, max_order)
    most: NGrams = Counter()
    for reference in references:
        most |= _ngrams(reference.split(), max_order)
    matched = [0] * max_order
    for ngram, count in (counts & most).items():
        matched[len(ngram) - 1] += count
    result = [len(words), closest]
    for n in range(max_order):
        result += [matched[n], max(0, len(words) - n)]
    return result


def _bleu_scores(statistics: Sequence[int], max_order: int) -> list[float]:
    length, reference_length, *counts = statistics
    ratio = (length + _TINY) / (reference_length + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n in range(max_order):
        product *= (counts[2 * n] + _TINY) / (counts[2 * n + 1] + _SMALL)
        scores.append(product ** (1 / (n + 1)) * penalty)
    return scores


def rouge_l(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool = False
) -> CaptionScore:
    """
    ROUGE-L (Lin, 2004, https://aclanthology.org/W04-1013), in [0, 1]: F-measure of the longest common subsequence with
    beta 1.2, from the best precision and the best recall among the references. The score is the mean over images.

    Args:
        predictions (sequence of `str`): one caption per image.
        references (sequence of sequences of `str`): at least one reference per image.
        tokenized (`bool`, *optional*, defaults to `False`): whether captions are tokens joined by spaces already.

    Returns:
        [`CaptionScore`].

    Raises:
        ValueError: If there are no predictions, the numbers differ, an image has no reference, or a caption is no
            `str`.
    """
    predicted, referenced = tokenize_for_scores(predictions, references, tokenized)
    per_image = [_rouge_l(*pair) for pair in zip(predicted, referenced)]
    return CaptionScore(sum(per_image) / len(per_image), per_image)


def _rouge_l(prediction: str, references: Sequence[str]) -> float:
    words = prediction.split(" ")  # parity: an empty caption is one empty word
    candidates = [reference.split(" ") for reference in references]
    common = [_common_subsequence(words, candidate) for candidate in candidates]
    precision = max(common) / len(words)
    recall = max(length / len(candidate) for length, candidate in zip(common, candidates))
    if not precision or not recall:
        return 0.0
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, row by row of the usual table."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for column, other in enumerate(second, start=1):
            above = lengths[column]
            lengths[column] = diagonal + 1 if word == other else max(above, lengths[column - 1])
            diagonal = above
    return lengths[-1]


def cider(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    variant: str = "coco",
    tokenized: bool = False,
) -> CaptionScore:
    """
    CIDEr (Vedantam et al., 2015, https://arxiv.org/abs/1411.5726): 10 times the mean over 1- to 4-grams and references
    of the similarity of TF-IDF vectors. The figure is about 1.3 for good captions of COCO, 133 in papers.

    The document frequencies come from the references of all given images, so the score of an image depends on the set.
    Words are not stemmed.

    Args:
        predictions (sequence of `str`): one caption per image.
        references (sequence of sequences of `str`): at least one reference per image.
        variant (`str`, *optional*, defaults to `"coco"`): `"coco"` is what COCO caption evaluation prints as CIDEr, and
            papers report: the formula of CIDEr-D, with clipped counts and a penalty on the length. `"paper"` is the
            formula of the paper's section 4, the plain cosine.
        tokenized (`bool`, *optional*, defaults to `False`): whether captions are tokens joined by spaces already.

    Returns:
        [`CaptionScore`].

    Raises:
        ValueError: If there are no predictions, the numbers differ, an image has no reference, a caption is no `str`,
            or `variant` is unknown.
    """
    if variant not in ("coco", "paper"):
        raise ValueError(f"variant is {variant!r}; expected 'coco' or 'paper'.")
    predicted, referenced = tokenize_for_scores(predictions, references, tokenized)
    similarity = _cider_d_similarity if variant == "coco" else _cosine
    return _cider(predicted, referenced, similarity)


def cider_d(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool = False
) -> CaptionScore:
    """
    CIDEr-D (Vedantam et al., 2015, section 5, https://arxiv.org/abs/1411.5726), with sigma 6. It is what COCO caption
    evaluation prints as CIDEr; see [`cider`].

    Args:
        predictions (sequence of `str`): one caption per image.
        references (sequence of sequences of `str`): at least one reference per image.
        tokenized (`bool`, *optional*, defaults to `False`): whether captions are tokens joined by spaces already.

    Returns:
        [`CaptionScore`].

    Raises:
        ValueError: If there are no predictions, the numbers differ, an image has no reference, or a caption is no
            `str`.
    """
    return cider(predictions, references, variant="coco", tokenized=tokenized)


class _Vectors(NamedTuple):
    """TF-IDF vectors of a caption by order, their norms, and its length."""

    weights: list[dict[tuple[str, ...], float]]
    norms: list[float]
    length: int


Similarity = Callable[[_Vectors, _Vectors], list[float]]


def _cider(predictions: Sequence[str], references: Sequence[Sequence[str]], similarity: Similarity) -> CaptionScore:
    counts = [[_ngrams(reference.split(), _CIDER_ORDER) for reference in captions] for captions in references]
    documents: Counter[tuple[str, ...]] = Counter()
    for captions in counts:
        documents.update({ngram for caption in captions for ngram in caption})
    log_images = math.log(len(references))

    def vectors(ngrams: NGrams) -> _Vectors:
        weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(_CIDER_ORDER)]
        for ngram, count in ngrams.items():
            weights[len(ngram) - 1][ngram] = count * (log_images - math.log(max(1, documents[ngram])))
        norms = [math.sqrt(sum(weight**2 for weight in order.values())) for order in weights]
        # parity: the length is the number of 2-grams
        return _Vectors(weights, norms, sum(count for ngram, count in ngrams.items() if len(ngram) == 2))

    per_image = []
    for prediction, captions in zip(predictions, counts):
        predicted = vectors(_ngrams(prediction.split(), _CIDER_ORDER))
        similarities = [sum(similarity(predicted, vectors(caption))) / _CIDER_ORDER for caption in captions]
        per_image.append(_CIDER_SCALE * sum(similarities) / len(captions))
    return CaptionScore(sum(per_image) / len(per_image), per_image)


def _cosine(predicted: _Vectors, reference: _Vectors, clip: bool = False) -> list[float]:
    """Cosine of each order; 0 for a vector without length."""
    result = []
    for n in range(_CIDER_ORDER):
        first, second = predicted.weights[n], reference.weights[n]
        product = sum(
            (min(weight, second[ngram]) if clip else weight) * second[ngram]
            for ngram, weight in first.items()
            if ngram in second
        )
        norm = predicted.norms[n] * reference.norms[n]
        result.append(product / norm if norm else product)
    return result


def _cider_d_similarity(predicted: _Vectors, reference: _Vectors) -> list[float]:
    difference = predicted.length - reference.length
    penalty = math.exp(-(difference**2) / (2 * _CIDER_SIGMA**2))
    return [penalty * value for value in _cosine(predicted, reference, clip=True)]


def _ngrams(words: Sequence[str], max_order: int) -> NGrams:
    return Counter(
        tuple(words[start : start + n]) for n in range(1, max_order + 1) for start in range(len(words) - n + 1)
    )


def caption_scores(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenized: bool = False,
    java: bool = False,
) -> dict[str, float]:
    """
    All scores of captions over all images.

    Args:
        predictions (sequence of `str`): one caption per image.
        references (sequence of sequences of `str`): at least one reference per image.
        tokenized (`bool`, *optional*, defaults to `False`): whether captions are tokens joined by spaces already.
        java (`bool`, *optional*, defaults to `False`): whether to add METEOR and SPICE, which are Java programs;
            see [`meteor`].

    Returns:
        `dict[str, float]`: `"bleu-1"` to `"bleu-4"`, `"rouge-l"`, `"cider"`, `"cider-d"` (equal to `"cider"`; see
        [`cider`]) and, on demand, `"meteor"` and `"spice"`.

    Raises:
        ValueError: If there are no predictions, the numbers differ, an image has no reference, or a caption is no
            `str`.
        ImportError: If `java` is set, and Java or pycocoevalcap is not installed.
    """
    predicted, referenced = tokenize_for_scores(predictions, references, tokenized)
    scores = {f"bleu-{n}": score.score for n, score in enumerate(bleu(predicted, referenced, tokenized=True), start=1)}
    scores["rouge-l"] = rouge_l(predicted, referenced, tokenized=True).score
    scores["cider"] = scores["cider-d"] = cider(predicted, referenced, tokenized=True).score
    if java:
        from .java_metrics import meteor, spice

        scores["meteor"] = meteor(predicted, referenced, tokenized=True).score
        scores["spice"] = spice(predicted, referenced, tokenized=True).score
    return scores


__all__ = ["CaptionScore", "bleu", "caption_scores", "cider", "cider_d", "rouge_l", "tokenize_for_scores"]
