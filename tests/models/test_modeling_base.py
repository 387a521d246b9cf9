"""Labels: integer dtypes give equal losses, other dtypes and labels out of range raise."""

import pytest
import torch

from tests.models import albef_cases, alpro_cases, lavis_blip_cases
from tests.models.contract import Case
from tests.models.contract_forward import run

CASES = [
    case
    for family in (lavis_blip_cases, albef_cases, alpro_cases)
    for case in family.CASES
    if "labels" in case.training(2)
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_label_dtypes_and_ranges(case: Case) -> None:
    model = case.model()
    call = {**case.inputs(3), **case.training(3)}
    labels = call["labels"]
    expected = run(model, call).loss
    assert torch.equal(run(model, {**call, "labels": labels.int()}).loss, expected)
    with pytest.raises(ValueError, match=r"labels of torch\.float32"):
        run(model, {**call, "labels": labels.float()})
    for bad in (1000, -1):
        wrong = labels.clone()
        wrong.view(-1)[-1] = bad
        with pytest.raises(ValueError, match=f"label {bad}, but there are the classes or token ids 0 to"):
            run(model, {**call, "labels": wrong})
