# SPDX-License-Identifier: Apache-2.0
"""Verification of a repository: are its outputs and metrics those that were published, or that were recorded?

The numbers of published checkpoints are facts (`model_cards/outputs.yaml`, and `scores` of each facts file). A
recording has the outputs of any model for an image, in the same form; it shows that a model that was uploaded, or
quantized, or loaded with another version, still gives the same.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modeling_lavis.hub import zoo
from modeling_lavis.hub.cards import CHECKPOINT_ENTRY
from modeling_lavis.hub.outputs import (
    ExpectedOutput,
    Value,
    check_name,
    compute_output,
    load,
    published_images,
    published_outputs,
)
from modeling_lavis.hub.recordings import read_recording
from modeling_lavis.hub.scores import Score, measure_score, published_scores

#: what a metric may differ by from the published one, in points of 100: decoding of images and rounding differ
SCORE_TOLERANCE = 0.2


@dataclass(frozen=True)
class Comparison:
    """
    One value of a verification.

    Args:
        title (`str`): what it is.
        name (`str`): name of the value, such as `"caption"` or `"TR@1"`.
        expected (`str` or `float`): the published or recorded value.
        found (`str` or `float`, *optional*): the value of this model; `None` if it was not measured.
        tolerance (`float`): difference of numbers that is allowed.
        agrees (`bool`, *optional*): whether they agree; `None` if it was not measured.
        reason (`str`, *optional*, defaults to `""`): why it was not measured, or a remark.
        origin (`str`, *optional*, defaults to `""`): where the expected value stands.
    """

    title: str
    name: str
    expected: Value
    found: Value | None
    tolerance: float
    agrees: bool | None
    reason: str = ""
    origin: str = ""


@dataclass(frozen=True)
class VerificationReport:
    """
    What [`verify`] found.

    Args:
        repository (`str`): folder or Hub id.
        checkpoint (`str`, *optional*): the published checkpoint, `ARCHITECTURE__MODEL_TYPE`.
        model_class (`str`): class of the model.
        comparisons (`tuple[Comparison, ...]`): all values.
        notes (`tuple[str, ...]`, *optional*, defaults to `()`): remarks, for example on the image.
    """

    repository: str
    checkpoint: str | None
    model_class: str
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> int:
        """Number of values that were measured."""
        return sum(entry.agrees is not None for entry in self.comparisons)

    @property
    def agrees(self) -> bool:
        """Whether something was measured, and all of it agrees."""
        return self.measured > 0 and all(entry.agrees is not False for entry in self.comparisons)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary that can be serialized as JSON."""
        counts = {"agrees": self.agrees, "measured": self.measured}
        rows = [{**asdict(entry), "found": _for_json(entry.found)} for entry in self.comparisons]
        return {**asdict(self), **counts, "comparisons": rows}

    def __str__(self) -> str:
        known = f", {self.checkpoint}" if self.checkpoint else ""
        lines = [f"{self.repository} ({self.model_class}{known})"]
        rows = [("", "value", "expected", "found", "allowed")]
        for entry in self.comparisons:
            mark = {True: "agrees", False: "DIFFERS", None: "-"}[entry.agrees]
            allowed = "equal" if isinstance(entry.expected, str) else f"{entry.tolerance:.2g}"
            rows.append((mark, f"{entry.title}: {entry.name}", _shown(entry.expected), _shown(entry.found), allowed))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        remarks = dict.fromkeys(f"{entry.title}: {entry.reason}" for entry in self.comparisons if entry.reason)
        lines += [f"  note: {remark}" for remark in [*remarks, *self.notes]]
        differing = sum(entry.agrees is False for entry in self.comparisons)
        left = len(self.comparisons) - self.measured
        lines.append(f"{self.measured - differing} of {self.measured} measured values agree; {left} were not measured.")
        return "\n".join(lines)


