"""The callback that updates momentum encoders for optimizers that hold copies of the parameters."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.utils import logging

from modeling_lavis.training import MomentumUpdate
from tests.models.albef_cases import RETRIEVAL
from tests.models.alpro_cases import RETRIEVAL as VIDEO_RETRIEVAL
from tests.models.contract import Case
from tests.training.test_distillation import WRAPPERS, process_group

__all__ = ["process_group"]  # a fixture


class OptimizerOfCopies(torch.optim.Optimizer):
    """SGD on float32 copies, which it writes back after each step, as DeepSpeed does."""

    def __init__(self, parameters: list[nn.Parameter], lr: float) -> None:
        self.originals = parameters
        super().__init__([nn.Parameter(value.detach().clone()) for value in parameters], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for original, value in zip(self.originals, self.param_groups[0]["params"], strict=True):
            if original.grad is not None:
                value -= self.param_groups[0]["lr"] * original.grad
            original.copy_(value)
            original.grad = None


class Rows(torch.utils.data.Dataset):
    """Eight pairs, the same in every batch of two."""

    def __init__(self, case: Case) -> None:
        self.columns = {**case.inputs(2), "image_ids": torch.arange(2)}

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: column[index % 2] for name, column in self.columns.items()}


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    return {**{name: torch.stack([row[name] for row in rows]) for name in rows[0]}, "return_loss": True}


def train(case: Case, folder: Path, of_copies: bool, callback: bool, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = case.model()
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        remove_unused_columns=False,
        max_grad_norm=0.0,
        num_train_epochs=1,
        lr_scheduler_type="constant",
        **options,
    )
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimizer = OptimizerOfCopies(parameters, 0.05) if of_copies else torch.optim.SGD(parameters, 0.05)
    Trainer(
        model,
        arguments,
        collate,
        train_dataset=Rows(case),
        optimizers=(optimizer, None),
        callbacks=[MomentumUpdate()] if callback else [],
    ).train()
    return model


@pytest.mark.parametrize("accumulated", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_optimizers_of_copies_give_the_same_weights(
    tmp_path: Path, accumulated: int, caplog: pytest.LogCaptureFixture
) -> None:
    logging.get_logger("modeling_lavis.models.momentum").warning_once.cache_clear()
    options = {"gradient_accumulation_steps": accumulated}
    expected = train(RETRIEVAL, tmp_path, of_copies=False, callback=False, **options).state_dict()
    logging.enable_propagation()
    try:
        found = train(RETRIEVAL, tmp_path, of_copies=True, callback=True, **options).state_dict()
        assert "finish_step" not in caplog.text, "the callback is there, so there is nothing to warn about"
        without = train(RETRIEVAL, tmp_path, of_copies=True, callback=False, **options).state_dict()
        assert "MomentumUpdate" in caplog.text
    finally:
        logging.disable_propagation()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=lambda m, n=name: f"{n}: {m}")
    assert not torch.allclose(without["vision_proj_m.weight"], expected["vision_proj_m.weight"], atol=1e-7, rtol=0)


def test_an_ordinary_optimizer_updates_once_per_step(tmp_path: Path) -> None:
    expected = train(RETRIEVAL, tmp_path, of_copies=False, callback=False).state_dict()
    found = train(RETRIEVAL, tmp_path, of_copies=False, callback=True).state_dict()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_head_is_found_inside_wrappers(wrapper: str, process_group: None) -> None:
    head = RETRIEVAL.model().train()
    wrap: Callable[[nn.Module], nn.Module] = WRAPPERS[wrapper]
    model, callback = wrap(head), MomentumUpdate()
    call: Any = (None, None, None)
    callback.on_train_begin(*call, model=model)
    before = copy.deepcopy(head.vision_proj_m.weight)
    callback.on_optimizer_step(*call, model=model)
    assert torch.equal(head.vision_proj_m.weight, before), "nothing ran, so nothing is due"
    head(**RETRIEVAL.inputs(3), **RETRIEVAL.training(3))
    with torch.no_grad():
        head.vision_proj.weight.add_(1.0)
        head.temp.fill_(7.0)
    callback.on_optimizer_step(*call, model=model)
    torch.testing.assert_close(head.vision_proj_m.weight, 0.995 * before + 0.005 * head.vision_proj.weight)
    assert head.temp.item() == 0.5
    before = copy.deepcopy(head.vision_proj_m.weight)
    callback.on_optimizer_step(*call, model=model)
    assert torch.equal(head.vision_proj_m.weight, before), "one update per step"


def test_the_temperature_of_heads_without_momentum_encoders() -> None:
    head = VIDEO_RETRIEVAL.model().train()
    head(**VIDEO_RETRIEVAL.inputs(3), **VIDEO_RETRIEVAL.training(3))
    with torch.no_grad():
        head.temp.fill_(7.0)
    call: Any = (None, None, None)
    MomentumUpdate().on_optimizer_step(*call, model=head)
    assert head.temp.item() == 0.5


def test_other_models_are_refused() -> None:
    call: Any = (None, None, None)
    with pytest.raises(ValueError, match="Linear without a head of modeling_lavis; remove the callback"):
        MomentumUpdate().on_train_begin(*call, model=nn.Linear(2, 2))
