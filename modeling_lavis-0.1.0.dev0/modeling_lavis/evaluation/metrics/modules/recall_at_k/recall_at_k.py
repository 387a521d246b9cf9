# SPDX-License-Identifier: Apache-2.0
"""Recall at K of rankings."""

from typing import Any

import datasets
import evaluate

from modeling_lavis.evaluation import metrics


class RecallAtK(evaluate.Metric):
    """Recall at K of rankings."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Percentage of rows with a relevant column among the K best.",
            citation="",
            inputs_description="predictions: a row of scores per query; references: the relevant columns of each row",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("int64")),
                }
            ),
        )

    def _compute(
        self, predictions: list[Any], references: list[Any], ranks: tuple[int, ...] = (1, 5, 10), ties: str = "first"
    ) -> dict[str, Any]:
        return metrics.recall_at_k(predictions, references, ranks, ties=ties)
