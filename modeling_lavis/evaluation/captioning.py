# SPDX-License-Identifier: Apache-2.0
"""Evaluation of captions: generated texts against the captions of people."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from modeling_lavis.data.collators import Row, RowCollator
from modeling_lavis.evaluation.generating import best_sequences, with_newline
from modeling_lavis.evaluation.prediction import Predictions, Running, column_of, is_stream, predict, unwrapped
from modeling_lavis.evaluation.results import EvaluationResult, result_id
from modeling_lavis.progress import Shown


class _CaptioningInputs(RowCollator):
    """Images and prompts, as `generate` takes them."""

    def __init__(self, *args: Any, prompt: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prompt = prompt

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        self._check_rows(rows)
        prompts = [self._prompt(row) for row in rows]
        inputs: dict[str, Any] = {"pixel_values": self._pixel_values(self._field(row, "image") for row in rows)}
        if any(prompts) or self.processor.requires_prompt:
            inputs.update(self.processor.prompt_inputs(prompts, return_tensors="pt"))
        return {"inputs": inputs, "prompts": prompts}

    def _prompt(self, row: Row) -> str:
        if self.prompt is not None:
            return self.prompt
        return self._field(row, "prompt") if self._has_field(row, "prompt") else self.processor.prompt


def evaluate_captioning(
    model: Any,
    processor: Any,
    rows: Any,
    *,
    generation_options: Mapping[str, Any] | None = None,
    prompt: str | None = None,
    java_metrics: bool = False,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: Shown = None,
    on_bad_row: str = "raise",
    columns: Mapping[str, str] | None = None,
    image_root: str | os.PathLike | None = None,
    return_predictions: bool = False,
) -> Any:
    """
    Generate captions and compare them with the captions of the rows, by the metrics of COCO.

    Rows with one `image_id` are one image, for which one caption is generated and whose captions are all references.
    The published settings are options: `generation_options={"num_beams": 3, "max_length": 20, "min_length": 5}` for
    BLIP on COCO, `{"num_beams": 5, "max_length": 30, "min_length": 8}` for BLIP-2.

    Args:
        model (`PreTrainedModel`): a model that generates captions. Its device, dtype and mode stay; it runs in
            evaluation mode.
        processor (`ProcessorMixin`): its processor.
        rows: rows `{image, [caption], [image_id], [prompt]}`: a `datasets.Dataset`, a list of dicts, or an iterable of
            them. `caption` is a string or a list of strings; if no row has one, there are predictions, but no metrics.
        generation_options (`Mapping[str, Any]`, *optional*): options of `generate`; the model's own by default.
        prompt (`str`, *optional*): start of all captions; by default that of each row or of the processor.
        java_metrics (`bool`, *optional*, defaults to `False`): also METEOR and SPICE, which need Java.
        batch_size (`int`, *optional*, defaults to 32): images per batch and process.
        num_workers (`int`, *optional*, defaults to 0): processes that load images.
        progress (`bool` or `TextIO`, *optional*): whether or where progress is shown, see
            `modeling_lavis.progress.Progress`; by default on a terminal.
        on_bad_row (`str`, *optional*, defaults to `"raise"`): `"raise"`, or `"skip"` to leave out rows whose image
            cannot be read.
        columns (`Mapping[str, str]`, *optional*): names of the columns by field name, where they differ.
        image_root (`str` or `os.PathLike`, *optional*): folder of relative paths.
        return_predictions (`bool`, *optional*, defaults to `False`): return an [`EvaluationResult`].

    Returns:
        `dict[str, float]` of metrics (`"bleu-1"` ... `"bleu-4"`, `"rouge-l"`, `"cider"`, `"cider-d"` and
        `"exact_match"`, the fraction of captions that equal a reference after the cleaning of the processor, which
        training texts had, too), or an [`EvaluationResult`] whose predictions
        have the form of COCO's server.

    Raises:
        ValueError: there are no rows, an option has an unsupported value, or only some images have captions.
        OSError: an image cannot be read.
    """
    model, names = unwrapped(model), dict(columns or {})
    collate = _CaptioningInputs(processor, image_root=image_root, columns=names, prompt=prompt)
    options = with_newline(generation_options or {}, model, processor)
    id_name, caption_name = (names.get(name, name) for name in ("image_id", "caption"))

    def record(row: Row, position: int) -> dict[str, Any]:
        return {
            "key": _key(row.get(id_name), position),
            "image_id": result_id(row, id_name, position),
            "references": _texts(row.get(caption_name)),
        }

    def step(batch: dict[str, Any]) -> list[dict[str, Any]]:
        ids = best_sequences(model.generate(**batch["inputs"], **options), len(batch["prompts"]))
        return [{"caption": text} for text in processor.post_process_captions(ids, prompt=batch["prompts"])]

    # of a stream the ids are not known before; its captions are merged afterwards
    of_image: dict[Any, list[int]] = {}
    if not is_stream(rows):
        for position, value in enumerate(column_of(rows, id_name)):
            of_image.setdefault(_key(value, position), []).append(position)
    running = Running(batch_size, num_workers, progress, on_bad_row)
    predict_rows = partial(predict, model, rows, collate, record, step, running)
    found = _predict_one_of_each(list(of_image.values()), predict_rows) if of_image else predict_rows()
    images: dict[Any, dict[str, Any]] = {}
    for position, entry in found.rows.items():
        known = images.setdefault(entry["key"], {**entry, "references": [], "position": position})
        known["references"] += entry["references"]
    if of_image:
        captions = column_of(rows, caption_name)
        for key, entry in images.items():
            used = [position for position in of_image[key] if position not in found.skipped]
            entry["references"] = [text for position in used for text in _texts(captions[position])]
    predictions = [{"image_id": entry["image_id"], "caption": entry["caption"]} for entry in images.values()]
    metrics = _metrics(list(images.values()), java_metrics, processor.clean)
    if not return_predictions:
        return metrics
    references = [entry["references"] for entry in images.values()] if metrics else []
    positions = [entry["position"] for entry in images.values()]
    return EvaluationResult(metrics, predictions, found.skipped, references, positions)


def _key(image_id: Any, position: int) -> tuple[str, Any]:
    """What rows of one image share; a row without an id is an image of its own."""
    return ("row", position) if image_id is None else ("id", result_id({"id": image_id}, "id", position))


def _predict_one_of_each(images: list[list[int]], predict_rows: Callable[..., Predictions]) -> Predictions:
    """Predictions for one row of each image, the first that can be read of its positions."""
    found = Predictions()
    while images:
        part = predict_rows([positions[0] for positions in images], needs_rows=not found.rows and _are_last(images))
        found.rows.update(part.rows)
        found.skipped.update(part.skipped)
        images = [positions[1:] for positions in images if positions[0] in part.skipped and len(positions) > 1]
    return Predictions(dict(sorted(found.rows.items())), dict(sorted(found.skipped.items())))


def _are_last(images: list[list[int]]) -> bool:
    return all(len(positions) == 1 for positions in images)


def _metrics(
    images: list[dict[str, Any]], java_metrics: bool, clean: Callable[[list[str]], list[str]]
) -> dict[str, float]:
    without = [entry["image_id"] for entry in images if not entry["references"]]
    if len(without) == len(images):
        return {}
    if without:
        raise ValueError(
            f"{len(without)} of {len(images)} images have no caption to compare with, for example the image"
            f" {without[0]!r}; expected captions for all images, or for none."
        )
    from modeling_lavis.evaluation.metrics import caption_scores

    captions, references = [entry["caption"] for entry in images], [entry["references"] for entry in images]
    scores = caption_scores(captions, references, **({"java": True} if java_metrics else {}))
    exact = [caption in clean(own) for caption, own in zip(clean(captions), references, strict=True)]
    return {**scores, "exact_match": sum(exact) / len(exact)}


def _texts(caption: Any) -> list[str]:
    """The captions of a row as a list, empty without any."""
    if caption is None or isinstance(caption, str):
        return [] if caption is None else [caption]
    if isinstance(caption, (Sequence, np.ndarray)) and all(isinstance(text, str) for text in caption):
        return [str(text) for text in caption]
    raise ValueError(f"The caption of a row is {caption!r}; expected a string or a list of strings.")


__all__ = ["evaluate_captioning"]
