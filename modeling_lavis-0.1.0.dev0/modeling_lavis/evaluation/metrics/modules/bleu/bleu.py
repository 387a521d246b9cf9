# SPDX-License-Identifier: Apache-2.0
"""BLEU of captions as COCO caption evaluation computes it."""

from typing import Any

import datasets
import evaluate

from modeling_lavis.evaluation import metrics


class Bleu(evaluate.Metric):
    """BLEU of captions as COCO caption evaluation computes it."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="BLEU-1 to BLEU-max_order of captions, with the tokens of COCO caption evaluation.",
            citation="",
            inputs_description="predictions: one caption per image; references: a list of captions per image",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
        )

    def _compute(self, predictions: list[Any], references: list[Any], max_order: int = 4) -> dict[str, Any]:
        scores = metrics.bleu(predictions, references, max_order)
        return {f"bleu-{order}": score.score for order, score in enumerate(scores, start=1)}
