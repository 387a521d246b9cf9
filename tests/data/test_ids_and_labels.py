# SPDX-License-Identifier: Apache-2.0
"""Ids and labels that look like numbers: which are equal, and which class an integer is."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from modeling_lavis.data.checks import row_problem
from modeling_lavis.data.collators import label_to_id, number_of_id
from modeling_lavis.data.columns import TASKS
from modeling_lavis.data.loading import load_data
from modeling_lavis.evaluation.results import result_id

FOLDERS = {"0": 0, "1": 1, "10": 2, "11": 3, "2": 4}  # in the order of texts


def test_ids_with_leading_zeros_are_other_ids() -> None:
    assert number_of_id("7") == number_of_id(7) == 7
    assert len({number_of_id(image_id) for image_id in ("7", "007", " 7")}) == 3
    assert [result_id({"id": value}, "id", 0) for value in ("7", "007", 7, "x")] == [7, "007", 7, "x"]


def test_ids_and_labels_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("image,caption,image_id\na.png,x,007\na.png,x,7\n")
    assert load_data(path, "captioning")["image_id"] == ["007", "7"]
    path.write_text("image,label\na.png,01\na.png,02\n")
    assert load_data(path, "classification")["label"] == ["01", "02"]
    path.write_text("image,label\na.png,1\na.png,0\n")
    assert load_data(path, "classification")["label"] == [1, 0]


def test_integers_that_are_names_of_classes() -> None:
    assert [label_to_id(label, FOLDERS) for label in (10, "10", 2, 0)] == [2, 2, 4, 0]
    assert label_to_id(3, FOLDERS) == 3, "there is no class of this name"
    row = {"image": "a.png", "label": 11}
    assert row_problem(row, TASKS["classification"], FOLDERS) is None
    assert row_problem({**row, "label": 12}, TASKS["classification"], FOLDERS) is not None


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_classes_whose_names_are_numbers(streaming: bool) -> None:
    features = Features({"image": Value("string"), "label": ClassLabel(names=list(FOLDERS))})
    data = Dataset.from_dict({"image": ["a", "b", "c"], "label": [2, 4, None]}, features=features)
    rows = load_data(data.to_iterable_dataset() if streaming else data, "classification")
    assert [row["label"] for row in rows] == ["10", "2", None]
    named = data.cast_column("label", ClassLabel(names=["a", "b", "c", "d", "e"]))
    assert load_data(named, "classification")[0]["label"] == 2
