"""An ordinary call of a pipeline makes neither transformers nor Python warn."""

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from transformers import AutoModel, GenerationConfig, pipeline
from transformers.utils import logging as transformers_logging

from tests.pipelines.conftest import HEADS
from tests.pipelines.golden_repositories import golden_repository  # noqa: F401  (a fixture)
from tests.pipelines.tiny_video_models import save_video_model

#: options of generate, each for a call of its own
GENERATION: dict[str, dict[str, Any]] = {
    "defaults": {},
    "max_new_tokens": {"max_new_tokens": 4},
    "max_length": {"max_length": 9},
    "short": {"max_length": 5},
    "greedy": {"num_beams": 1},
    "sampling": {"do_sample": True, "num_beams": 1, "top_p": 0.9, "temperature": 0.7},
    "min_length": {"min_length": 2},
    "min_new_tokens": {"min_new_tokens": 2},
    "both ends": {"min_new_tokens": 2, "max_new_tokens": 4},
    "penalty": {"repetition_penalty": 1.2, "length_penalty": 0.5},
    "sequences": {"num_return_sequences": 2, "num_beams": 3},
    "generate_kwargs": {"generate_kwargs": {"max_new_tokens": 3}},
    "generation_config": {"generation_config": GenerationConfig(max_new_tokens=3, num_beams=2)},
    "generation_config and options": {"generation_config": GenerationConfig(max_length=9), "num_beams": 2},
}
#: processing_lavis.LavisProcessorMixin._decode asks a BPE tokenizer to clean up spaces
KNOWN = "Ignoring clean_up_tokenization_spaces=True for BPE tokenizer"
#: what the package tokenizers tells transformers, in whose older versions it reads a vocabulary in an old way
OF_TOKENIZERS = "Deprecated in 0.9.0"


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.getMessage().startswith(KNOWN):
            self.messages.append(f"{record.name}: {record.getMessage()}")


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """What transformers logs and Python warns of meanwhile; each message, though some are logged once per process."""
    handler, library, verbosity = Heard(), logging.getLogger("transformers"), transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_warning()
    transformers_logging.warning_once.cache_clear()
    loggers = (library, logging.getLogger())
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield handler.messages
            handler.messages += [
                f"{entry.category.__name__}: {entry.message}"
                for entry in caught
                if not str(entry.message).startswith(OF_TOKENIZERS)
            ]
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        transformers_logging.set_verbosity(verbosity)
    assert handler.messages == []


@pytest.mark.parametrize("options", GENERATION.values(), ids=GENERATION)
@pytest.mark.parametrize("head", ["ForConditionalGeneration", "ForPreTraining"])
def test_captioning(pipe: Callable[..., Any], files: list[str], options: Any, head: str, heard: list[str]) -> None:
    assert pipe("image-captioning", head)(files[0], **options)
    assert pipe("image-captioning", head)(files[0], prompt="a dog", **options)


@pytest.mark.parametrize("options", GENERATION.values(), ids=GENERATION)
def test_question_answering(pipe: Callable[..., Any], files: list[str], options: Any, heard: list[str]) -> None:
    assert pipe("image-question-answering")(files[0], question="what is this?", **options)


@pytest.fixture(scope="module")
def golden_pipe(golden_repository: Any) -> Callable[[str, str], Any]:  # noqa: F811
    made: dict[tuple[str, str], Any] = {}

    def make(task: str, architecture: str) -> Any:
        if (task, architecture) not in made:
            made[task, architecture] = pipeline(task, model=golden_repository(architecture), device="cpu")
        return made[task, architecture]

    return make


@pytest.mark.parametrize("name", ["defaults", "max_new_tokens", "short", "both ends", "sampling"])
@pytest.mark.parametrize("architecture", ["blip2", "blip2_opt", "blip2_t5", "albef_vqa"])
def test_generation_of_other_families(
    golden_pipe: Any, files: list[str], name: str, architecture: str, heard: list[str]
) -> None:
    options = GENERATION[name]
    if architecture != "albef_vqa":
        assert golden_pipe("image-captioning", architecture)(files[0], **options)
    if architecture != "blip2":
        assert golden_pipe("image-question-answering", architecture)(files[0], question="what is this?", **options)


def test_a_model_without_generation_config(repository: Callable[..., str], files: list[str], heard: list[str]) -> None:
    """transformers would warn of its default length of 21."""
    for task in ("image-captioning", "image-question-answering"):
        folder = repository(HEADS[task])
        model = AutoModel.from_pretrained(folder)
        fresh = type(model)(model.config)
        assert fresh.generation_config.max_length is None
        run = pipeline(task, model=fresh, processor=folder, device="cpu")
        options = {"question": "what?"} if "question" in task else {}
        assert run(files[0], **options) and run(files[0], max_new_tokens=3, **options)


def test_a_length_of_the_call_replaces_that_of_the_pipeline(
    repository: Callable[..., str], files: list[str], heard: list[str]
) -> None:
    folder = repository("ForConditionalGeneration")
    for given, called in (
        ({"max_new_tokens": 5}, {"max_length": 3}),
        ({"max_length": 6}, {"max_new_tokens": 2}),
        ({"generation_config": GenerationConfig(max_new_tokens=5)}, {"max_length": 3}),
        ({"max_length": 6}, {"generation_config": GenerationConfig(max_new_tokens=2, num_beams=1)}),
    ):
        run = pipeline("image-captioning", model=folder, device="cpu", num_beams=1, **given)
        expected = pipeline("image-captioning", model=folder, device="cpu")(files[0], num_beams=1, max_new_tokens=2)
        assert run(files[0], **called) == expected, (given, called)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("image-text-matching", {"text": ["a dog", "the man"]}),
        ("image-text-retrieval", {"texts": ["a dog", "the man"]}),
        ("image-text-classification", {"text": "a dog"}),
        ("multimodal-feature-extraction", {"text": "a dog"}),
        ("image-question-answering", {"question": "what?", "answers": ["dog", "man"]}),
    ],
)
def test_other_tasks(
    repository: Callable[..., str], files: list[str], task: str, options: Any, heard: list[str]
) -> None:
    run = pipeline(task, model=repository(HEADS[task]), device="cpu")
    assert run(files[0], **options)
    many = {"texts": options["texts"]} if "texts" in options else options
    assert run(files, batch_size=2, **many)


def test_image_pairs(repository: Callable[..., str], files: list[str], heard: list[str]) -> None:
    folder = repository(HEADS["image-pair-classification"])
    assert pipeline("image-pair-classification", model=folder, device="cpu")(files[:2], text="a dog")


@pytest.mark.parametrize(
    ("task", "head", "options"),
    [
        ("video-text-matching", "ForVideoTextRetrieval", {"text": "a dog"}),
        ("video-text-retrieval", "ForVideoTextRetrieval", {"texts": ["a dog", "the man"]}),
        ("video-question-answering", "ForVideoQuestionAnswering", {"question": "what?"}),
        ("multimodal-feature-extraction", "Model", {"text": "a dog"}),
    ],
)
def test_videos(tmp_path: Any, goldens: Any, task: str, head: str, options: dict[str, Any], heard: list[str]) -> None:
    folder = save_video_model(tmp_path, head, goldens / "tokenizer")
    video = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    assert pipeline(task, model=str(folder), device="cpu")(video, **options)


@pytest.mark.parametrize("options", [{"generate_kwargs": 3}, {"max_new_tokens": "3"}, {"num_beams": 1.5}])
def test_options_of_a_wrong_type(pipe: Callable[..., Any], files: list[str], options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{next(iter(options))} is .*; expected"):
        pipe("image-captioning")(files[0], **options)
