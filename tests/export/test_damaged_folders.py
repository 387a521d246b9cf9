"""Folders that were changed, copied in part, or edited by hand: an error that says what to do, when they are loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_lavis.export import export_model, load_exported
from modeling_lavis.export.formats import FORMATS
from modeling_lavis.export.manifest import GraphFile
from modeling_lavis.export.session_modules import LazyGraph
from tests.export.folders import formats
from tests.pipelines.tiny_models import SIZE, save_model


@pytest.fixture
def folder(tmp_path: Path, goldens: Path, untraced: None) -> Path:
    """An exported head for retrieval, whose temperature is a parameter of its own."""
    source = save_model(tmp_path / "model", "ForImageTextRetrieval", goldens / "tokenizer")
    return export_model(source, tmp_path / "exported", "torch")


def edit_manifest(folder: Path, change: Callable[[Any], object]) -> None:
    path = folder / "export.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_incomplete_copies(folder: Path, tmp_path: Path) -> None:
    sizes = json.loads((folder / "export.json").read_text())["sizes"]
    assert {"vision_model.pt2", "parameters.safetensors"} <= set(sizes)
    assert not any(name.endswith(".json") for name in sizes)
    for name in ("vision_model.pt2", "parameters.safetensors", "config.json"):
        copy = shutil.copytree(folder, tmp_path / "copy")
        (copy / name).unlink()
        with pytest.raises(OSError, match=f"lacks {name}.*xport the model again"):
            load_exported(copy)
        if name in sizes:
            (copy / name).write_bytes(b"half")
            with pytest.raises(OSError, match=rf"{name} has 4 bytes, but export.json says \d+. Copy the folder again"):
                load_exported(copy)
        shutil.rmtree(copy)
    edit_manifest(folder, lambda content: content.update(in_torch={"language_model": "language_model"}))
    with pytest.raises(OSError, match="lacks language_model, which export.json names"):
        load_exported(folder)


EDITS: list[tuple[Callable[[Any], object], str]] = [
    (lambda content: content.update(head=5), "head is 5, expected str"),
    (lambda content: content.update(format=["onnx"]), "format is .'onnx'., expected str"),
    (lambda content: content.update(in_torch=["language_model"]), "in_torch is .*, expected dict"),
    (lambda content: content["graphs"][0].update(module=None), "module is None, expected str"),
    (lambda content: content["graphs"][0].update(inputs=["pixel_values"]), "inputs is .*, expected dict"),
    (lambda content: content["graphs"][0]["inputs"]["pixel_values"].update(dtype="uint8"), "is 'uint8', expected"),
    (lambda content: content["graphs"][0].update(module="encoder"), "module 'encoder', which .*Retrieval does not"),
    (lambda content: content.update(head="AlbefModel"), "from AlbefModel, but its config.json is a LavisBlipConfig"),
    (lambda content: content.update(head="Path"), "exported from Path, which this version .* lacks"),
]


def test_edited_manifests(folder: Path) -> None:
    content = (folder / "export.json").read_text()
    for change, message in EDITS:
        (folder / "export.json").write_text(content)
        edit_manifest(folder, change)
        with pytest.raises(ValueError, match=message):
            load_exported(folder)


@pytest.mark.parametrize("format_name", formats())
def test_damaged_graphs(tmp_path: Path, format_name: str) -> None:
    facts = {"pixel_values": {"dtype": "float32", "shape": ["images", 3, SIZE, SIZE]}}
    file = GraphFile(f"graph{FORMATS[format_name].suffix}", "vision_model", "", facts, ["last_hidden_state"])
    for content in (b"", b"\x93damaged" * 100):
        (tmp_path / file.file).write_bytes(content)
        with pytest.raises(OSError, match=f"{file.file} cannot be opened: .* Copy the folder again, or export"):
            LazyGraph(tmp_path, file, format_name).run({"pixel_values": torch.rand(1, 3, SIZE, SIZE)})


@pytest.mark.parametrize("layers", [1, 3])
def test_another_number_of_layers(tmp_path: Path, goldens: Path, untraced: None, layers: int) -> None:
    source = save_model(tmp_path / "model", "ForConditionalGeneration", goldens / "tokenizer")
    folder = export_model(source, tmp_path / "exported", "torch")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = layers
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"step.* has 2 layers, but config.json of .* says {layers}. Copy the folder"):
        load_exported(folder)
