# SPDX-License-Identifier: Apache-2.0
"""Accuracy of A-OKVQA's direct answers."""

from typing import Any

import datasets
import evaluate

from modeling_lavis.evaluation import metrics


class AokvqaAccuracy(evaluate.Metric):
    """Accuracy of A-OKVQA's direct answers."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy of A-OKVQA's direct answers in percent.",
            citation="",
            inputs_description="predictions: an answer per question; references: the annotators' answers",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
        )

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, Any]:
        return {"accuracy": metrics.aokvqa_accuracy(predictions, references)}
