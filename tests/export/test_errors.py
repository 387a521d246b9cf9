"""What cannot be exported or run says so, and leaves nothing behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel

from modeling_lavis import AutoModelForImageTextRetrieval
from modeling_lavis.embedded import embedded_model_path
from modeling_lavis.export import export_model, load_exported
from modeling_lavis.export import exporting as exporting_module
from modeling_lavis.export.graphs import graphs_of
from modeling_lavis.export.manifest import Manifest, is_exported
from modeling_lavis.export.weight_files import WEIGHTS_FILE, SharedWeights
from modeling_lavis.pipelines.loading import CheckpointHead
from tests.pipelines.tiny_models import save_model


def test_folders_without_an_export(tmp_path: Path) -> None:
    assert not is_exported(tmp_path)
    with pytest.raises(OSError, match="has no export.json"):
        load_exported(tmp_path)
    (tmp_path / "export.json").write_text("[]")
    with pytest.raises(ValueError, match="cannot be read"):
        Manifest.read(tmp_path)
    graph = {"file": "gone.onnx", "module": "vision_model", "name": "", "inputs": {}, "outputs": []}
    content = {"format": "onnx", "head": "LavisBlipModel", "image_size": 32, "graphs": [graph]}
    (tmp_path / "export.json").write_text(json.dumps(content))
    with pytest.raises(OSError, match="lacks gone.onnx"):
        Manifest.read(tmp_path)
    content["graphs"] = [{**graph, "file": "../gone.onnx"}]
    (tmp_path / "export.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="../gone.onnx, which is not in the folder"):
        Manifest.read(tmp_path)
    (tmp_path / "export.json").write_text(json.dumps({**content, "graphs": [], "format": "tflite"}))
    with pytest.raises(ValueError, match="'tflite'; expected one of torch, onnx, openvino"):
        load_exported(tmp_path)


def test_options() -> None:
    with pytest.raises(ValueError, match="expected one of torch, onnx, openvino"):
        export_model(embedded_model_path(), "nowhere", "tflite")
    with pytest.raises(ValueError, match="expected 'fixed' or 'dynamic'"):
        export_model(embedded_model_path(), "nowhere", "torch", image_size="224")


def test_models_that_cannot_be_exported(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(embedded_model_path())
    with pytest.raises(ValueError, match="weights in torch.bfloat16; load it with dtype=torch.float32"):
        export_model(model.bfloat16(), tmp_path / "half", "torch")
    with pytest.raises(ValueError, match="Linear cannot be exported"):
        export_model(nn.Linear(2, 2), tmp_path / "linear", "torch")
    model = model.float()
    model.adapter = nn.Conv1d(2, 2, 1)
    with pytest.raises(ValueError, match="LavisBlipForPreTraining has the module 'adapter'"):
        list(graphs_of(model))
    assert list(tmp_path.iterdir()) == []


def test_weights_are_stored_once(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import numpy_helper

    values, other = torch.rand(512).numpy(), torch.rand(700).numpy()
    weights = SharedWeights(tmp_path)
    for name, arrays in (("a", [values, other]), ("b", [values])):
        tensors = [numpy_helper.from_array(array, f"w{number}") for number, array in enumerate(arrays)]
        model = onnx.helper.make_model(onnx.helper.make_graph([], name, [], [], tensors))
        weights.move(model)
        onnx.save(model, tmp_path / f"{name}.onnx")
    assert (tmp_path / WEIGHTS_FILE).stat().st_size == 4096 + other.nbytes
    for name, arrays in (("a", [values, other]), ("b", [values])):
        loaded = onnx.load(tmp_path / f"{name}.onnx").graph.initializer
        assert all((numpy_helper.to_array(found) == array).all() for found, array in zip(loaded, arrays, strict=True))


@pytest.mark.slow
def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goldens: Path) -> None:
    source = save_model(tmp_path / "model", "Model", goldens / "tokenizer")
    original = load_exported

    def changed(folder: Any) -> Any:
        model = original(folder)
        model.vision_proj = nn.Sequential(model.vision_proj, nn.Tanh())
        return model

    monkeypatch.setattr(exporting_module, "load_exported", changed)
    with pytest.raises(ValueError, match="image_features of the exported model differs by up to"):
        export_model(source, tmp_path / "out" / "exported", "torch")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
def test_what_an_exported_head_refuses(tmp_path: Path, goldens: Path) -> None:
    source = save_model(tmp_path / "model", "ForImageTextRetrieval", goldens / "tokenizer")
    model = AutoModelForImageTextRetrieval.from_pretrained(source)
    folder = export_model(model.train(), tmp_path / "exported", "torch")
    assert model.training
    exported = load_exported(folder)
    images, texts = torch.rand(2, 3, 32, 32), torch.tensor([[2, 9, 3], [2, 8, 3]])
    with pytest.raises(ValueError, match="cannot be trained"):
        exported.train()
    with pytest.raises(ValueError, match="no weights to save"):
        exported.save_pretrained(tmp_path / "again")
    with pytest.raises(ValueError, match="has no output_hidden_states"):
        exported(pixel_values=images, input_ids=texts, output_hidden_states=True)
    with pytest.raises(ValueError, match="exported in float32; leave dtype out"):
        CheckpointHead.from_pretrained(folder, dtype=torch.bfloat16)
    with pytest.raises(FileExistsError, match="not empty"):
        export_model(source, folder, "torch")


@pytest.mark.usefixtures("untraced")
def test_full_disk_of_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goldens: Path) -> None:
    def save_file(*arguments: Any) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    source = save_model(tmp_path / "model", "ForImageTextRetrieval", goldens / "tokenizer")
    monkeypatch.setattr(exporting_module, "save_file", save_file)
    with pytest.raises(OSError, match="No space left on device.* Free disk space and try again"):
        export_model(source, tmp_path / "exported", "torch")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from modeling_lavis.export.formats import FORMATS
from modeling_lavis.export.graphs import Graph, Input
from modeling_lavis.export.weight_files import SharedWeights

class Layer(torch.nn.Linear):
    def forward(self, *inputs):
        return (super().forward(inputs[0]),)

graph = Graph("layer", "", Layer(100, 100), {"states": Input(torch.rand(6, 100), {0: "rows"})}, ("output",))
folder, states = Path(sys.argv[1]), {"states": torch.rand(4, 100)}
write, run = FORMATS["torch"].write, FORMATS["torch"].open
write(graph, folder / "whole.pt2", SharedWeights(folder))
found = run(folder / "whole.pt2", ("states",), ("output",)).run(states)["output"]
torch.testing.assert_close(found, graph.module(states["states"])[0])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write(graph, folder / "half.pt2", SharedWeights(folder))
except OSError as error:
    print(error)
"""


@pytest.mark.slow
def test_full_disk(tmp_path: Path) -> None:
    """torch's writer of archives ends the process when it cannot write."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "half.pt2 cannot be written" in done.stdout and "Free disk space" in done.stdout
