# SPDX-License-Identifier: Apache-2.0
"""All scores of captions as COCO caption evaluation computes them."""

from typing import Any

import datasets
import evaluate

from modeling_lavis.evaluation import metrics


class CaptionScores(evaluate.Metric):
    """All scores of captions as COCO caption evaluation computes them."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="BLEU-1 to BLEU-4, ROUGE-L, CIDEr, CIDEr-D and, with java=True, METEOR and SPICE.",
            citation="",
            inputs_description="predictions: one caption per image; references: a list of captions per image",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
        )

    def _compute(self, predictions: list[Any], references: list[Any], java: bool = False) -> dict[str, Any]:
        return dict(metrics.caption_scores(predictions, references, java=java))
