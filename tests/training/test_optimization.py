"""Parameter groups and learning rate schedules of the published runs."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from modeling_lavis.hub.families import family_of
from modeling_lavis.training import (
    SCHEDULES,
    constant_lr,
    linear_warmup_cosine_lr,
    linear_warmup_step_lr,
    lora_target_modules,
    parameter_groups,
)
from modeling_lavis.training.optimization import _is_exempt_in_lavis
from tests.conversion.golden_sets import GOLDENS
from tests.models.albef_cases import RETRIEVAL
from tests.models.contract import Case
from tests.models.lavis_blip_2_cases import PRETRAINING as FIRST_STAGE
from tests.models.lavis_blip_cases import PRETRAINING
from tests.training.test_momentum_update import Rows, collate

KEYS = sorted(path for path in (GOLDENS / "full_size_keys").glob("*__*.json"))


def names_of(model: nn.Module, group: dict[str, Any]) -> set[str]:
    members = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in members}


# ---- parameter groups ----


@pytest.mark.parametrize("path", KEYS, ids=lambda path: path.stem)
def test_rule_gives_the_same_for_the_originals_names_and_ours(path: Path) -> None:
    key_map = family_of(path.stem.partition("__")[0]).key_map_of(path.stem.partition("__")[0])
    compared = 0
    for name, (shape, _) in json.loads(path.read_text(encoding="utf-8")).items():
        original_rule = len(shape) < 2 or any(part in name for part in ("bias", "ln", "bn"))
        value: Any = torch.empty(shape, device="meta")
        for own in key_map.forward(name):
            compared += 1
            assert _is_exempt_in_lavis(own, value) == original_rule, (name, own)
    assert compared > 100


@pytest.mark.parametrize("case", [RETRIEVAL, PRETRAINING, FIRST_STAGE], ids=lambda case: case.name)
@pytest.mark.parametrize("layer_decay", [None, 0.9])
def test_every_trainable_parameter_is_in_one_group(case: Case, layer_decay: float | None) -> None:
    options = {"freeze_vision": False} if layer_decay and case is FIRST_STAGE else {}
    model = case.model(**options)
    next(model.vision_model.parameters()).requires_grad_(False)
    groups = parameter_groups(model, 0.1, layer_decay)
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    for group in groups:
        decays = {"bias" not in name and model.get_parameter(name).ndim > 1 for name in names_of(model, group)}
        assert decays == {group["weight_decay"] == 0.1}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}


def test_rules_differ_in_names_that_contain_ln() -> None:
    model = nn.Module()
    model.film_ln = nn.Linear(2, 2)
    model.other = nn.Linear(2, 2)
    model.norm_bn_bias_table = nn.Embedding(3, 2)
    lavis, timm = (parameter_groups(model, rule=rule) for rule in ("lavis", "timm"))
    assert names_of(model, lavis[0]) == {"other.weight"}
    assert names_of(model, timm[0]) == {"other.weight", "film_ln.weight", "norm_bn_bias_table.weight"}


def test_embeddings_and_tokens_decay() -> None:
    model = FIRST_STAGE.model(freeze_vision=False)
    decayed = names_of(model, parameter_groups(model)[0])
    assert {"query_tokens", "vision_model.cls_token", "vision_model.pos_embed"} <= decayed
    assert "temp" not in decayed and "ln_vision.weight" not in decayed


def layer_of(name: str, blocks: int) -> int:
    """Depth of a parameter as the paper's code counts it: embeddings 0, block k is k + 1, all that follows last."""
    if ".blocks." in name:
        return int(name.split(".blocks.")[1].split(".")[0]) + 1
    if "vision_model.norm" in name:
        return blocks
    return 0 if "vision_model." in name else blocks + 1


