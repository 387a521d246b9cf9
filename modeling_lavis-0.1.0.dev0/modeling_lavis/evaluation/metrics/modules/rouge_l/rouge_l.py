# SPDX-License-Identifier: Apache-2.0
"""ROUGE-L of captions as COCO caption evaluation computes it."""

from typing import Any

import datasets
import evaluate

from modeling_lavis.evaluation import metrics


class RougeL(evaluate.Metric):
    """ROUGE-L of captions as COCO caption evaluation computes it."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROUGE-L of captions, with the tokens of COCO caption evaluation.",
            citation="",
            inputs_description="predictions: one caption per image; references: a list of captions per image",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
        )

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, Any]:
        return {"rouge-l": metrics.rouge_l(predictions, references).score}
