"""`python -m benchmarks.smaller_weights`: tables, kept results, and a tiny model from the command to the tables."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import smaller_weights
from modeling_lavis import export
from modeling_lavis.embedded import embedded_images
from tests.pipelines.tiny_models import save_model

SPEED = {"size_mb": 8.44, "peak_mb": 512.3, "first_s": 0.4567}
SPEED |= {"encode_s": 0.0123, "cpu_encode_s": 0.0246, "greedy_s": 1.0, "cpu_greedy_s": 1.5}
SPEED |= {"beams_s": 2.0, "cpu_beams_s": 3.25}
QUALITY = {"text_recall": 56.54, "image_recall": 59.42, "exact": 35.6}


def test_speed_table() -> None:
    table = smaller_weights.speed_table({"onnx-int8": SPEED}).splitlines()
    assert table[2] == "| onnx int8 | 8.4 | 512 | 0.457 | 0.0123 (0.0246) | 1 (1.5) | 2 (3.25) |"
    assert {line.count("|") for line in table} == {8}


def test_quality_table_compares_with_the_first_row() -> None:
    captions = {"torch-float32": ["a", "b", "c"], "onnx-int8": ["a", "x", "c"]}
    rows = {name: {**QUALITY, "captions": texts} for name, texts in captions.items()}
    table = smaller_weights.quality_table(rows).splitlines()
    assert table[2:] == [
        "| torch float32 | 56.5 % | 59.4 % | 35.6 % | 3 of 3 |",
        "| onnx int8 | 56.5 % | 59.4 % | 35.6 % | 2 of 3 |",
    ]


def test_size_is_that_of_graphs_and_weights(tmp_path: Path) -> None:
    for name in ("model.onnx", "weights.data", "model.xml", "model.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(bytes(10))
    (tmp_path / "tokenizer.json").write_bytes(bytes(1000))
    assert smaller_weights.bytes_of(tmp_path, "float32") == 50
    assert smaller_weights.bytes_of(tmp_path, "bfloat16") == 25


def test_results_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert smaller_weights.kept(path, dict, {"seconds": 1.5}) == {"seconds": 1.5}
    assert smaller_weights.kept(path, dict, {"seconds": 2.5}) == {"seconds": 1.5}
    with pytest.raises(ValueError):  # of the other process
        smaller_weights.kept(tmp_path / "b.json", dict, "no pairs")
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_model_that_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.workloads import caption

    def full_disk(size: Any) -> Any:
        raise OSError("No space left on device")

    monkeypatch.setattr(caption, "our_model", full_disk)
    with pytest.raises(OSError, match="No space"):
        smaller_weights.base_captioner(tmp_path)
    assert list(tmp_path.iterdir()) == []  # else the next call would take a folder without weights for the model


@pytest.fixture
def tiny(tmp_path: Path, goldens: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images with captions of a val part; the embedded model is a tiny one, and is measured in this process."""
    source = save_model(tmp_path / "tiny", "ForPreTraining", goldens / "tokenizer")

    def kept(path: Path, make: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        path.write_text(json.dumps(make(*arguments)))
        return json.loads(path.read_text())

    monkeypatch.setattr(smaller_weights, "kept", kept)
    monkeypatch.setitem(smaller_weights.MODELS, "embedded", lambda folder: source)
    data = tmp_path / "data"
    data.mkdir()
    rows = []
    for image in embedded_images()[:3]:
        shutil.copy(image.path, data)
        rows.append({"image": image.path.name, "caption": image.caption})
    (data / "val.json").write_text(json.dumps(rows))
    return data


def test_variants_are_exported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def export_model(model: Path, output: Path, format: str, weights: str) -> Path:
        calls.append((model, format, weights))
        output.mkdir()
        return output

    monkeypatch.setattr(export, "export_model", export_model)
    monkeypatch.setitem(smaller_weights.MODELS, "embedded", lambda folder: folder / "source")
    for variant in ("torch-bfloat16", "openvino-int8", "openvino-int8"):
        folder = smaller_weights.exported("embedded", variant, tmp_path)
        assert folder.name == ("source" if variant.startswith("torch") else "embedded-openvino-int8")
    assert calls == [(tmp_path / "source", "openvino", "int8")]


@pytest.mark.slow
def test_tiny_model(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variants = ["torch-float32", "torch-bfloat16"]
    work, threads = tmp_path / "work", torch.get_num_threads()
    options = ["--models", "embedded", "--threads", "1", "--repeats", "1", "--variants", *variants]
    try:
        assert smaller_weights.main(["--data", str(tiny), "--work", str(work), *options]) == 0
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    names = [name.replace("-", " ") for name in variants]
    assert [line.split(" | ")[0] for line in lines if line.startswith("| torch")] == [
        f"| {name}" for name in names + names
    ]
    speeds = {name: json.loads((work / f"embedded-{name}.speed.json").read_text()) for name in variants}
    assert speeds["torch-bfloat16"]["size_mb"] == pytest.approx(speeds["torch-float32"]["size_mb"] / 2, rel=0.01)
    assert all(value > 0 for row in speeds.values() for value in row.values())
    qualities = [json.loads((work / f"embedded-{name}.quality.json").read_text()) for name in variants]
    assert all(len(row["captions"]) == 3 and 0 <= row["text_recall"] <= 100 for row in qualities)


def test_data_is_checked_before_models_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        smaller_weights.main(["--data", str(tmp_path / "nowhere"), "--work", str(tmp_path / "work")])
    assert f"There is no folder {tmp_path / 'nowhere'}" in capsys.readouterr().err
    assert not os.listdir(tmp_path)
