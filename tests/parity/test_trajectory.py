"""Replays the recorded training runs of all golden sets in `LAVIS_GOLDENS` (default: tests/goldens) with the Trainer.

From the converted checkpoint, with the recorded batches and random draws, and with parameter groups and schedule of
`modeling_lavis.training`.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from modeling_lavis.training import SCHEDULES, DistillationRamp, parameter_groups

from .converted import Converted
from .draws import recorded_masks, recorded_negatives
from .goldens import TRAJECTORY, GoldenSet, Trajectory, golden_folders
from .ledger import Ledger
from .names import Names
from .training import losses
from .training_inputs import RAMP_EPOCHS, training_inputs

FOLDERS = [folder for folder in golden_folders() if (folder / TRAJECTORY).is_dir()]
OWN = Path(__file__).resolve().parents[1] / "goldens"
# One of each family; between them a queue, momentum distillation, masks, tied weights and frozen parts.
FAST = {"albef_pretrain", "alpro_retrieval", "blip_retrieval", "blip2"}

# Tolerances of the recordings: relative for losses and norms, absolute and relative for weights and queues.
LOSS, NORM, WEIGHT = 2e-4, 1e-5, (1e-4, 1e-3)

# The original moves its momentum encoders in every forward pass, and version 1.0.2 has an older loss of BLIP-2.
OPTIONS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(RAMP_EPOCHS, {"momentum_every_forward": True}),
    "blip2": {"objective": "1.0.2"},
}
# Settings of the original's schedules that have other names here.
SETTINGS = {"init_lr": "lr", "warmup_start_lr": "warmup_lr", "lr_decay_rate": "decay_rate"}


class Batches(Dataset[dict[str, Any]]):
    """The batches of an epoch; one row is a whole batch."""

    def __init__(self, batches: list[dict[str, Any]], steps: int) -> None:
        self.batches, self.steps = batches, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.batches[index % len(self.batches)]


class ReplayTrainer(Trainer):
    """A Trainer that replaces the random draws of each step by recorded ones, and compares the losses."""

    def __init__(self, *arguments: Any, ledger: Ledger, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.ledger = ledger

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **keywords: Any) -> Any:
        scope = f"step{self.state.global_step:02d}"
        with recorded_negatives(model, self.ledger, scope), recorded_masks(model, self.ledger, scope):
            loss, output = super().compute_loss(model, inputs, return_outputs=True)
        for name, value in losses(output).items():
            if self.ledger.records(f"{scope}.{name}"):
                self.ledger.compare(f"{scope}.{name}", value, absolute=0.0, relative=LOSS)
        return loss


class LearningRates(TrainerCallback):
    """The learning rate of every step, of all groups."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        self.seen.append(rate)


def without_dropout(model: nn.Module) -> nn.Module:
    """Set every rate of dropout and of stochastic depth to 0, in modules and configurations."""
    for module in model.modules():
        for owner in (module, getattr(module, "config", None)):
            for name, value in vars(owner or object).items():
                is_rate = "dropout" in name or "drop_path" in name or (name in ("p", "rate") and "Drop" in str(owner))
                if is_rate and isinstance(value, float) and not name.startswith("_"):
                    setattr(owner, name, 0.0)
    return model


def optimizers(model: nn.Module, settings: dict[str, Any]) -> tuple[Any, Any]:
    """The recorded optimizer and schedule."""
    groups = parameter_groups(model, settings["weight_decay"])
    optimizer = getattr(torch.optim, settings["optimizer"])(
        groups, lr=settings["init_lr"], betas=tuple(settings["betas"]), eps=settings["eps"]
    )
    create = SCHEDULES[settings["schedule"]]
    accepted = inspect.signature(create).parameters.keys() - {"optimizer"}
    options = {SETTINGS.get(name, name): value for name, value in settings.items()}
    schedule = create(optimizer, **{name: value for name, value in options.items() if name in accepted})
    return optimizer, schedule


