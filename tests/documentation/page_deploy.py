"""What the page about deployment needs: the embedded model and one of its images, and a tiny model for questions."""

import shutil
from pathlib import Path
from typing import Any


def prepare(folder: Path) -> dict[str, Any]:
    from PIL import Image

    from modeling_lavis import export_model
    from modeling_lavis.embedded import embedded_images, embedded_model_path
    from tests.documentation.materials import TOKENIZER
    from tests.pipelines.tiny_models import save_model

    shutil.copytree(embedded_model_path(), folder / "my-captioner")
    image = next(image for image in embedded_images() if "getting haircut" in image.caption)
    with Image.open(image.path) as opened:
        opened.convert("RGB").save(folder / "photo.jpg", quality=95)
    export_model(save_model(folder / "my-answerer", "ForQuestionAnswering", TOKENIZER), folder / "answerer")
    return {}


def commands(words: list[str]) -> list[str] | None:
    if "my-captioner" in words and "model" in words:
        return None  # as the first export of the page
    return [*words, "--device", "cpu"] if "caption" in words else words


def check_without_package(names: dict[str, Any]) -> None:
    """The code without this package gives what the pipelines give."""
    import numpy as np
    from transformers import pipeline

    def run(task: str, model: str, **options: Any) -> Any:
        return pipeline(task, model=model, device="cpu")("photo.jpg", **options)

    states = names["image"]
    expected = run("image-captioning", "my-captioner", num_beams=1)[0]["generated_text"]
    assert names["generate"]("captioner", states, {}, longest=24) == expected
    matches = run("image-text-matching", "my-captioner", text=names["texts"])
    np.testing.assert_allclose(names["matches"], [match["score"] for match in matches], atol=1e-4)
    np.testing.assert_allclose(names["similarity"][0], [match["similarity"] for match in matches], atol=1e-4)
    answers = run("image-question-answering", "my-answerer", question="what is the man doing?", num_beams=1)
    assert names["answer"] == answers[0]["answer"]


CHECKS = {"Without this package": check_without_package}
