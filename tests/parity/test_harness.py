"""The harness reports entries that are unequal, not compared or not registered, and wrong numbers of draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modeling_lavis.hub.key_maps import KeyMap, Rename

from .draws import recorded_multinomial, recorded_negatives
from .goldens import GoldenSet, call_numbers, golden_folders
from .ledger import Ledger
from .names import Names
from .registry import PLANNED, REPLAYS, replay_of


@pytest.fixture
def golden(tmp_path: Path) -> GoldenSet:
    folder = tmp_path / "some_set"
    folder.mkdir()
    tensors = {
        "loss": torch.tensor(2.0),
        "ids": torch.tensor([1, 2, 3]),
        "sampling.train.multinomial.000": torch.tensor([1]),
        "sampling.train.multinomial.001": torch.tensor([0]),
        "sampling_weights.train.multinomial.000": torch.tensor([0.0, 2.0]),
        "sampling_weights.train.multinomial.001": torch.tensor([3.0, 0.0]),
    }
    save_file(tensors, folder / "outputs.safetensors")
    strings = {"strings_and_notes": {"answer": ["red"]}, "load": {"missing_keys": [], "unexpected_keys": []}}
    (folder / "outputs.json").write_text(json.dumps(strings))
    schedule = {"epoch": 0, "iters": 3, "num_iters_per_epoch": 8}
    (folder / "inputs.json").write_text(json.dumps({"schedule": schedule}))
    (folder / "config.json").write_text(json.dumps({"arch": "some_model", "alpha": 0.4, "batch_size": 2}))
    return GoldenSet(folder)


class NegativeSampler(nn.Module):
    def draw_negatives(self, weights: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.multinomial(weights, 1, generator=generator)[:, 0]


def replay_all(golden: GoldenSet, ledger: Ledger) -> None:
    ledger.compare("loss", torch.tensor(2.0001))
    ledger.compare("ids", torch.tensor([1, 2, 3], dtype=torch.int32))
    ledger.compare_value("answer", ["red"])
    model = NegativeSampler()
    with recorded_negatives(model, ledger, "train"):
        assert model.draw_negatives(torch.tensor([[0.0, 0.5], [0.25, 0.0]])).tolist() == [1, 0]


def test_all_entries_compared(golden: GoldenSet) -> None:
    ledger = Ledger(golden, reasons={})
    replay_all(golden, ledger)
    ledger.close()
    assert ledger.summary() == {"compared": 5, "fed": 2}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor(2.0004), "differs by up to"),
        (torch.tensor(float("nan")), "differs by up to"),
        (torch.tensor([2.0]), "recorded shape"),
        (torch.tensor(2), "recorded torch.float32"),
        (None, "expected a tensor"),
    ],
)
def test_difference_fails(golden: GoldenSet, value: torch.Tensor | None, message: str) -> None:
    ledger = Ledger(golden, reasons={})
    replay_all(golden, ledger)
    ledger.compare("loss", value)
    with pytest.raises(AssertionError, match=message):
        ledger.close()


def test_undefined_loss_must_be_finite(golden: GoldenSet) -> None:
    golden.tensors["loss"] = torch.tensor(float("nan"))
    ledger = Ledger(golden, reasons={})
    replay_all(golden, ledger)
    ledger.close()
    assert ledger.summary()["undefined"] == 1
    ledger.compare("loss", torch.tensor(float("nan")))
    with pytest.raises(AssertionError, match="the original's is undefined, ours is nan"):
        ledger.close()


def test_ids_are_compared_exactly(golden: GoldenSet) -> None:
    ledger = Ledger(golden, reasons={})
    replay_all(golden, ledger)
    ledger.compare("ids", torch.tensor([1, 2, 4]))
    with pytest.raises(AssertionError, match="1 of 3 values differ"):
        ledger.close()


def test_entry_that_is_not_compared_fails(golden: GoldenSet) -> None:
    ledger = Ledger(golden, reasons={})
    with pytest.raises(AssertionError, match="answer: recorded, but neither compared nor excused"):
        ledger.close()


def test_outdated_reason_fails(golden: GoldenSet) -> None:
    reasons = {("some_.*", "answer"): "compared by eye"}
    ledger = Ledger(golden, reasons=reasons)
    assert ledger.reason("answer") == "compared by eye"
    assert ledger.reason("answers") is None
    replay_all(golden, ledger)
    with pytest.raises(AssertionError, match="take it out of REASONS"):
        ledger.close()


def test_comparing_an_unknown_entry_raises(golden: GoldenSet) -> None:
    with pytest.raises(KeyError, match="nothing is recorded"):
        Ledger(golden).compare("los", torch.tensor(2.0))


def test_draws_from_different_weights_fail(golden: GoldenSet) -> None:
    ledger, model = Ledger(golden, reasons={}), NegativeSampler()
    with recorded_negatives(model, ledger, "train"):
        model.draw_negatives(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    with pytest.raises(AssertionError, match="sampling_weights.train.multinomial.000: differs"):
        ledger.close()


def test_wrong_number_of_draws_fails(golden: GoldenSet) -> None:
    ledger = Ledger(golden, reasons={})
    with recorded_multinomial(ledger, "train"):
        assert torch.multinomial(torch.tensor([0.0, 1.0]), 1).tolist() == [1]
    with pytest.raises(AssertionError, match="1 of 2 recorded draws were used"):
        ledger.close()
    with (
        pytest.raises(AssertionError, match="More draws than the 2"),
        recorded_multinomial(Ledger(golden), "train"),
    ):
        for _ in range(3):
            torch.multinomial(torch.tensor([1.0, 1.0]), 1)


def test_call_numbers_with_a_gap_raise() -> None:
    with pytest.raises(ValueError, match="without a gap"):
        call_numbers(["a.000", "a.002"])


def test_alpha_ramp(golden: GoldenSet) -> None:
    assert golden.alpha(epochs=1) == pytest.approx(0.15)
    assert golden.alpha(epochs=2) == pytest.approx(0.075)


def test_unknown_architecture_raises() -> None:
    with pytest.raises(LookupError, match="No replay for the architecture 'blip3'"):
        replay_of("blip3")
    assert not set(REPLAYS) & set(PLANNED)


def test_unknown_folders_are_replayed(tmp_path: Path) -> None:
    for name in ("tokenizer", "transfer", "something_new"):
        (tmp_path / name).mkdir()
    assert [folder.name for folder in golden_folders(tmp_path)] == ["something_new"]


def test_names_in_both_directions() -> None:
    names = Names(KeyMap((Rename("visual_encoder.{rest}", "vision_model.{rest}"),)))
    for theirs, ours in {
        "visual_encoder.pos_embed": "vision_model.pos_embed",
        "vision_proj.weight": "vision_proj.weight",
    }.items():
        assert names.ours(theirs) == ours
        assert names.theirs(ours) == theirs
    assert names.module("visual_encoder") == "vision_model"
    assert names.module("itm_head") == "itm_head"
