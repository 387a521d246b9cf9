"""`python -m benchmarks.zoo_conversion`: steps, failures and the table, without files of full size."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import zoo_conversion
from modeling_lavis import AlbefModel, LavisBlipForImageTextRetrieval
from modeling_lavis.hub import zoo

WRITTEN = {"input_bytes": 895e6}
CONVERTED = {
    "convert_seconds": 12.34,
    "convert_processor_seconds": 4.5,
    "convert_peak_bytes": 1.68e9,
    "convert_anonymous_bytes": 456e6,
    "repository_bytes": 895e6,
    "used": 471,
    "dropped": 1,
    "initialized": 0,
    "unexplained": [],
}
LOADED = {
    "load_seconds": 0.9,
    "load_processor_seconds": 0.3,
    "load_peak_bytes": 791e6,
    "parameters": 223_450_881,
    "auto_class": "AutoModel",
}


def run_step(step: str, name: str, work: Path, sparse: bool) -> dict[str, Any]:
    if step == "write":
        (work / "mirror").mkdir(parents=True)
        return WRITTEN
    if name == "blip_nlvr__nlvr":
        raise ValueError("does not fit")
    return CONVERTED if step == "convert" else LOADED


def test_measured_checkpoints_and_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zoo_conversion, "_run_step", run_step)
    numbers = tmp_path / "zoo.json"
    arguments = ["blip_feature_extractor/base", "--work", str(tmp_path / "work"), "--json", str(numbers)]
    assert zoo_conversion.main(arguments) == 0
    row = capsys.readouterr().out.splitlines()[2]
    expected = "| 472 | 0.90 | 471 | 1 | 0 | 12.3 | 4.5 | 1680 | 456 | 0.90 | 0.9 | 0.3 | 791 | 223.5 M | AutoModel |"
    assert row == f"| `blip_feature_extractor__base` {expected}"
    assert zoo_conversion.main(["blip_nlvr/nlvr", *arguments]) == 1  # the first one is not measured again
    table = capsys.readouterr().out
    assert "failed: convert: ValueError: does not fit" in table and table.count("`blip_feature_extractor__base`") == 1
    assert [row["name"] for row in json.loads(numbers.read_text())] == [
        "blip_feature_extractor__base",
        "blip_nlvr__nlvr",
    ]
    assert list((tmp_path / "work").iterdir()) == []


def test_large_language_models_are_sparse() -> None:
    sparse = {entry.name for entry in zoo.entries().values() if zoo_conversion.is_sparse(entry, 8.0)}
    assert sparse == {"blip2_opt__pretrain_opt6.7b", "blip2_opt__caption_coco_opt6.7b", "blip2_t5__pretrain_flant5xxl"}


def test_auto_class_is_that_of_the_task() -> None:
    found = zoo_conversion.auto_class_of(LavisBlipForImageTextRetrieval)
    assert found.__name__ == "AutoModelForImageTextRetrieval"
    assert zoo_conversion.auto_class_of(AlbefModel).__name__ == "AutoModel"
