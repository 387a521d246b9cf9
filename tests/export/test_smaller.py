"""Exported weights in float16 and int8: size, what changes, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import pipeline

import modeling_lavis  # noqa: F401  (registers the tasks)
from modeling_lavis.embedded import embedded_images, embedded_model_path
from modeling_lavis.evaluation.work_folder import sampled_digest
from modeling_lavis.export import export_model, load_exported
from modeling_lavis.export import exporting as exporting_module
from modeling_lavis.export.manifest import Manifest
from modeling_lavis.export.verification import BOUNDS
from modeling_lavis.export.weight_precision import with_smaller_onnx_weights
from tests.export.folders import needs

IMAGES = [str(image.path) for image in embedded_images()]
# fractions of the float32 weights; embeddings, which are a sixteenth of this model, stay in float16
SIZES = {"float16": 0.55, "int8": 0.4}
formats = pytest.mark.parametrize(
    "format_name", [pytest.param(name, marks=needs(name)) for name in ("onnx", "openvino")]
)
precisions = pytest.mark.parametrize("weights", ["float16", "int8"])


def bytes_of_weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".data", ".bin", ".onnx"))


def test_combinations_that_do_not_exist(tmp_path: Path) -> None:
    for format_name, weights in (("torch", "int8"), ("torch", "float16"), ("onnx", "int4")):
        with pytest.raises(ValueError, match=f"weights is '{weights}', which the format '{format_name}' does not have"):
            export_model(embedded_model_path(), tmp_path / "exported", format_name, weights=weights)
    assert list(tmp_path.iterdir()) == []


def test_what_is_stored_in_float16(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    arrays = {"large": np.ones(2000), "small": np.ones(10), "out_of_range": np.full(2000, 1e6)}
    tensors = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    nodes = [onnx.helper.make_node("Sum", ["large", "out_of_range"], ["sum"])]
    output = onnx.helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, [2000])
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "graph", [], [output], tensors))
    model = with_smaller_onnx_weights(model, "float16", tmp_path)
    assert [tensor.name for tensor in model.graph.initializer] == ["large.float16", "small", "out_of_range"]
    assert [node.op_type for node in model.graph.node] == ["Cast", "Sum"]
    (found,) = ReferenceEvaluator(model).run(None, {})
    assert found.dtype == np.float32 and (found == 1e6 + 1).all()


@pytest.mark.slow
@formats
@precisions
def test_size_and_report(exported_folder: Callable[..., Path], format_name: str, weights: str) -> None:
    folder = exported_folder(format_name, weights)
    manifest, full = Manifest.read(folder), exported_folder(format_name)
    assert manifest.weights == weights and Manifest.read(full).weights == "float32"
    assert bytes_of_weights(folder) < SIZES[weights] * bytes_of_weights(full)
    changes = manifest.verified["relative_difference"]
    assert manifest.verified["bound"] == BOUNDS[weights] and max(changes.values()) < BOUNDS[weights]
    assert weights == "float16" or max(changes.values()) > 1e-3  # the model's weights have few digits
    ids = {"generated", "generated_with_beams"}
    assert ids <= {*manifest.verified["equal"], *manifest.verified["different"]}
    # what was stored by digest is that of other weights, but an index can be searched with it
    found, expected = load_exported(folder), load_exported(full)
    assert sampled_digest(found) != sampled_digest(expected)
    assert sampled_digest(found, any_precision=True) == sampled_digest(expected, any_precision=True)


@pytest.mark.slow
@formats
@precisions
def test_quality(exported_folder: Callable[..., Path], format_name: str, weights: str) -> None:
    captions, features = [], []
    for folder in (embedded_model_path(), exported_folder(format_name, weights)):
        captioner = pipeline("image-captioning", model=str(folder))
        captions.append([row[0]["generated_text"] for row in captioner(IMAGES, num_beams=3)])
        extract: Any = pipeline("multimodal-feature-extraction", model=str(folder))
        rows = extract(IMAGES, features=["image_embeds"], return_tensors="pt")
        features.append(torch.stack([row["image_embeds"].flatten() for row in rows]))
    equal = sum(found == expected for found, expected in zip(*captions, strict=True))
    assert equal >= len(IMAGES) - (1 if weights == "float16" else 3)
    cosines = torch.nn.functional.cosine_similarity(*features)
    assert cosines.min() > (0.999 if weights == "float16" else 0.99)


@pytest.mark.slow
@needs("onnx")
def test_errors_are_no_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(folder: Any) -> Any:
        model = load_exported(folder)
        model.vision_proj = torch.nn.Sequential(model.vision_proj, torch.nn.Tanh(), torch.nn.Threshold(0, 0))
        return model

    monkeypatch.setattr(exporting_module, "load_exported", changed)
    with pytest.raises(ValueError, match=r"of the exported model differs by \d+%.* int8 weights"):
        export_model(embedded_model_path(), tmp_path / "exported", "onnx", weights="int8")
    assert list(tmp_path.iterdir()) == []
