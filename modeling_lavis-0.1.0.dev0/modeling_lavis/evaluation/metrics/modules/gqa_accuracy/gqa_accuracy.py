# SPDX-License-Identifier: Apache-2.0
"""Accuracy of GQA."""

from typing import Any

import datasets
import evaluate

from modeling_lavis.evaluation import metrics


class GqaAccuracy(evaluate.Metric):
    """Accuracy of GQA."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy of GQA in percent.",
            citation="",
            inputs_description="predictions: one answer per question; references: the answer to each question",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Value("string"),
                }
            ),
        )

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, Any]:
        return {"accuracy": metrics.gqa_accuracy(predictions, references)}
