# SPDX-License-Identifier: Apache-2.0
"""What is known about published checkpoints, and the choice of some of them."""

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from modeling_lavis.hub.zoo import ZooEntry, entries, model_class_of

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9}


def describe(entry: ZooEntry) -> dict[str, Any]:
    """
    Return what is known about a published checkpoint, as a dictionary that can be serialized as JSON.

    Its entries are `name`, `architecture`, `model_type`, `repository` (name of the converted repository), `family`,
    `tasks`, `title`, `model_class`, `parameters` (of the loaded model, with its frozen parts and momentum encoders),
    `image_size` in pixels, `frames`, `language_model`, `licence`, `scores`, `source` (URL), and `own_checkpoint`
    (whether the file was trained as this architecture, and not only to start from).
    """
    facts = entry.facts
    return {
        "name": entry.name,
        "architecture": entry.architecture,
        "model_type": entry.model_type,
        "repository": entry.repository,
        "family": entry.family,
        "tasks": list(entry.tasks),
        "title": facts["title"],
        "model_class": model_class_of(entry.architecture),
        "parameters": facts["parameters"],
        "image_size": facts["image_size"],
        "frames": facts.get("frames"),
        "language_model": facts.get("language_model"),
        "licence": facts["licence"],
        "scores": facts["scores"],
        "source": facts["source"],
        "own_checkpoint": facts["own_checkpoint"],
    }


def licence_name(licence: Mapping[str, Any]) -> str:
    """Return the identifier of the licence that facts state, on the Hub's list or, for `other`, its own."""
    return str(licence["name"] if licence["id"] == "other" else licence["id"])


def select(
    *,
    family: str | None = None,
    task: str | None = None,
    licence: str | None = None,
    min_size: str | float | None = None,
    max_size: str | float | None = None,
    scores: Sequence[str] = (),
) -> list[ZooEntry]:
    """
    Return the published checkpoints that fit all conditions, in the order of the zoo.

    Args:
        family (`str`, *optional*): `"albef"`, `"alpro"`, `"blip"` or `"blip2"`.
        task (`str`, *optional*): one of [`~modeling_lavis.hub.zoo.TASKS`].
        licence (`str`, *optional*): part of the name of the licence, for example `"bsd"`.
        min_size (`str` or `float`, *optional*): smallest number of parameters; `"300M"` and `"3B"` work.
        max_size (`str` or `float`, *optional*): largest number of parameters.
        scores (`Sequence[str]`, *optional*, defaults to `()`): conditions on published scores, such as `"VQAv2"` (has
            a score on it) or `"COCO CIDEr >= 140"`. Every word has to occur in the task, data, split or metric.

    Raises:
        ValueError: If a condition cannot be read, or names an unknown family or task.
    """
    smallest, largest = parameter_count(min_size), parameter_count(max_size)
    conditions = [_score_condition(text) for text in scores]
    _check_known("family", family, {entry.family for entry in entries().values()})
    _check_known("task", task, {name for entry in entries().values() for name in entry.tasks})
    return [
        entry
        for entry in entries().values()
        if family in (None, entry.family)
        and (task is None or task in entry.tasks)
        and (licence is None or licence.lower() in licence_name(entry.facts["licence"]).lower())
        and (smallest is None or entry.facts["parameters"] >= smallest)
        and (largest is None or entry.facts["parameters"] <= largest)
        and all(condition(entry) for condition in conditions)
    ]


def _check_known(kind: str, value: str | None, known: Iterable[str]) -> None:
    if value is not None and value not in set(known):
        raise ValueError(f"Unknown {kind} {value!r}; expected one of {', '.join(sorted(known))}.")


def parameter_count(text: str | float | None) -> float | None:
    """
    Return a number of parameters that may be written with a unit: `"300M"`, `"2.7B"`, `"500k"` or `"1000"`.

    Raises:
        ValueError: If it is not such a number.
    """
    if text is None or isinstance(text, int | float):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMbBgG]?)\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is not a number of parameters; expected one such as 300M or 2.7B.")
    return float(match[1]) * _UNITS[match[2].lower()]


def _score_condition(text: str) -> Callable[[ZooEntry], bool]:
    """A condition on published scores: words, and optionally a comparison with a number."""
    match = re.fullmatch(r"(?P<words>[^<>=]*?)\s*(?:(?P<how>>=|<=|>|<)\s*(?P<number>-?\d+(?:\.\d+)?))?\s*", text)
    if match is None or not match["words"].strip():
        raise ValueError(f"The score {text!r} cannot be read; expected words such as VQAv2 or 'COCO CIDEr >= 140'.")
    words = match["words"].lower().split()

    def fits(entry: ZooEntry) -> bool:
        for score in entry.facts["scores"]:
            place = f"{score['task']} {score['dataset']} {score['split']}".lower()
            for metric, value in score["metrics"].items():
                if all(word in place or word in metric.lower() for word in words) and (
                    match["how"] is None or _COMPARISONS[match["how"]](value, float(match["number"]))
                ):
                    return True
        return False

    return fits


__all__ = ["describe", "licence_name", "parameter_count", "select"]
