"""Momentum update of encoders, and the feature queue."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel
from transformers.utils import logging

from modeling_lavis.models.momentum import (
    enqueue,
    init_momentum_modules,
    queue_slots,
    update_momentum_modules,
)
from tests.models import albef_cases, lavis_blip_2_cases
from tests.models.contract import Case
from tests.models.lavis_blip_cases import PRETRAINING, RETRIEVAL

ALBEF_PRETRAINING = next(case for case in albef_cases.CASES if case.name == "AlbefForPreTraining")
ALBEF_CLASSIFICATION = next(case for case in albef_cases.CASES if case.name == "AlbefForImageAndTextClassification")
BLIP_2_PRETRAINING = next(case for case in lavis_blip_2_cases.CASES if case.name == "LavisBlip2ForPreTraining")


def pair() -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    return nn.Linear(3, 2), nn.Linear(3, 2)


def test_update_is_an_exponential_moving_average() -> None:
    online, momentum = pair()
    before = {name: value.clone() for name, value in momentum.state_dict().items()}
    frozen = {name: value.clone() for name, value in online.state_dict().items()}
    for step in range(1, 4):
        update_momentum_modules([(online, momentum)], 0.9)
        for name, value in momentum.state_dict().items():
            expected = 0.9**step * before[name] + (1 - 0.9**step) * frozen[name]
            torch.testing.assert_close(value, expected)
    assert all(torch.equal(value, frozen[name]) for name, value in online.state_dict().items())


def test_momentum_of_zero_and_one() -> None:
    online, momentum = pair()
    before = momentum.weight.clone()
    update_momentum_modules([(online, momentum)], 1.0)
    assert torch.equal(momentum.weight, before)
    update_momentum_modules([(online, momentum)], 0.0)
    assert torch.equal(momentum.weight, online.weight)


def test_shared_weight_is_updated_once() -> None:
    online, momentum = nn.ModuleList([nn.Linear(2, 2)]), nn.ModuleList([nn.Linear(2, 2)])
    before = momentum[0].weight.clone()
    update_momentum_modules([(online, momentum), (online[0], momentum[0])], 0.5)
    torch.testing.assert_close(momentum[0].weight, (before + online[0].weight) / 2)


def test_update_records_no_gradient() -> None:
    online, momentum = pair()
    momentum.requires_grad_(False)
    update_momentum_modules([(online, momentum)], 0.5)
    assert not momentum.weight.requires_grad and momentum.weight.grad_fn is None
    assert online.weight.requires_grad


def test_initialization_keeps_loaded_weights() -> None:
    online, momentum = pair()
    loaded = momentum.weight.clone()
    momentum.weight._is_hf_initialized = True
    init_momentum_modules([(online, momentum)])
    assert torch.equal(momentum.weight, loaded) and torch.equal(momentum.bias, online.bias)


@pytest.mark.parametrize(("size", "batch"), [(8, 4), (10, 4), (7, 7), (3, 4), (3, 9), (5, 1)])
def test_enqueue_wraps_around(size: int, batch: int) -> None:
    features, ids, pointer = torch.zeros(2, size), torch.full((1, size), -100), torch.zeros(1, dtype=torch.long)
    history: list[int] = []
    for step in range(7):
        new = torch.arange(step * batch, (step + 1) * batch)
        history += new.tolist()
        enqueue([(features, torch.stack([new, -new]).float()), (ids, new[None])], pointer)
        assert pointer.item() == len(history) % size
        expected = torch.full((size,), -100)
        for slot, value in enumerate(history):  # one entry at a time, so that the newest one stays
            expected[slot % size] = value
        assert torch.equal(ids[0], expected)
        seen = expected != -100
        assert torch.equal(features[0, seen], expected[seen].float())
        assert torch.equal(features[1, seen], -expected[seen].float())


def test_queue_slots_wrap_around() -> None:
    assert queue_slots(torch.tensor([3]), 4, 5).tolist() == [3, 4, 0, 1]


@pytest.mark.parametrize("case", [RETRIEVAL, PRETRAINING], ids=lambda case: case.name)
def test_queue_of_a_head_wraps_around(case) -> None:
    model = case.model(queue_size=4).train()
    for step in range(3):
        call = {**case.inputs(3), **case.training(3)}
        call["image_ids"] = torch.arange(3) + 10 * step
        assert bool(model(**call).loss.isfinite())
    assert model.queue_ptr.item() == 9 % 4
    if hasattr(model, "idx_queue"):
        assert model.idx_queue[0].tolist() == expected_queue([3, 3, 3], 4)


def expected_queue(batches: list[int], size: int) -> list[int]:
    queue, slot = [-100] * size, 0
    for step, batch in enumerate(batches):
        for row in range(batch):
            queue[slot % size] = 10 * step + row
            slot += 1
    return queue


@pytest.mark.parametrize("case", [RETRIEVAL, PRETRAINING], ids=lambda case: case.name)
def test_batch_larger_than_the_queue(case) -> None:
    model = case.model(queue_size=2).train()
    loss = model(**case.inputs(5), **case.training(5)).loss
    loss.backward()
    assert bool(loss.isfinite()) and model.queue_ptr.item() == 5 % 2
    torch.testing.assert_close(model.image_queue.norm(dim=0), torch.ones(2))


def test_temperature_is_clamped_in_training_only() -> None:
    model = RETRIEVAL.model()
    with torch.no_grad():
        model.temp.fill_(2.0)
    call = {**RETRIEVAL.inputs(3), **RETRIEVAL.training(3)}
    model(**call)
    assert model.temp.item() == 2.0
    model.train()(**call)
    assert model.temp.item() == 0.5


# ---- precision, adapters, evaluation ----


@pytest.mark.parametrize("how", ["loaded", "cast", "built"])
def test_half_precision_moves_exactly(how: str, tmp_path: Path) -> None:
    """A step of 0.005 of the difference is below the resolution of bfloat16."""
    case = RETRIEVAL
    model = case.model()
    model.save_pretrained(tmp_path)
    if how == "loaded":
        model = case.model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
    elif how == "cast":
        model = model.to(torch.bfloat16)
    else:
        model = AutoModel.from_config(model.config, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in model.vision_model.parameters():
            parameter.fill_(1.0)
        for parameter in model.vision_model_m.parameters():
            parameter.fill_(0.5)
    for _ in range(10):
        model.update_momentum()
    for parameter in model.vision_model_m.parameters():
        assert parameter.dtype == torch.float32
        torch.testing.assert_close(parameter, torch.full_like(parameter, 1 - 0.5 * 0.995**10))
    model.train()
    loss = model(**case.inputs(3), **case.training(3)).loss
    loss.backward()
    assert bool(loss.isfinite())


class TestAdapters:
    """LoRA on a head with momentum encoders, and modules that peft trains completely."""

    peft = pytest.importorskip("peft")

    @pytest.mark.parametrize(
        "targets",
        [["query", "value", "qkv"], "all-linear", r".*(vision|text).*\.(qkv|query)", [r"vision_proj_m", "vision_proj"]],
        ids=["names", "all", "expression", "momentum named"],
    )
    @pytest.mark.parametrize("case", [RETRIEVAL, ALBEF_PRETRAINING, ALBEF_CLASSIFICATION], ids=lambda case: case.name)
    def test_adapters_are_in_the_online_modules_only(self, case: Case, targets: Any) -> None:
        if isinstance(targets, list) and "vision_proj" in targets and case is ALBEF_CLASSIFICATION:
            pytest.skip("the head has no projections")
        base = case.model()
        names = {name for name, _ in base.named_parameters()}
        model = self.peft.get_peft_model(
            base, self.peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
        )
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert trained and not [name for name in trained if "_m." in name]
        momentum = {name for name in names if name.partition(".")[0].endswith("_m")}
        assert momentum <= {name for name, _ in base.named_parameters()}

        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for _ in range(2):
            before = {name: base.get_parameter(name).clone() for name in momentum}
            model.train()(**case.inputs(3), **case.training(3)).loss.backward()
            optimizer.step()
            merged = copy.deepcopy(model).merge_and_unload()
            for name in momentum:
                top, _, rest = name.partition(".")
                online = merged.get_parameter(f"{top.removesuffix('_m')}.{rest}")
                expected = 0.995 * before[name] + 0.005 * online
                torch.testing.assert_close(base.get_parameter(name), expected, msg=lambda m, n=name: f"{n}: {m}")

    def test_follows_the_merged_weights(self) -> None:
        model = RETRIEVAL.model()
        adapted = self.peft.get_peft_model(
            copy.deepcopy(model), self.peft.LoraConfig(r=2, target_modules=["qkv"], init_lora_weights=False)
        )
        head = adapted.get_base_model()
        head.update_momentum()
        merged = copy.deepcopy(adapted).merge_and_unload()
        for name, weight in head.vision_model_m.named_parameters():
            online = merged.vision_model.get_parameter(name)
            expected = 0.995 * model.vision_model_m.get_parameter(name) + 0.005 * online
            torch.testing.assert_close(weight, expected, msg=lambda m, n=name: f"{n}: {m}")

    def test_modules_to_save(self) -> None:
        head = RETRIEVAL.model()
        config = self.peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["vision_proj", "patch_embed"])
        model = self.peft.get_peft_model(head, config)
        assert type(head.vision_proj_m) is nn.Linear
        assert type(head.vision_model_m.patch_embed) is type(head.vision_model.patch_embed.original_module)
        with torch.no_grad():
            head.vision_proj.modules_to_save["default"].weight.add_(1.0)
        expected = 0.995 * head.vision_proj_m.weight + 0.005 * head.vision_proj.modules_to_save["default"].weight
        head.update_momentum()
        torch.testing.assert_close(head.vision_proj_m.weight, expected)
        assert model.active_adapter == "default"

    def test_adapters_that_are_no_change_of_the_weight_are_refused(self) -> None:
        head = RETRIEVAL.model()
        self.peft.get_peft_model(head, self.peft.LoraConfig(r=2, target_modules=["qkv"], use_dora=True))
        with pytest.raises(ValueError, match="qkv.*follow plain weights and LoRA.*use_momentum=False"):
            head.update_momentum()


def test_an_optimizer_of_copies_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """As in DeepSpeed: momentum encoders would stay where they are."""
    model = RETRIEVAL.model().train()
    logging.get_logger("modeling_lavis.models.momentum").warning_once.cache_clear()
    model(**RETRIEVAL.inputs(3), **RETRIEVAL.training(3)).loss.backward()
    logging.enable_propagation()
    try:
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1).step()
    finally:
        logging.disable_propagation()
    assert "finish_step" in caplog.text
    expected = 0.995 * model.vision_proj_m.weight + 0.005 * model.vision_proj.weight
    model.finish_step()
    torch.testing.assert_close(model.vision_proj_m.weight, expected)


@pytest.mark.slow
def test_copies_and_compiled_heads_are_tracked() -> None:
    model = copy.deepcopy(RETRIEVAL.model()).train()
    perturbed = model.vision_proj_m.weight.clone()
    compiled = torch.compile(model, backend="aot_eager")
    compiled(**RETRIEVAL.inputs(3), **RETRIEVAL.training(3)).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5).step()
    expected = 0.995 * perturbed + 0.005 * model.vision_proj.weight
    torch.testing.assert_close(model.vision_proj_m.weight, expected)


def test_parameters_keep_the_dtype_that_they_need_when_built_in_half_precision() -> None:
    for case in (RETRIEVAL, PRETRAINING, ALBEF_PRETRAINING, BLIP_2_PRETRAINING):
        config = case.config()
        config.architectures = [case.name]
        model = AutoModel.from_config(config, dtype=torch.float16)
        assert model.dtype == torch.float16
        for name, value in model.state_dict().items():
            top = name.partition(".")[0]
            if value.is_floating_point():
                is_kept = top in case.float32_modules or top.endswith("_m")
                assert value.dtype == (torch.float32 if is_kept else torch.float16), name