@pytest.mark.parametrize("adapters", [False, True], ids=["plain", "lora"])
def test_layer_decay_scales_with_depth(adapters: bool) -> None:
    model: Any = RETRIEVAL.model()
    if adapters:
        model = get_peft_model(model, LoraConfig(target_modules=lora_target_modules(model)))
    groups = parameter_groups(model, layer_decay=0.5)
    seen = set()
    for group in groups:
        for name in names_of(model, group):
            expected = 0.5 ** (3 - layer_of(name, blocks=2))
            seen.add(expected)
            assert group["lr_scale"] == expected, name
    assert seen == ({0.25, 0.5, 1.0} if adapters else {0.125, 0.25, 0.5, 1.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"rule": "none"}, "expected one of 'lavis', 'timm'"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0"),
        ({"layer_decay": 0.9}, "no trainable parameters in one"),
    ],
)
def test_wrong_options_of_groups(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parameter_groups(FIRST_STAGE.model(), **options)


# ---- schedules ----


def optimizer_of(*scales: float) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr_scale": scale} for scale in scales or (1.0,)]
    return torch.optim.AdamW(groups, lr=7.0)


def rates(schedule: Any, steps: int, group: int = 0) -> list[float]:
    values = []
    for _ in range(steps):
        values.append(schedule.optimizer.param_groups[group]["lr"])
        assert schedule.get_last_lr()[group] == values[-1]
        schedule.optimizer.step()
        schedule.step()
    return values


def test_cosine_is_constant_within_an_epoch_and_ends_at_min_lr() -> None:
    schedule = linear_warmup_cosine_lr(
        optimizer_of(), lr=1.0, min_lr=0.1, epochs=4, steps_per_epoch=3, warmup_steps=2, warmup_lr=0.5
    )
    cosine = [0.9 * 0.5 * (1.0 + math.cos(math.pi * epoch / 4)) + 0.1 for epoch in range(5)]
    assert rates(schedule, 16) == [0.5, 0.75, 1.0, *[cosine[1]] * 3, *[cosine[2]] * 3, *[cosine[3]] * 3, *[0.1] * 4]


def test_step_schedule() -> None:
    schedule = linear_warmup_step_lr(
        optimizer_of(), lr=1.0, min_lr=0.3, epochs=4, steps_per_epoch=2, decay_rate=0.5, warmup_steps=8, warmup_lr=0.0
    )
    # The warm-up is cut off where the first epoch ends.
    assert rates(schedule, 8) == [0.0, 0.125, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3]


def test_constant_schedule_and_no_warm_up_without_a_first_rate() -> None:
    assert rates(constant_lr(optimizer_of(), lr=0.2, epochs=2, steps_per_epoch=2, warmup_steps=9), 5) == [0.2] * 5
    schedule = constant_lr(optimizer_of(), lr=0.2, epochs=2, steps_per_epoch=2, warmup_steps=2, warmup_lr=0.1)
    assert rates(schedule, 3) == [0.1, 0.1 + 0.1 / 2, 0.2]


def test_lr_scale_multiplies() -> None:
    schedule = constant_lr(optimizer_of(1.0, 0.25), lr=0.2, epochs=1, steps_per_epoch=2)
    assert rates(schedule, 2, group=1) == [0.05, 0.05]


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_state_resumes(name: str) -> None:
    options = {"lr": 1.0, "epochs": 3, "steps_per_epoch": 4, "warmup_steps": 3, "warmup_lr": 0.1}
    options |= {"decay_rate": 0.7} if name == "linear_warmup_step_lr" else {}
    create: Callable[..., Any] = SCHEDULES[name]
    whole = rates(create(optimizer_of(), **options), 12)
    first = create(optimizer_of(), **options)
    begun = rates(first, 5)
    resumed = create(optimizer_of(), **options)
    state = {"optimizer": first.optimizer.state_dict(), "schedule": first.state_dict()}
    # Plain numbers only, as the Trainer loads it.
    assert set(state["schedule"]) == {"last_epoch", "_step_count", "_last_lr"}
    resumed.optimizer.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["schedule"])
    assert begun + rates(resumed, 7) == whole


class Rates(TrainerCallback):
    """The learning rate of each group at every step of the optimizer."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.seen.append([group["lr"] for group in optimizer.param_groups])


def test_trainer_steps_once_per_accumulated_step_and_resumes(tmp_path: Path) -> None:
    options = {"lr": 1e-3, "min_lr": 1e-4, "epochs": 3, "steps_per_epoch": 2, "warmup_steps": 1, "warmup_lr": 1e-4}

    def trainer(callback: Rates) -> Trainer:
        model = RETRIEVAL.model()
        optimizer = torch.optim.AdamW(parameter_groups(model, layer_decay=0.5), lr=1.0)
        arguments = TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            num_train_epochs=3,
            train_sampling_strategy="sequential",
            save_steps=3,
            report_to=[],
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        optimizers: Any = (optimizer, linear_warmup_cosine_lr(optimizer, **options))
        return Trainer(
            model, arguments, collate, train_dataset=Rows(RETRIEVAL), optimizers=optimizers, callbacks=[callback]
        )

    whole, resumed = Rates(), Rates()
    trainer(whole).train()
    scales = [group["lr_scale"] for group in parameter_groups(RETRIEVAL.model(), layer_decay=0.5)]
    expected = rates(linear_warmup_cosine_lr(optimizer_of(), **options), 6)
    assert whole.seen == [[rate * scale for scale in scales] for rate in expected]
    trainer(resumed).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.seen == whole.seen[3:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr is -1.0"),
        ({"min_lr": 2.0}, "min_lr is 2.0, above lr"),
        ({"warmup_lr": math.nan}, "warmup_lr is nan"),
        ({"warmup_steps": 1.5}, "warmup_steps is 1.5"),
        ({"epochs": 0}, "epochs is 0"),
        ({"steps_per_epoch": 2.0}, "steps_per_epoch is 2.0"),
        ({"decay_rate": 1.5}, "decay_rate is 1.5"),
    ],
)
def test_wrong_options_of_schedules(options: dict[str, Any], message: str) -> None:
    plain = {"lr": 1.0, "epochs": 2, "steps_per_epoch": 2, "decay_rate": 0.9}
    with pytest.raises(ValueError, match=message):
        linear_warmup_step_lr(optimizer_of(), **{**plain, **options})
