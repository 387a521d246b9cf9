"""Tiny models, rows and results for the tests of evaluations."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import pipeline

import modeling_lavis  # noqa: F401  (registers the tasks)
from tests.models.contract import perturb
from tests.models.tiny_tokenizers import tiny_model, tiny_processor
from tests.pipelines.tiny_models import save_model
from tests.pipelines.tiny_video_models import FRAMES, SIZE, save_video_model

QUESTIONS = ["what is this?", "is the dog red?", "how many men?", "what?", "a man?"]
ANSWERS = ["yes", "no", "a dog", "two men"]
LABELS = ["contradiction", "neutral", "entailment"]


@cache
def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.RandomState(seed).randint(0, 255, (40, 40, 3), dtype=np.uint8))


def clip(seed: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 255, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)


def pipeline_maker(folder: Path, goldens: Path) -> Callable[[str, str], Any]:
    """Function that returns the pipeline of a task with a tiny model of a head; each is built once."""

    @cache
    def make(task: str, head: str) -> Any:
        target = folder / head.replace(" ", "_")
        target.mkdir(exist_ok=True)
        if head.startswith("language model: "):
            kind = head.partition(": ")[2]
            processor = tiny_processor(kind)
            model = tiny_model(kind, processor).eval()
            perturb(model)
            model.generation_config.max_new_tokens = 5
            return pipeline(task, model=model, processor=processor, device="cpu")
        save = save_video_model if "Video" in head else save_model
        options: dict[str, Any] = {"num_labels": 3} if head == "ForImageAndTextClassification" else {}
        return pipeline(task, model=str(save(target, head, goldens / "tokenizer", **options)), device="cpu")

    return make


def caption_rows() -> list[dict[str, Any]]:
    """Seven rows of five images; the captions of two of them are spread over rows, those of another one in a list."""
    ids, captions = [4, 9, 4, 2, 7, 9, 1], ["a dog", "two men", "the dog", ["a cat", "the cat"], "a man", "men", "red"]
    return [{"image": image(i), "image_id": i, "caption": text} for i, text in zip(ids, captions, strict=True)]


def question_rows() -> list[dict[str, Any]]:
    """Five questions with ten answers each."""
    return [
        {
            "image": image(index),
            "question": question,
            "question_id": 100 + index,
            "answer": [ANSWERS[(index + (number > 3)) % 4] for number in range(10)],
            "answer_type": "yes/no" if index % 2 else "other",
        }
        for index, question in enumerate(QUESTIONS)
    ]
