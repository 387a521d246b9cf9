# SPDX-License-Identifier: Apache-2.0
"""Share of right classes."""

from typing import Any

import datasets
import evaluate

from modeling_lavis.evaluation import metrics


class ClassificationAccuracy(evaluate.Metric):
    """Share of right classes."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of right classes, in [0, 1].",
            citation="",
            inputs_description="predictions: a class per example; references: the right class; numbers or names",
            features=[
                datasets.Features({"predictions": datasets.Value(kind), "references": datasets.Value(kind)})
                for kind in ("int64", "string")
            ],
        )

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, Any]:
        return {"accuracy": metrics.classification_accuracy(predictions, references)}
