# SPDX-License-Identifier: Apache-2.0
"""Accuracy of classes: NLVR2, SNLI-VE, image classes, video question answering with a list of answers."""

from collections.abc import Sequence

from .inputs import check_lengths


def classification_accuracy(
    predictions: Sequence[int] | Sequence[str], references: Sequence[int] | Sequence[str]
) -> float:
    """
    Share of predicted classes that are right.

    Args:
        predictions (sequence of `int` or `str`): a class, by number or name, per example.
        references (sequence of `int` or `str`): the right class of each example, in the same form.

    Returns:
        `float`: accuracy in [0, 1].

    Raises:
        ValueError: If there are no predictions, the numbers differ, or numbers are compared with names.
    """
    check_lengths(predictions=predictions, references=references)
    pairs = list(zip(predictions, references))
    for row, (prediction, reference) in enumerate(pairs):
        if isinstance(prediction, str) != isinstance(reference, str):
            raise ValueError(
                f"Example {row} has the prediction {prediction!r} and the reference {reference!r}; expected both as"
                " numbers or both as names of classes."
            )
    return sum(bool(prediction == reference) for prediction, reference in pairs) / len(pairs)


__all__ = ["classification_accuracy"]