def _for_json(value: Value | None) -> Value | None:
    """A value as JSON has it, which knows no NaN and no infinity: those as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: Value | None) -> str:
    if value is None:
        return "not measured"
    return repr(value) if isinstance(value, str) else f"{value:.6g}"


class NothingToVerify(ValueError):
    """Raised if nothing can be compared. The message says what is needed."""


def verify(
    repository: str | os.PathLike[str],
    *,
    image: Any = None,
    data: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | None = None,
    split: str | None = None,
    dataset: str | None = None,
    answers: Sequence[str] | None = None,
    java_metrics: bool = False,
    checkpoint: str | None = None,
    recording: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    score_tolerance: float = SCORE_TOLERANCE,
    device: Any = None,
    dtype: Any = "auto",
    batch_size: int = 32,
    num_workers: int = 0,
    data_options: Mapping[str, Any] | None = None,
    hub_options: Mapping[str, Any] | None = None,
) -> VerificationReport:
    """
    Compare a repository with what was published about its checkpoint, or with a recording.

    Args:
        repository (`str` or `os.PathLike`): folder or Hub id of a converted model.
        image (`str`, `os.PathLike` or `PIL.Image.Image`, *optional*): the image of the published outputs (the photo of
            the Merlion in LAVIS's documentation) or that of the recording; a video for models of videos.
        data (`str`, `os.PathLike` or rows, *optional*): data set of a published score, as
            [`~modeling_lavis.data.loading.load_data`] reads it.
        split (`str`, *optional*): split of the data; the score of that split is compared.
        dataset (`str`, *optional*): name of the data set, if scores on several were published.
        answers (`Sequence[str]`, *optional*): list of answers that is ranked, for scores that were published so.
        java_metrics (`bool`, *optional*, defaults to `False`): also METEOR and SPICE, which need Java.
        checkpoint (`str`, *optional*): the published checkpoint, by a name that
            [`~modeling_lavis.hub.zoo.by_name`] knows; the one that the model card names by default.
        recording (`str`, `os.PathLike` or `Mapping`, *optional*): what
            [`~modeling_lavis.hub.recordings.record`] gave or wrote, in the place of the published values.
        score_tolerance (`float`, *optional*, defaults to 0.2): difference of metrics that is allowed, in points of 100.
        device (*optional*): device of the model.
        dtype (*optional*, defaults to `"auto"`): dtype of the weights; the stored one by default.
        batch_size (`int`, *optional*, defaults to 32), num_workers (`int`, *optional*, defaults to 0): how the data are
            evaluated.
        data_options (`Mapping[str, Any]`, *optional*): further options of `load_data`, such as `format`.
        hub_options (`Mapping[str, Any]`, *optional*): `revision`, `token`, `trust_remote_code` and the like.

    Returns:
        [`VerificationReport`].

    Raises:
        NothingToVerify: If nothing is known about the model, or neither `image` nor `data` is given; it is a
            `ValueError` that says what is needed.
        OSError: If a file or the repository cannot be read.
        ValueError: If an option has an unsupported value.
    """
    name, options = os.fspath(repository), dict(hub_options or {})
    if checkpoint is not None and recording is not None:
        raise ValueError(
            f"checkpoint is {checkpoint!r:.120}, but the recording is compared with. Leave one of them out."
        )
    notes: list[str] = []
    entry = None
    if recording is None:
        entry = _find_entry(name, checkpoint, options)
        outputs, scores = published_outputs(entry), published_scores(entry)
    else:
        content = read_recording(recording)
        outputs, scores = content.outputs, content.scores
        notes += [] if image is None else content.remarks(image)
    wanted = _choose_scores(scores, data, split, dataset)
    if not (outputs and image is not None) and not wanted:
        raise NothingToVerify(_needs(name, entry, outputs, scores))
    model, processor = load(name, device=device, dtype=dtype, **options)
    if recording is None and image is not None and outputs:
        notes += _remarks_on_image(image, outputs)
    comparisons: list[Comparison] = []
    for output in outputs:
        comparisons += _compare_output(model, processor, image, output)
    for score in scores:
        if score not in wanted:
            comparisons += _not_measured(score, score.unmeasured or "needs its data (data, split)")
    for score in wanted:
        if split not in (None, score.split):
            notes.append(f"the split is {split!r}, the score on {score.dataset} is that of {score.split!r}.")
        found, reasons = measure_score(
            model,
            processor,
            data,
            score,
            split=split,
            answers=answers,
            java_metrics=java_metrics,
            batch_size=batch_size,
            num_workers=num_workers,
            data_options=data_options,
        )
        comparisons += _compare_score(score, found, reasons, score_tolerance)
    checkpoint_name = None if entry is None else entry.name
    return VerificationReport(name, checkpoint_name, type(model).__name__, tuple(comparisons), tuple(notes))


# ---- published checkpoints ----


def checkpoint_of_card(repository: str, hub_options: Mapping[str, Any] | None = None) -> str | None:
    """
    Return the published checkpoint that the card of a repository names, `None` without one.

    Args:
        repository (`str`): folder or Hub id.
        hub_options (`Mapping[str, Any]`, *optional*): `revision`, `token` and the like.

    Raises:
        OSError: If the card is on the Hub and cannot be read.
    """
    from huggingface_hub import ModelCard, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    check_name(repository)
    path = Path(repository) / "README.md"
    if not os.path.isdir(repository):
        known = ("revision", "token", "cache_dir", "local_files_only", "force_download")
        options = {key: value for key, value in (hub_options or {}).items() if key in known}
        try:
            path = Path(hf_hub_download(repository, "README.md", **options))
        except EntryNotFoundError:
            return None
    if not path.is_file():
        return None
    try:
        name = ModelCard.load(path, ignore_metadata_errors=True).data.get(CHECKPOINT_ENTRY)
    except Exception as error:  # the readers of YAML raise errors of many types
        raise ValueError(f"The card of {repository} cannot be read: {error}. Name the checkpoint.") from error
    return name if isinstance(name, str) else None


def _find_entry(repository: str, checkpoint: str | None, options: Mapping[str, Any]) -> zoo.ZooEntry:
    name = checkpoint or checkpoint_of_card(repository, options)
    if name is None:
        raise NothingToVerify(
            f"The card of {repository} names no published checkpoint, so nothing is known about its outputs. Name it"
            " (checkpoint, such as blip_caption/base_coco), or give a recording."
        )
    return zoo.by_name(name)


def _choose_scores(scores: Sequence[Score], data: Any, split: str | None, dataset: str | None) -> list[Score]:
    """The score that the data are for."""
    if data is None:
        if dataset is not None:
            raise ValueError(f"dataset is {dataset!r:.80}, but there are no data. Give the data, too.")
        return []
    known = ", ".join(f"{score.dataset} {score.split}" for score in scores) or "none"
    chosen = [score for score in scores if dataset in (None, score.dataset)]
    if split is not None and len(chosen) > 1:
        chosen = [score for score in chosen if score.split == split]
    if len(chosen) != 1:
        raise ValueError(
            f"{len(chosen)} published scores are for the dataset {dataset!r} and the split {split!r}; expected one of:"
            f" {known}. Give dataset and split by these names."
        )
    if chosen[0].unmeasured:
        raise ValueError(
            f"The score on {chosen[0].dataset} {chosen[0].split} cannot be measured: {chosen[0].unmeasured}."
        )
    return chosen


def _needs(
    repository: str,
    entry: zoo.ZooEntry | None,
    outputs: Sequence[ExpectedOutput],
    scores: Sequence[Score],
) -> str:
    """What is needed to verify something."""
    of = f" about {entry.name}" if entry else ""
    lines = []
    if outputs:
        names = {output.image for output in outputs} - {None}
        about = [f"the {facts['about']}: {facts['url']}" for name, facts in published_images().items() if name in names]
        lines.append(f"{len(outputs)} outputs need the image ({'; '.join(about) or 'that of the recording'})")
    for score in scores:
        how = score.unmeasured or f"needs the data{' and the answers' if score.needs_answers else ''}"
        lines.append(f"the score on {score.dataset}, {score.split}: {how}")
    if not lines:
        return f"Nothing was published{of}, so {repository} cannot be verified. Give a recording instead."
    return f"Nothing to compare{of}. {'; '.join(lines)}."


def _remarks_on_image(image: Any, outputs: Sequence[ExpectedOutput]) -> list[str]:
    """A remark if an image is not the published one, by its size."""
    from modeling_lavis.models.image_conversion import open_image

    sizes = {tuple(published_images()[output.image]["size"]) for output in outputs if output.image}
    opened = open_image(image) if isinstance(image, (str, os.PathLike)) else image
    size = getattr(opened, "size", None)
    if not isinstance(size, tuple) or size in sizes:
        return []
    expected = " or ".join(f"{width} x {height}" for width, height in sorted(sizes))
    return [f"the image has {size[0]} x {size[1]} pixels, the published one {expected}: it is another, or was resized."]


# ---- comparing ----


def _compare_output(model: Any, processor: Any, image: Any, output: ExpectedOutput) -> list[Comparison]:
    origin, note = output.origin.get("name", ""), output.note or ""

    def entry(name: str, found: Value | None, agrees: bool | None, reason: str) -> Comparison:
        expected = output.expected[name]
        allowed = 0.0 if isinstance(expected, str) else output.allowed(name)
        return Comparison(output.title, name, expected, found, allowed, agrees, reason, origin)

    if image is None:
        return [entry(name, None, None, "needs the image (image)") for name in output.expected]
    try:
        found = compute_output(model, processor, image, output)
    except (ValueError, TypeError, AttributeError) as error:  # the repository has another head or processor
        reason = " ".join(str(error).split())
        return [entry(name, None, False, f"cannot be computed: {reason}") for name in output.expected]
    return [
        entry(name, found[name], output.agrees(name, found[name]), note)
        if name in found
        else entry(name, None, False, f"the model gives {', '.join(found)} only")
        for name in output.expected
    ]


def _score_title(score: Score) -> str:
    return f"{score.task}, {score.dataset} {score.split}".strip()


def _compare_score(
    score: Score, found: Mapping[str, float], reasons: Mapping[str, str], tolerance: float
) -> list[Comparison]:
    comparisons = []
    for name, expected in score.metrics.items():
        value = found.get(name)
        agrees = None if value is None else abs(value - expected) <= tolerance + 1e-9
        reason = reasons.get(name, score.note or "")
        comparisons.append(
            Comparison(_score_title(score), name, expected, value, tolerance, agrees, reason, score.origin)
        )
    return comparisons


def _not_measured(score: Score, reason: str) -> list[Comparison]:
    return [
        Comparison(_score_title(score), name, expected, None, 0.0, None, reason, score.origin)
        for name, expected in score.metrics.items()
    ]


__all__ = [
    "SCORE_TOLERANCE",
    "Comparison",
    "NothingToVerify",
    "VerificationReport",
    "checkpoint_of_card",
    "verify",
]
