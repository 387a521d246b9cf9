"""Momentum update of encoders, and the feature queue."""

import pytest
import torch
from torch import nn

from modeling_lavis.models.momentum import (
    enqueue,
    init_momentum_modules,
    queue_slots,
    update_momentum_modules,
)
from tests.models.lavis_blip_cases import PRETRAINING, RETRIEVAL


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
