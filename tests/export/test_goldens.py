"""Replays the recordings of the original on exported heads: tensors within the tolerance, ids and rankings exactly."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_lavis.export import export_model, load_exported
from modeling_lavis.export.formats import FORMATS
from tests.export.folders import needs
from tests.parity import (
    replays_alpro,
    replays_blip2,
    replays_blip_classification,
    replays_blip_generation,
    replays_blip_matching,
)
from tests.parity.converted import Converted
from tests.parity.goldens import GoldenSet, golden_folders
from tests.parity.ledger import Ledger
from tests.parity.registry import replay_of

# What the replays do besides inference: training, and looking into modules.
NOT_EXPORTED = {
    replays_alpro: ("replay_training", "_all_tokens"),
    replays_blip2: ("replay_training",),
    replays_blip_classification: ("replay_training",),
    replays_blip_generation: ("replay_training",),
    replays_blip_matching: ("replay_training", "_matching_gradients", "_gradcam"),
}


# Of these, only losses are recorded.
TRAINING_ONLY = ("albef_pretrain", "blip_pretrain")
FOLDERS = [folder for folder in golden_folders() if folder.name not in TRAINING_ONLY]
# One head for each kind of module and of call: in all formats, others in ONNX only, since all formats share the graphs.
IN_ALL_FORMATS = ("albef_nlvr", "albef_vqa", "alpro_retrieval", "blip2", "blip2_t5", "blip_vqa")
CASES = [
    pytest.param(name, folder, marks=needs(name), id=f"{folder.name}-{name}")
    for folder in FOLDERS
    for name in (FORMATS if folder.name in IN_ALL_FORMATS else ["onnx"])
]


@pytest.fixture
def inference_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, names in NOT_EXPORTED.items():
        for name in names:
            monkeypatch.setattr(module, name, lambda *args, **kwargs: None)
    monkeypatch.setattr(Ledger, "close", assert_equal)


def assert_equal(ledger: Ledger) -> None:
    """Nothing that was compared differs; recordings of training are left."""
    assert ledger.failures == []


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Let replays run the exported head in place of the converted one."""
    load = Converted.model

    def model(self: Converted, **settings: Any) -> torch.nn.Module:
        folder = self.folder.with_name(f"{self.folder.name}-{request.param}")
        if not folder.exists():
            export_model(load(self), folder, request.param, processor=self.processor)
        return load_exported(folder)

    monkeypatch.setattr(Converted, "model", model)
    yield


@pytest.mark.slow
@pytest.mark.usefixtures("inference_only", "exported")
@pytest.mark.parametrize(("exported", "folder"), CASES, indirect=["exported"])
def test_golden(folder: Path, tmp_path: Path) -> None:
    golden = GoldenSet(folder)
    ledger = Ledger(golden)
    replay_of(golden.architecture)(golden, ledger, tmp_path)
    ledger.close()
    assert list(ledger.done.values()).count("compared") >= 3
