"""What `verify` computes is what the original's own calls gave: its recorded outputs of single images and texts.

The recordings have normalized pixels, which take the place of what the image processor makes.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.image_processing_base import BatchFeature

from modeling_lavis.hub.outputs import ExpectedOutput, compute_output, load
from tests.conversion.golden_sets import GOLDENS

pytestmark = pytest.mark.slow


class Recorded:
    """A converted model and the recording of its original."""

    def __init__(self, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = GOLDENS / repository.name
        self.model, self.processor = load(str(repository), dtype=torch.float32)
        self.texts = json.loads((folder / "inputs.json").read_text())
        self.pixels = load_file(folder / "inputs.safetensors")["image"]
        self.tensors = load_file(folder / "outputs.safetensors")
        self.strings = json.loads((folder / "outputs.json").read_text())["strings_and_notes"]
        self.monkeypatch = monkeypatch

    def compute(self, row: int, **wanted: Any) -> dict[str, Any]:
        """An output for the pixels of a row."""

        def recorded_pixels(processor: Any, images: Any, **options: Any) -> BatchFeature:
            return BatchFeature({"pixel_values": self.pixels[row : row + 1]})

        self.monkeypatch.setattr(type(self.processor.image_processor), "__call__", recorded_pixels)
        output = ExpectedOutput(expected={"-": 0.0}, **wanted)
        return compute_output(self.model, self.processor, Image.new("RGB", (8, 8)), output)


@pytest.fixture
def recorded(converted: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Recorded]:
    return lambda architecture: Recorded(converted(architecture), monkeypatch)


def close(found: float, expected: torch.Tensor) -> bool:
    return abs(found - expected.item()) <= 1e-5 + 1e-4 * abs(expected.item())


def test_match(recorded: Callable[[str], Recorded]) -> None:
    original = recorded("blip_image_text_matching")
    for row, text in enumerate(original.texts["text_input"]):
        found = original.compute(row, kind="match", text=text)
        assert close(found["probability"], original.tensors["forward.itm"].softmax(-1)[row, 1])
        assert close(found["cosine"], original.tensors["forward.itc"][row, row])


@pytest.mark.parametrize("architecture", ["albef_feature_extractor", "blip_feature_extractor"])
def test_features(architecture: str, recorded: Callable[[str], Recorded]) -> None:
    original = recorded(architecture)
    row = max(range(4), key=lambda index: len(original.texts["text_input"][index]))  # has no padding
    text = original.texts["text_input"][row]
    found = original.compute(row, kind="features", text=text)
    for ours, theirs in {
        "image_embeds": "image.image_embeds",
        "image_features": "image.image_embeds_proj",
        "text_embeds": "text.text_embeds",
        "text_features": "text.text_embeds_proj",
        "multimodal_embeds": "multimodal.multimodal_embeds",
    }.items():
        assert close(found[ours], original.tensors[f"extract_features.{theirs}"][row].mean()), ours
    image, texts = (
        original.tensors[f"extract_features.{name}"][:, 0]
        for name in ("image.image_embeds_proj", "text.text_embeds_proj")
    )
    assert close(original.compute(row, kind="similarity", text=text)["cosine"], image[row] @ texts[row])
    shares = original.compute(row, kind="zero_shot", choices=tuple(original.texts["text_input"]))
    temperature = original.model.temp.detach()
    for share, expected in zip(shares.values(), ((texts @ image[row]) / temperature).softmax(0), strict=True):
        assert abs(share - expected.item()) < 1e-4


def test_similarity_of_query_tokens(recorded: Callable[[str], Recorded]) -> None:
    original = recorded("blip2_feature_extractor")
    images = original.tensors["extract_features.image.image_embeds_proj"]
    texts = original.tensors["extract_features.text.text_embeds_proj"][:, 0]
    for row, text in enumerate(original.texts["text_input"]):
        found = original.compute(row, kind="similarity", text=text)
        assert close(found["cosine"], (images[row] @ texts[row]).max())


@pytest.mark.parametrize("architecture", ["blip_caption", "blip2_opt", "blip2_t5"])
def test_captions(architecture: str, recorded: Callable[[str], Recorded]) -> None:
    """With the options that conversion stores, which are the original's defaults."""
    original = recorded(architecture)
    captions = original.strings["generate.default"]
    assert len(captions) >= 3
    for row, caption in enumerate(captions):
        assert original.compute(row, kind="caption") == {"caption": caption.strip()}


@pytest.mark.parametrize("architecture", ["albef_vqa", "blip_vqa"])
def test_ranked_answers(architecture: str, recorded: Callable[[str], Recorded]) -> None:
    original = recorded(architecture)
    choices = tuple(original.texts["answer_list"])
    ranked = original.strings["predict_answers.rank10"]
    for row, (question, answer) in enumerate(zip(original.texts["text_input"], ranked, strict=True)):
        assert original.compute(row, kind="answer", text=question, choices=choices)["answer"] == answer


def test_generated_answers(recorded: Callable[[str], Recorded]) -> None:
    original = recorded("blip_vqa")
    questions = original.texts["text_input"]
    row = max(range(len(questions)), key=lambda index: len(questions[index]))  # the original attends to padding
    expected = original.strings["predict_answers.generate.default"][row]
    assert original.compute(row, kind="answer", text=questions[row]) == {"answer": expected}
