# SPDX-License-Identifier: Apache-2.0
"""A captioner and a filter as one step of a job: captions of images, and scores of them and of web texts."""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from modeling_lavis.jobs.api import JobOptions
from modeling_lavis.jobs.work import draft_size
from modeling_lavis.pipelines.base import LavisPipeline
from modeling_lavis.pipelines.captioning import ImageCaptioningPipeline
from modeling_lavis.pipelines.inputs import Failure
from modeling_lavis.pipelines.loading import load
from modeling_lavis.pipelines.matching import ImageTextMatchingPipeline


class CaptionFilter:
    """
    What `modeling_lavis.jobs.work.Worker` needs of a pipeline, with two models.

    Args:
        captioner (`ImageCaptioningPipeline`): describes images.
        matcher (`ImageTextMatchingPipeline`): scores texts against images.
    """

    def __init__(self, captioner: ImageCaptioningPipeline, matcher: ImageTextMatchingPipeline) -> None:
        self.captioner, self.matcher = captioner, matcher
        self.parts: Mapping[str, LavisPipeline] = {"captioner": captioner, "filter": matcher}
        self.device = captioner.device
        # files are not reduced below what the model with the larger images needs
        self.processor = max(self.parts.values(), key=lambda pipe: draft_size(pipe) or math.inf).processor
        settings = [pipe.processor.image_processor.to_dict() for pipe in self.parts.values()]
        self._share_pixels = settings[0] == settings[1]

    def steps(self, **options: Any) -> tuple[Callable[[Any], Any], Callable[[list[Any]], list[Any]]]:
        """
        The two steps, as those of `LavisPipeline.steps`.

        Args:
            options: options of the captioner's call.

        Returns:
            A function from a row to a prepared row or a `Failure`, and one from prepared rows to `{"web": [...],
            "synthetic": [...]}` each, with `text`, `score` (ITM probability) and `similarity` (cosine) of each text.
        """
        prepare_caption, run_captions = self.captioner.steps(**options)
        prepare_match, run_matches = self.matcher.steps()

        def prepare(row: Mapping[str, Any]) -> Any:
            try:
                texts = web_texts(row.get("text"))
            except ValueError as error:
                return Failure(str(error))
            image = {"image": row["image"]}
            caption = prepare_caption(image)
            if isinstance(caption, Failure):
                return caption
            match = caption if self._share_pixels else prepare_match({**image, "text": "a"})
            if isinstance(match, Failure):
                return match
            return {
                "pixel_values": caption["pixel_values"],
                "caption": caption,
                "match": {"pixel_values": match["pixel_values"]},
                "texts": texts,
            }

        def run(rows: list[Any]) -> list[Any]:
            found = run_captions([row["caption"] for row in rows])
            captions = [
                list(dict.fromkeys(text for entry in entries if (text := entry["generated_text"]).strip()))
                for entries in found
            ]
            texts = [[*row["texts"], *own] for row, own in zip(rows, captions)]
            scored = [index for index, own in enumerate(texts) if own]
            matches: dict[int, list[Any]] = {}
            if scored:
                pairs = [{**rows[index]["match"], "texts": texts[index]} for index in scored]
                matches = dict(zip(scored, run_matches(pairs)))
            results = []
            for index, row in enumerate(rows):
                own, count = matches.get(index, []), len(row["texts"])
                results.append({"web": own[:count], "synthetic": own[count:]})
            return results

        return prepare, run


def web_texts(value: Any) -> list[str]:
    """
    The texts of a row, each once, without empty ones.

    Raises:
        ValueError: it is neither a text nor a list of them.
    """
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"The text is {value!r:.100}; expected a string, or a list of strings.")
    return list(dict.fromkeys(text for text in texts if text.strip()))


def open_caption_filter(captioner: Any, filter_model: Any, job: JobOptions) -> CaptionFilter:
    """
    Open both models; one that is given twice by its name is loaded once.

    Args:
        captioner, filter_model: folders or Hub ids, or pipelines of the tasks.
        job (`JobOptions`): device and dtype of models that are given by their names.

    Raises:
        TypeError: a pipeline is of another task. OSError, ValueError: a model cannot be loaded, or not be used so.
    """
    first = _opened("captioner", captioner, "image-captioning", ImageCaptioningPipeline, job)
    is_same = isinstance(captioner, (str, os.PathLike)) and isinstance(filter_model, (str, os.PathLike))
    if is_same and os.fspath(captioner) == os.fspath(filter_model):
        shared = {"model": first.model, "processor": first.processor, "device": first.device}
        return CaptionFilter(first, ImageTextMatchingPipeline(task="image-text-matching", **shared))
    second = _opened("filter", filter_model, "image-text-matching", ImageTextMatchingPipeline, job)
    return CaptionFilter(first, second)


def _opened(name: str, model: Any, task: str, pipeline: type[LavisPipeline], job: JobOptions) -> Any:
    if isinstance(model, (str, os.PathLike)):
        return load(task, model, job.device, job.dtype)
    if not isinstance(model, pipeline):
        raise TypeError(
            f"The {name} is {type(model).__name__}; expected a folder, a Hub id, or"
            f' pipeline("{task}", model=..., processor=...).'
        )
    return model


__all__ = ["CaptionFilter", "open_caption_filter", "web_texts"]
