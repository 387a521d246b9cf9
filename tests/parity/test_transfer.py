"""Conversion from pre-training to a task: every weight has the origin that it has in the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modeling_lavis.hub.convert import convert
from modeling_lavis.hub.families import family_of

from .converted import ACCEPTED_REASONS, HEADS, auto_class, compare_load
from .goldens import TOKENIZER, TRANSFER, excess, goldens_root, read_json
from .ledger import TOLERANCE
from .names import Names
from .registry import PLANNED

FOLDER = goldens_root() / TRANSFER
RECORDED = read_json(FOLDER / "transfer.json")["targets"] if FOLDER.is_dir() else {}
RESIZED = "resized from "


class Failures:
    """Collects failures like a `Ledger`."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    def check(self, what: str, condition: bool) -> None:
        if not condition:
            self.failures.append(what)


@pytest.mark.parametrize("target", RECORDED)
def test_transfer(target: str, tmp_path: Path) -> None:
    if target in PLANNED:
        pytest.skip(f"{target}: {PLANNED[target]}")
    recorded = RECORDED[target]
    checkpoint = FOLDER / recorded["source"]
    report = convert(
        target, checkpoint, tmp_path / "converted", config=settings(recorded), tokenizer=goldens_root() / TOKENIZER
    )
    class_name, auto_name = HEADS[target]
    model = auto_class(auto_name).from_pretrained(tmp_path / "converted")
    assert type(model).__name__ == class_name

    sources = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    resized = load_file(FOLDER / "resized.safetensors")
    state, names, collected = model.state_dict(), Names.of(target), Failures()
    if "missing_keys" in recorded:  # for one target, the original raises after it has loaded the weights
        compare_load(collected, report, recorded, set(sources))
    for key, origin in recorded["origin"].items():
        own = state.get(names.ours(key))
        if key.endswith("position_ids") or key in family_of(target).reset:
            # Constants are not saved, and the queue pointer is reset.
            collected.check(f"{key} is {own}", own is None or not own.any())
        elif own is None:
            dropped = report.dropped.get(origin or "", "nothing")
            collected.check(
                f"{key}: the model has no {names.ours(key)}, {dropped}", dropped.startswith(ACCEPTED_REASONS)
            )
        elif origin is None:
            first_name = getattr(model, "all_tied_weights_keys", {}).get(names.ours(key), names.ours(key))
            collected.check(
                f"{key}: initialized in the original, not reported as initialized here",
                first_name in report.initialised,
            )
        elif origin.startswith(RESIZED):
            value = resized[f"{target}.{key}"]
            same = own.shape == value.shape and excess(own, value, TOLERANCE) <= TOLERANCE
            collected.check(f"{key}: differs from the resized {origin.removeprefix(RESIZED)}", same)
        else:
            collected.check(f"{key}: differs from {origin}", torch.equal(own, sources[origin]))
    assert not collected.failures, "\n".join(collected.failures)


def settings(recorded: dict[str, Any]) -> dict[str, Any]:
    """The recorded configuration, updated by the arguments of the original's call."""
    return {**recorded["config"], **recorded["arguments"]}


def test_every_target_is_known() -> None:
    assert set(RECORDED) <= set(HEADS) | set(PLANNED)
