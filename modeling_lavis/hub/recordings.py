# SPDX-License-Identifier: Apache-2.0
"""Recordings: the outputs of a model for an image, kept to be compared with at another time.

They show that a model that was uploaded, quantized, or loaded with other versions still gives the same.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_lavis.files import read_json, sha256_of, whole_file
from modeling_lavis.hub.outputs import KINDS, ExpectedOutput, compute_output, load, takes_videos
from modeling_lavis.hub.scores import Score

FORMAT = 1
_TEXT, _QUESTION, _CHOICES = "a dog on the beach", "what is this?", ("yes", "no", "a dog", "two men")


@dataclass(frozen=True)
class Recording:
    """
    The outputs of a model at the time of a recording.

    Args:
        outputs (`list[ExpectedOutput]`): outputs for the image.
        scores (`list[Score]`): metrics on data.
        image_sha256 (`str`, *optional*): digest of the file of the image.
        versions (`Mapping[str, str]`): versions of the packages that it was made with.
    """

    outputs: list[ExpectedOutput]
    scores: list[Score]
    image_sha256: str | None
    versions: Mapping[str, str]

    def remarks(self, image: Any) -> list[str]:
        """A remark if a file is not the one of the recording."""
        if self.image_sha256 is None or not _is_file(image):
            return []
        same = sha256_of(image) == self.image_sha256
        return [] if same else ["the image is another file than that of the recording."]


def record(
    repository: str | os.PathLike[str],
    image: Any,
    *,
    text: str = _TEXT,
    question: str = _QUESTION,
    choices: Sequence[str] = _CHOICES,
    tolerance: float = 1e-3,
    device: Any = None,
    dtype: Any = "auto",
    hub_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Record the outputs of a model for an image: captions, answers, scores and features, whichever its head has.

    Args:
        repository (`str` or `os.PathLike`): folder or Hub id.
        image (`str`, `os.PathLike` or `PIL.Image.Image`): an image; a video for models of videos.
        text (`str`, *optional*): caption or statement.
        question (`str`, *optional*): question.
        choices (`Sequence[str]`, *optional*): answers to rank.
        tolerance (`float`, *optional*, defaults to 1e-3): difference of numbers that will be allowed.
        device, dtype, hub_options (*optional*): see `verify`.

    Returns:
        `dict[str, Any]`: the recording, which `verify` takes, and [`save_recording`] writes.

    Raises:
        OSError: If the repository or the image cannot be read.
        ValueError: If the head has none of these outputs, or one is not finite.
    """
    import torch
    import transformers

    import modeling_lavis

    model, processor = load(os.fspath(repository), device=device, dtype=dtype, **dict(hub_options or {}))
    outputs = []
    for wanted in _wanted(model, text, question, tuple(choices)):
        found = compute_output(model, processor, image, wanted)
        for name, value in found.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"The {wanted.title} of {os.fspath(repository)} has {value} as {name}. Weights may be NaN, or the"
                    " dtype too narrow."
                )
        fields: dict[str, Any] = {"kind": wanted.kind, "expected": found, "tolerance": tolerance}
        fields |= {"text": wanted.text} if wanted.text else {}
        outputs.append(fields | ({"choices": list(wanted.choices)} if wanted.choices else {}))
    if not outputs:
        raise ValueError(f"{type(model).__name__} has no outputs that can be recorded; expected one of its heads.")
    versions = {
        "modeling_lavis": modeling_lavis.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    is_file = _is_file(image)
    return {
        "format": FORMAT,
        "repository": os.fspath(repository),
        "model_class": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "modality": "video" if takes_videos(model) else "image",
        "image": Path(image).name if is_file else None,
        "image_sha256": sha256_of(image) if is_file else None,
        "versions": versions,
        "outputs": outputs,
    }


def _wanted(model: Any, text: str, question: str, choices: tuple[str, ...]) -> Iterator[ExpectedOutput]:
    """The calls that are recorded of a head, with expected values that are not known yet."""
    unknown = {"-": 0.0}
    for name, kind in KINDS.items():
        if name == "zero_shot" or not kind.fits(model):
            continue
        if name == "caption":
            yield ExpectedOutput(name, unknown)
        elif name == "answer":
            if model.can_generate():
                yield ExpectedOutput(name, unknown, text=question)
            if hasattr(model, "rank_answers"):
                yield ExpectedOutput(name, unknown, text=question, choices=choices)
        else:
            yield ExpectedOutput(name, unknown, text=text)


def _is_file(image: Any) -> bool:
    """Whether an image is a file here, not a URL or an object."""
    return isinstance(image, (str, os.PathLike)) and os.path.isfile(image)


def save_recording(path: str | os.PathLike[str], recording: Mapping[str, Any]) -> None:
    """Write a recording as JSON, completely or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(recording, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_recording(source: str | os.PathLike[str] | Mapping[str, Any]) -> Recording:
    """
    Read a recording.

    Args:
        source (`str`, `os.PathLike` or `Mapping`): a file that [`save_recording`] wrote, or what [`record`] returned.
            It may have `scores`, too, in the form of the facts files.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a recording.
    """
    content: Any = source
    if not isinstance(source, Mapping):
        try:
            content = read_json(source)
        except ValueError as error:
            raise ValueError(f"{source} is not valid JSON: {error}. Give a file that was recorded.") from error
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise ValueError(f"The recording has no 'format': {FORMAT}. Give a file that was recorded.")
    outputs, scores = content.get("outputs", []), content.get("scores", [])
    if not isinstance(outputs, list) or not isinstance(scores, list) or not (outputs or scores):
        raise ValueError("The recording has neither outputs nor scores as lists. Give a file that was recorded.")
    digest, versions = content.get("image_sha256"), content.get("versions", {})
    return Recording(
        [ExpectedOutput.from_dict(output) for output in outputs],
        [Score.from_dict(score) for score in scores],
        digest if isinstance(digest, str) else None,
        versions if isinstance(versions, Mapping) else {},
    )


__all__ = ["FORMAT", "Recording", "read_recording", "record", "save_recording"]
