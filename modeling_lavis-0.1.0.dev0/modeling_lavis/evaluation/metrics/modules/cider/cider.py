# SPDX-License-Identifier: Apache-2.0
"""CIDEr of captions as COCO caption evaluation computes it."""

from typing import Any

import datasets
import evaluate

from modeling_lavis.evaluation import metrics


class Cider(evaluate.Metric):
    """CIDEr of captions as COCO caption evaluation computes it."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="CIDEr of captions, with the tokens of COCO caption evaluation.",
            citation="",
            inputs_description="predictions: one caption per image; references: a list of captions per image",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
        )

    def _compute(self, predictions: list[Any], references: list[Any], variant: str = "coco") -> dict[str, Any]:
        return {"cider": metrics.cider(predictions, references, variant=variant).score}
