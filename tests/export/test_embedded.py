"""The embedded model in every format: the same texts, scores, features and rankings as in torch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, pipeline

import modeling_lavis  # noqa: F401  (registers the tasks)
from modeling_lavis.cli.main import main
from modeling_lavis.embedded import embedded_images, embedded_model_path
from modeling_lavis.evaluation.work_folder import sampled_digest
from modeling_lavis.export import load_exported
from modeling_lavis.export.manifest import Manifest
from tests.export.folders import files_of, formats

IMAGES = [str(image.path) for image in embedded_images()]
TEXTS = [image.caption for image in embedded_images()]
TOLERANCE = 1e-4
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("format_name", formats())]


@pytest.fixture
def pipes(exported_folder: Callable[[str], Path], format_name: str) -> Callable[[str], tuple[Any, Any]]:
    """Function that returns the pipelines of a task for the embedded model and for the exported one."""
    folder = exported_folder(format_name)
    return lambda task: tuple(pipeline(task, model=str(model)) for model in (embedded_model_path(), folder))


def close(found: Any, expected: Any) -> bool:
    return torch.allclose(torch.as_tensor(found), torch.as_tensor(expected), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 1, "do_sample": True, "top_p": 0.9, "num_return_sequences": 2},
        {"num_beams": 2, "prompt": ["man", "person running", *[""] * 10]},
        {"num_beams": 3, "repetition_penalty": 1.3, "guidance_scale": 1.5, "max_new_tokens": 6},
    ],
    ids=["greedy", "beams", "sampling", "prompts", "guidance"],
)
def test_captions(pipes: Callable[[str], tuple[Any, Any]], options: dict[str, Any]) -> None:
    results = []
    for pipe in pipes("image-captioning"):
        torch.manual_seed(0)
        results.append(pipe(IMAGES, batch_size=5, **options))
    for expected, found in zip(*results, strict=True):
        assert [row["generated_text"] for row in found] == [row["generated_text"] for row in expected]
        assert close([row["score"] for row in found], [row["score"] for row in expected])


def test_matching(pipes: Callable[[str], tuple[Any, Any]]) -> None:
    expected, found = (pipe(IMAGES[:4], text=TEXTS, batch_size=3) for pipe in pipes("image-text-matching"))
    for key in ("score", "similarity"):
        assert close(*([[text[key] for text in row] for row in rows] for rows in (found, expected)))


def test_features(pipes: Callable[[str], tuple[Any, Any]]) -> None:
    names = ["image_features", "text_features", "image_embeds", "text_embeds", "multimodal_embeds"]
    for pool in (True, False):
        expected, found = (
            pipe(IMAGES[:3], text=TEXTS[:3], features=names, pool=pool, return_tensors="pt", batch_size=2)
            for pipe in pipes("multimodal-feature-extraction")
        )
        for name in names:
            assert all(close(row[name], other[name]) for row, other in zip(found, expected, strict=True))


def test_search(pipes: Callable[[str], tuple[Any, Any]]) -> None:
    results = [pipe(TEXTS[:5], images=IMAGES, top_k=5) for pipe in pipes("image-text-retrieval")]
    for expected, found in zip(*results, strict=True):
        assert [row["index"] for row in found] == [row["index"] for row in expected]
        assert close([row["score"] for row in found], [row["score"] for row in expected])


def test_command(exported_folder: Callable[[str], Path], format_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for model in (embedded_model_path(), exported_folder(format_name)):
        assert main(["caption", *IMAGES[:2], "--model", str(model), "--json", "--num-beams", "2"]) == 0
        outputs.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert [row["captions"] for row in outputs[1]] == [row["captions"] for row in outputs[0]]


def test_folder(exported_folder: Callable[[str], Path], format_name: str) -> None:
    folder = exported_folder(format_name)
    manifest, files = Manifest.read(folder), files_of(folder)
    assert manifest.format == format_name and manifest.head == "LavisBlipForPreTraining"
    assert {"config.json", "generation_config.json", "tokenizer.json", "processor_config.json"} <= files
    assert "model.safetensors" not in files
    assert max(manifest.verified["largest_difference"].values()) <= TOLERANCE
    assert {"generated", "generated_with_beams"} <= set(manifest.verified["equal"])
    step = next(graph for graph in manifest.graphs if graph.name == "step")
    assert step.inputs["past.0.key"]["shape"] == ["texts", 4, "past_tokens", 32]
    assert step.inputs["encoder.0.key"]["shape"] == ["images", 4, "image_tokens", 32]


def test_no_torch_weights(exported_folder: Callable[[str], Path], format_name: str) -> None:
    model = load_exported(exported_folder(format_name))
    assert [name for name, _ in model.named_parameters()] == ["temp"]
    # an index that was made with the model can be searched with the exported one
    assert sampled_digest(model) == sampled_digest(AutoModel.from_pretrained(embedded_model_path()))
