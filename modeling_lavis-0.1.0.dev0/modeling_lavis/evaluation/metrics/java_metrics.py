# SPDX-License-Identifier: Apache-2.0
"""METEOR and SPICE by the Java programs that come with the package pycocoevalcap."""

import shutil
from collections.abc import Sequence

from modeling_lavis.import_utils import require

from .captions import CaptionScore, tokenize_for_scores


def meteor(predictions: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool = False) -> CaptionScore:
    """
    METEOR 1.5 (Denkowski and Lavie, 2014, https://aclanthology.org/W14-3348), in [0, 1].

    Needs Java and the package pycocoevalcap.

    Args:
        predictions (sequence of `str`): one caption per image.
        references (sequence of sequences of `str`): at least one reference per image.
        tokenized (`bool`, *optional*, defaults to `False`): whether captions are tokens joined by spaces already.

    Returns:
        [`CaptionScore`].

    Raises:
        ValueError: If there are no predictions, the numbers differ, an image has no reference, or a caption is no
            `str`.
        ImportError: If Java or pycocoevalcap is not installed.
    """
    predicted, referenced = tokenize_for_scores(predictions, references, tokenized)
    require_java("METEOR")
    scorer = require("pycocoevalcap.meteor.meteor", extra="coco", purpose="METEOR").Meteor()
    score, per_image = scorer.compute_score(*_columns(predicted, referenced))
    return CaptionScore(float(score), [float(value) for value in per_image])


def spice(predictions: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool = False) -> CaptionScore:
    """
    SPICE (Anderson et al., 2016, https://arxiv.org/abs/1607.08822), in [0, 1].

    Needs Java, the package pycocoevalcap, and at the first call the network, from which the package loads a parser.

    Args:
        predictions (sequence of `str`): one caption per image.
        references (sequence of sequences of `str`): at least one reference per image.
        tokenized (`bool`, *optional*, defaults to `False`): whether captions are tokens joined by spaces already.

    Returns:
        [`CaptionScore`].

    Raises:
        ValueError: If there are no predictions, the numbers differ, an image has no reference, or a caption is no
            `str`.
        ImportError: If Java or pycocoevalcap is not installed.
    """
    predicted, referenced = tokenize_for_scores(predictions, references, tokenized)
    require_java("SPICE")
    scorer = require("pycocoevalcap.spice.spice", extra="coco", purpose="SPICE").Spice()
    score, per_image = scorer.compute_score(*_columns(predicted, referenced))
    return CaptionScore(float(score), [float(value["All"]["f"]) for value in per_image])


def require_java(purpose: str) -> None:
    """
    Check that Java is installed.

    Raises:
        ImportError: If the command `java` is not found.
    """
    if shutil.which("java") is None:
        raise ImportError(
            f"{purpose} is a Java program, and the command 'java' was not found. Install a Java runtime (Debian and"
            ' Ubuntu: apt install default-jre-headless) and pip install "modeling-lavis[coco]".'
        )


def _columns(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """References and predictions by image, in the package's form."""
    return {row: list(captions) for row, captions in enumerate(references)}, {
        row: [caption] for row, caption in enumerate(predictions)
    }


__all__ = ["meteor", "require_java", "spice"]
