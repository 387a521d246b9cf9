# SPDX-License-Identifier: Apache-2.0
"""Accuracy of VQAv2 and OK-VQA."""

from typing import Any

import datasets
import evaluate

from modeling_lavis.evaluation import metrics


class VqaAccuracy(evaluate.Metric):
    """Accuracy of VQAv2 and OK-VQA."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in ("default", "types"):
            raise ValueError(f"The configuration is {self.config_name!r}; expected 'default' or 'types'.")
        features: dict[str, Any] = {
            "predictions": datasets.Value("string"),
            "references": datasets.Sequence(datasets.Value("string")),
        }
        if self.config_name == "types":
            features |= {"question_types": datasets.Value("string"), "answer_types": datasets.Value("string")}
        return evaluate.MetricInfo(
            description="Accuracy of VQAv2 and OK-VQA in percent; by type with the configuration types.",
            citation="",
            inputs_description=(
                "predictions: one answer per question; references: the annotators' answers to each question; in the"
                " configuration types also question_types and answer_types"
            ),
            features=datasets.Features(features),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]],
        question_types: list[str] | None = None,
        answer_types: list[str] | None = None,
    ) -> dict[str, Any]:
        found = metrics.vqa_accuracy(predictions, references, question_types, answer_types)
        result: dict[str, Any] = {"accuracy": found.accuracy}
        if found.by_question_type is not None:
            result |= {"by_question_type": found.by_question_type, "by_answer_type": found.by_answer_type}
        return result
