"""Pipelines of transformers on models of this package, and pipelines of this package on checkpoints of transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import pipeline

from modeling_lavis.models.vision_vit import LavisViTModel
from modeling_lavis.pipelines.loading import load
from tests.pipelines.tiny_models import SIZE

Repository = Callable[..., str]


def test_image_text_to_text(repository: Repository, files: list[str]) -> None:
    run = pipeline("image-text-to-text", model=repository("ForConditionalGeneration"), device="cpu")
    ours = pipeline("image-captioning", model=repository("ForConditionalGeneration"), device="cpu")
    transformers_repository = run(images=files, text=["a dog", "a", "", "the man in"], max_new_tokens=4)
    captions = ours(
        files, prompt=["a dog", "a", "", "the man in"], max_new_tokens=4, num_beams=1, return_full_text=True
    )
    assert [
        row[0]["generated_text"] if isinstance(row, list) else row["generated_text"] for row in transformers_repository
    ] == [row[0]["generated_text"] for row in captions]
    single = run(files[0], text="a dog", max_new_tokens=4)
    assert single[0]["generated_text"] == captions[0][0]["generated_text"]


@pytest.mark.parametrize("head", ["ForImageTextRetrieval", "ForPreTraining"])
def test_zero_shot_image_classification(repository: Repository, files: list[str], head: str) -> None:
    run = pipeline("zero-shot-image-classification", model=repository(head), device="cpu")
    labels = ["dog", "red house", "man"]
    results = run(files, candidate_labels=labels, hypothesis_template="a {}")
    batched = run(files, candidate_labels=labels, hypothesis_template="a {}", batch_size=2)
    matcher = pipeline("image-text-matching", model=repository(head), device="cpu")
    matches = matcher(files, text=[f"a {label}" for label in labels])
    assert len(results) == len(files)
    for row, again, match in zip(results, batched, matches, strict=True):
        cosine = torch.tensor([entry["similarity"] for entry in match])
        expected = dict(zip(labels, (cosine / matcher.model.temp.detach()).softmax(0).tolist()))
        assert {entry["label"]: entry["score"] for entry in row} == pytest.approx(expected, abs=1e-3)
        assert [entry["label"] for entry in again] == [entry["label"] for entry in row]


def test_image_feature_extraction(repository: Repository, files: list[str], tmp_path: Path) -> None:
    run = pipeline("image-feature-extraction", model=repository("Model"), device="cpu")
    ours = pipeline("multimodal-feature-extraction", model=repository("Model"), device="cpu")
    expected = ours(files[0], features="image_embeds", pool=False, return_tensors="pt")["image_embeds"]
    torch.testing.assert_close(run(files[0], return_tensors=True)[0], expected)
    assert len(run(files, batch_size=2)) == len(files)
    folder = tmp_path / "vision"
    ours.model.vision_model.save_pretrained(folder)
    ours.processor.image_processor.save_pretrained(folder)
    vision = pipeline("image-feature-extraction", model=str(folder), device="cpu")
    assert isinstance(vision.model, LavisViTModel)
    torch.testing.assert_close(vision(files[0], return_tensors=True)[0], expected)


@pytest.mark.parametrize("head", ["ForImageTextRetrieval", "ForPreTraining"])
def test_image_feature_extraction_with_retrieval_heads(repository: Repository, files: list[str], head: str) -> None:
    run = pipeline("image-feature-extraction", model=repository(head), device="cpu")
    pixels = run.image_processor(images=files[:2], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = run.model.encode_images(pixels)
    for found, row in zip(run(files[:2], batch_size=2, return_tensors=True), expected):
        torch.testing.assert_close(found[0], row)


@pytest.fixture(scope="module")
def transformers_repository(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> Callable[[str], str]:
    """Function that saves a random BLIP model of transformers with its processor, and returns the folder."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
    tokens = {"vocab_size": 602, "bos_token_id": 600, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = transformers.BlipConfig(
        vision_config={**sizes, "intermediate_size": 128, "image_size": SIZE, "patch_size": 16},
        text_config={
            **sizes,
            **tokens,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
            "encoder_hidden_size": 32,
        },
        image_text_hidden_size=16,
    )

    def make(head: str) -> str:
        folder = tmp_path_factory.mktemp("transformers_repository")
        torch.manual_seed(0)
        getattr(transformers, head)(config).save_pretrained(folder)
        images = transformers.BlipImageProcessor(size={"height": SIZE, "width": SIZE})
        tokenizer = transformers.AutoTokenizer.from_pretrained(goldens / "tokenizer")
        transformers.BlipProcessor(images, tokenizer).save_pretrained(folder)
        return str(folder)

    return make


@pytest.mark.parametrize(
    ("head", "task", "options"),
    [
        ("BlipForConditionalGeneration", "image-captioning", {"max_new_tokens": 4}),
        ("BlipForQuestionAnswering", "image-question-answering", {"question": "what?", "answers": ["dog", "man"]}),
        ("BlipForImageTextRetrieval", "image-text-matching", {"text": ["a dog", "a man"]}),
    ],
)
def test_checkpoints_of_transformers(
    transformers_repository: Callable[[str], str], files: list[str], head: str, task: str, options: dict[str, Any]
) -> None:
    folder = transformers_repository(head)
    run = pipeline(task, model=folder, device="cpu")
    assert type(run.model).__name__ == f"Lavis{head}"
    assert type(run.processor).__name__ == "LavisBlipProcessor"
    result = run(files, batch_size=2, **options)
    assert len(result) == len(files)
    assert str(load(task, folder, device="cpu")(files, batch_size=2, **options)) == str(result)


def test_unsupported_checkpoint_of_transformers(transformers_repository: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match="transformers' BlipModel, which no class of this package can load"):
        load("multimodal-feature-extraction", transformers_repository("BlipModel"))


def test_model_object_of_transformers(transformers_repository: Callable[[str], str]) -> None:
    folder = transformers_repository("BlipForConditionalGeneration")
    model = transformers.BlipForConditionalGeneration.from_pretrained(folder)
    with pytest.raises(ValueError, match="BlipForConditionalGeneration of transformers; it needs a model of"):
        pipeline("image-captioning", model=model, processor=transformers.AutoProcessor.from_pretrained(folder))
