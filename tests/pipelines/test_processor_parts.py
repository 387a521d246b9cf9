"""The processor of a pipeline: of the model's repository, given, or built from its parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from transformers import AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer, pipeline

from modeling_lavis import AlproProcessor, LavisImageProcessor, LavisVideoProcessor
from tests.pipelines.conftest import HEADS
from tests.pipelines.golden_repositories import golden_repository  # noqa: F401  (a fixture)
from tests.pipelines.tiny_models import SIZE
from tests.pipelines.tiny_video_models import save_video_model

Repository = Callable[..., str]
CALLS: dict[str, dict[str, Any]] = {
    "image-captioning": {"max_new_tokens": 3},
    "image-question-answering": {"question": "what is it?", "max_new_tokens": 3},
    "image-text-matching": {"text": "a dog"},
    "image-text-retrieval": {"texts": ["a dog", "the man"]},
    "image-text-classification": {"text": "a dog"},
    "multimodal-feature-extraction": {"text": "a dog"},
}


def without_repository(folder: str) -> Any:
    """A model object that does not know where its weights came from."""
    model = AutoModel.from_pretrained(folder)
    model.config._name_or_path = model.name_or_path = ""
    return model


def parts(folder: str) -> dict[str, Any]:
    return {
        "tokenizer": AutoTokenizer.from_pretrained(folder),
        "image_processor": AutoImageProcessor.from_pretrained(folder),
    }


@pytest.mark.parametrize("task", CALLS)
def test_a_model_object_and_parts(repository: Repository, files: list[str], task: str) -> None:
    folder = repository(HEADS[task])
    expected = str(pipeline(task, model=folder, device="cpu")(files[0], **CALLS[task]))
    model = without_repository(folder)
    given = parts(folder)
    former = {"tokenizer": given["tokenizer"], "feature_extractor": given["image_processor"]}
    names = {"tokenizer": folder, "image_processor": folder}
    for options in (given, former, names, {"processor": AutoProcessor.from_pretrained(folder)}, {"processor": folder}):
        run = pipeline(task, model=model, device="cpu", **options)
        assert type(run.processor).__name__ == "LavisBlipProcessor"
        assert str(run(files[0], **CALLS[task])) == expected, options
    run = pipeline(task, model=AutoModel.from_pretrained(folder), device="cpu")  # the repository is known
    assert str(run(files[0], **CALLS[task])) == expected


def test_image_pairs(repository: Repository, files: list[str]) -> None:
    folder = repository(HEADS["image-pair-classification"])
    run = pipeline("image-pair-classification", model=without_repository(folder), device="cpu", **parts(folder))
    assert run(files[:2], text="a dog")


@pytest.mark.parametrize("architecture", ["blip2_opt", "blip2_t5", "blip2", "albef_vqa"])
def test_other_families(golden_repository: Any, files: list[str], architecture: str) -> None:  # noqa: F811
    folder = golden_repository(architecture)
    task = "image-question-answering" if architecture == "albef_vqa" else "image-captioning"
    options = {"question": "what is it?"} if architecture == "albef_vqa" else {"prompt": "a dog"}
    expected = pipeline(task, model=folder, device="cpu")(files[0], max_new_tokens=3, **options)
    run = pipeline(task, model=without_repository(folder), device="cpu", **parts(folder))
    stored = AutoProcessor.from_pretrained(folder)
    assert type(run.processor) is type(stored)
    assert getattr(run.processor, "language_model", None) == getattr(stored, "language_model", None)
    assert run(files[0], max_new_tokens=3, **options) == expected


def test_videos(tmp_path: Path, goldens: Path) -> None:
    folder = save_video_model(tmp_path, "ForVideoTextRetrieval", goldens / "tokenizer")
    stored = AutoProcessor.from_pretrained(folder)
    video = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    options = {"tokenizer": stored.tokenizer, "video_processor": stored.video_processor}
    run = pipeline("video-text-matching", model=without_repository(str(folder)), device="cpu", **options)
    assert isinstance(run.processor, AlproProcessor)
    expected = pipeline("video-text-matching", model=str(folder), device="cpu")(video, text="a dog")
    assert run(video, text="a dog") == expected
    images = {"tokenizer": stored.tokenizer, "image_processor": LavisImageProcessor(size=32)}
    with pytest.raises(ValueError, match="takes no image_processor; expected video_processor and tokenizer"):
        pipeline("video-text-matching", model=without_repository(str(folder)), device="cpu", **images)
    with pytest.raises(ValueError, match="needs video_processor, too; pass video_processor="):
        pipeline("video-text-matching", model=without_repository(str(folder)), device="cpu", tokenizer=stored.tokenizer)


def test_parts_replace_those_of_the_repository(repository: Repository, files: list[str]) -> None:
    folder = repository("ForConditionalGeneration", prompt="the man")
    bigger = LavisImageProcessor(size=SIZE, image_mean=(0.1, 0.2, 0.3))
    for model in (folder, AutoModel.from_pretrained(folder)):
        run = pipeline("image-captioning", model=model, image_processor=bigger, device="cpu")
        assert run.processor.image_processor is bigger and run.processor.prompt == "the man"
        assert run.tokenizer is run.processor.tokenizer and run.image_processor is bigger
        assert run(files[0], max_new_tokens=2)


def test_processor_of_transformers(repository: Repository, files: list[str]) -> None:
    """Its parts are used if the model has no repository with a processor of its own."""
    folder = repository("ForConditionalGeneration")
    images = transformers.BlipImageProcessor(size={"height": SIZE, "width": SIZE})
    foreign = transformers.BlipProcessor(images, AutoTokenizer.from_pretrained(folder))
    run = pipeline("image-captioning", model=without_repository(folder), processor=foreign, device="cpu")
    assert type(run.processor).__name__ == "LavisBlipProcessor"
    expected = pipeline("image-captioning", model=folder, device="cpu")(files[0], max_new_tokens=3)
    assert run(files[0], max_new_tokens=3) == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "needs a processor of this package; pass processor=.*image_processor= and tokenizer="),
        ({"image_processor": LavisImageProcessor(size=SIZE)}, ValueError, "needs tokenizer, too; pass tokenizer="),
        ({"processor": 3}, TypeError, "processor is a int; expected a processor of this package"),
        ({"tokenizer": 3, "image_processor": 4}, TypeError, "tokenizer is a int; expected what AutoTokenizer"),
        ({"video_processor": LavisVideoProcessor()}, ValueError, "takes no video_processor; expected image_processor"),
    ],
)
def test_errors(repository: Repository, options: dict[str, Any], error: Any, message: str) -> None:
    model = without_repository(repository("ForConditionalGeneration"))
    with pytest.raises(error, match=message):
        pipeline("image-captioning", model=model, device="cpu", **options)


def test_missing_names_are_reported(repository: Repository, tmp_path: Path) -> None:
    """An explicit processor is never replaced by another one."""
    for name in ("processor", "tokenizer"):
        with pytest.raises((OSError, ValueError), match=tmp_path.name):
            folder = repository("ForConditionalGeneration")
            pipeline("image-captioning", model=folder, device="cpu", **{name: str(tmp_path)})


def test_a_tokenizer_of_another_model(repository: Repository, goldens: Path) -> None:
    folder = repository("ForConditionalGeneration")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"token{number}" for number in range(9)])
    with pytest.raises(ValueError, match=r"The tokenizer has 6\d\d tokens, but the vocabulary of Lavis.* has 602"):
        pipeline(
            "image-captioning",
            model=without_repository(folder),
            tokenizer=tokenizer,
            image_processor=folder,
            device="cpu",
        )


def test_errors_name_the_model_inside_adapters(repository: Repository, files: list[str]) -> None:
    peft = pytest.importorskip("peft", reason="adapters need the extra [train]")
    folder = repository("ForConditionalGeneration")
    adapted = peft.get_peft_model(AutoModel.from_pretrained(folder), peft.LoraConfig(target_modules=["query"]))
    run = pipeline("image-captioning", model=adapted, device="cpu", **parts(folder))
    assert run(files[0], max_new_tokens=2)
    with pytest.raises(ValueError, match="cannot use LavisBlipForConditionalGeneration"):
        pipeline("image-text-matching", model=adapted, device="cpu", **parts(folder))
    answering = AutoModel.from_pretrained(repository("ForQuestionAnswering"))
    adapted = peft.get_peft_model(answering, peft.LoraConfig(target_modules=["query"]))
    run = pipeline("image-question-answering", model=adapted, device="cpu", **parts(folder))
    assert run(files[0], question="what?", answers=["dog", "man"])
