"""LavisTrainer and transformers' Trainer train every head; where nothing is drawn, with the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from modeling_lavis.training import LavisTrainer
from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import Case, changed_names, clone_state_dict
from tests.training.trainer_cases import arguments, differing, state_of

pytest.importorskip("accelerate", reason="the Trainer needs the extra [train]")

CASES = {
    case.name: case
    for module in (albef_cases, alpro_cases, lavis_blip_cases, lavis_blip_2_cases)
    for case in module.CASES
    if case.training(2)
}
QUICK = {"LavisBlipForQuestionAnswering"}


def train(kind: type, case: Case, folder: Path, **options: Any) -> Any:
    torch.manual_seed(0)  # weights of answers
    batches = [{**case.inputs(rows), **case.training(rows)} for rows in (3, 4, 3)]
    trainer = kind(
        case.model(),
        arguments(folder, per_device_train_batch_size=1, num_train_epochs=1, remove_unused_columns=False),
        lambda rows: rows[0],
        train_dataset=batches,
        **options,
    )
    before = clone_state_dict(trainer.model)
    trainer.train()
    assert changed_names(trainer.model, before)
    return trainer


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in CASES])
def test_every_head(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    ours = train(LavisTrainer, case, tmp_path, ramp_epochs=None, curves=False)
    plain = train(Trainer, case, tmp_path)
    logged = [entry for entry in ours.state.log_history if "loss" in entry]
    assert len(logged) == 3
    with torch.no_grad():
        outputs = case.model()(**case.inputs(3), **case.training(3))
    parts = {key for key, value in outputs.items() if key.startswith("loss_") and value is not None}
    assert all(parts <= entry.keys() for entry in logged)
    if not parts & {"loss_itm", "loss_vtm"}:  # hard negatives are drawn
        assert [entry["loss"] for entry in logged] == [e["loss"] for e in plain.state.log_history if "loss" in e]
        assert differing(state_of(ours.model), state_of(plain.model)) == []