def compare_end(model: nn.Module, ledger: Ledger, names: Names) -> None:
    """Compare the weights, norms, queues and pointer after the last step."""
    state = dict(model.state_dict())
    squares: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        top = names.theirs(name).partition(".")[0]
        squares[top] = (
            squares.get(top, torch.zeros((), dtype=torch.float64)) + parameter.detach().double().square().sum()
        )
    for entry in ledger.golden.below("end."):
        kind, _, name = entry.removeprefix("end.").partition(".")
        if kind == "weight_norm":
            ledger.check(f"{entry}: the model has no such module", name in squares)
            ledger.compare(entry, squares.get(name, torch.tensor(torch.nan)).sqrt(), absolute=0.0, relative=NORM)
        else:
            own = names.ours(name if kind == "weight" else entry.removeprefix("end."))
            ledger.check(f"{entry}: the model has no {own}", own in state)
            ledger.compare(entry, state.get(own), absolute=WEIGHT[0], relative=WEIGHT[1])


def replay_trajectory(folder: Path, scratch: Path) -> None:
    """Train as recorded; raises AssertionError that lists all differences and all entries that were not compared."""
    golden = GoldenSet(folder)
    trajectory = Trajectory(golden)
    conversion, ledger = Ledger(golden), Ledger(trajectory)
    run = Converted(golden, conversion, scratch)
    settings = trajectory.settings
    model = without_dropout(run.model(**OPTIONS.get(golden.architecture, {})))
    rates = LearningRates()
    callbacks: list[TrainerCallback] = [rates]
    if golden.architecture in RAMP_EPOCHS:
        callbacks.append(DistillationRamp(RAMP_EPOCHS[golden.architecture]))
    batches = [training_inputs(run, batch) for batch in trajectory.batches]
    ReplayTrainer(
        model,
        TrainingArguments(
            str(scratch / "run"),
            num_train_epochs=settings["epochs"],
            per_device_train_batch_size=1,
            train_sampling_strategy="sequential",
            max_grad_norm=0.0,
            remove_unused_columns=False,
            use_cpu=True,
            disable_tqdm=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
        ),
        lambda rows: rows[0],
        train_dataset=Batches(batches, settings["steps_per_epoch"]),
        optimizers=optimizers(model, settings),
        callbacks=callbacks,
        ledger=ledger,
    ).train()
    ledger.compare_value("lr", rates.seen)
    compare_end(model, ledger, run.names)
    assert conversion.failures == []
    ledger.close()


def test_trajectory_of_every_architecture_that_trains() -> None:
    recorded = {folder.name for folder in golden_folders(OWN) if (folder / TRAJECTORY).is_dir()}
    assert recorded == {folder.name for folder in golden_folders(OWN) if GoldenSet(folder).below("train.")}


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(folder, id=folder.name, marks=[] if folder.name in FAST else [pytest.mark.slow])
        for folder in FOLDERS
    ],
)
def test_trajectory(folder: Path, tmp_path: Path) -> None:
    replay_trajectory(folder, tmp_path)


def all_decay(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups without an exemption."""
    return [{"params": [p for p in model.parameters() if p.requires_grad], "weight_decay": weight_decay}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "difference"),
    [
        ("parameter_groups", all_decay, r"end\.weight_norm"),
        ("RAMP_EPOCHS", dict.fromkeys(RAMP_EPOCHS, 3), r"step01\.loss"),
        ("OPTIONS", {}, r"end\.image_queue"),
        ("without_dropout", lambda model: model, r"step00\.loss"),
    ],
    ids=["weight decay", "alpha", "momentum update", "dropout"],
)
def test_another_trajectory_is_noticed(
    name: str, value: Any, difference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], name, value)
    with pytest.raises(AssertionError, match=difference):
        replay_trajectory(OWN / "albef_retrieval", tmp_path)
