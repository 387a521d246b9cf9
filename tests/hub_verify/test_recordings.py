"""Recordings: every head's outputs agree with its own recording, and with no other weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modeling_lavis.cli.main import main
from modeling_lavis.hub.outputs import KINDS
from modeling_lavis.hub.recordings import read_recording, record, save_recording
from modeling_lavis.hub.verify import verify
from tests.conversion.golden_sets import GOLDENS
from tests.hub_verify.conftest import with_other_weights

ARCHITECTURES = sorted(
    path.parent.name for path in GOLDENS.glob("*/checkpoint.pth") if "clip_l" not in path.parent.name
)
#: outputs that a head must have
EXPECTED = {
    "blip_caption": {"caption", "caption_loss"},
    "blip_vqa": {"answer"},
    "blip_image_text_matching": {"match", "similarity"},
    "blip_feature_extractor": {"features", "similarity"},
    "blip2_opt": {"caption", "caption_loss", "answer"},
    "blip2_t5": {"caption", "caption_loss", "answer"},
    "alpro_retrieval": {"match", "similarity"},
    "alpro_qa": {"classes"},
    "albef_nlvr": {"classes"},
}
HEART = {"blip_caption"}


def media(architecture: str, photos: dict[str, Path]) -> Any:
    """An image, or a clip as an array `(frames, height, width, 3)`."""
    if not architecture.startswith("alpro"):
        return photos["chelsea"]
    with Image.open(photos["chelsea"]) as opened:
        frame = np.asarray(opened.convert("RGB").resize((48, 48)))
    return np.stack([np.roll(frame, shift, axis=1) for shift in range(8)])


@pytest.mark.parametrize(
    "architecture", [name if name in HEART else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES]
)
def test_recordings_of_every_architecture(
    architecture: str, converted: Callable[[str], Path], photos: dict[str, Path], tmp_path: Path
) -> None:
    repository, image = converted(architecture), media(architecture, photos)
    save_recording(tmp_path / "recording.json", record(repository, image))
    recording = json.loads((tmp_path / "recording.json").read_text())
    kinds = {output["kind"] for output in recording["outputs"]}
    assert kinds >= EXPECTED.get(architecture, set()) and kinds <= set(KINDS)
    report = verify(repository, image=image, recording=tmp_path / "recording.json")
    assert report.agrees and report.measured == len(report.comparisons) >= 1, str(report)
    other = with_other_weights(repository, tmp_path / "other")
    changed = verify(other, image=image, recording=recording)
    assert not changed.agrees and changed.measured == report.measured, str(changed)
    assert any(entry.agrees is False and entry.found != entry.expected for entry in changed.comparisons)


@pytest.mark.slow
def test_another_image_is_named(converted: Callable[[str], Path], photos: dict[str, Path]) -> None:
    repository = converted("blip_caption")
    recording = record(repository, photos["chelsea"])
    assert recording["image"] == "chelsea.png" and len(recording["image_sha256"]) == 64
    report = verify(repository, image=photos["coffee"], recording=recording)
    assert not report.agrees and "another file than that of the recording" in str(report)


WRONG: list[tuple[Any, str]] = [
    ({}, "no 'format'"),
    ({"format": 2, "outputs": []}, "no 'format'"),
    ({"format": 1, "outputs": []}, "neither outputs nor scores"),
    ({"format": 1, "outputs": {}}, "neither outputs nor scores"),
    ({"format": 1, "outputs": [[]]}, "expected kind"),
    ({"format": 1, "outputs": [{"kind": "caption"}]}, "expected kind"),
    ({"format": 1, "outputs": [{"kind": "__import__", "expected": {"a": 1}}]}, "expected one of caption"),
    ({"format": 1, "outputs": [{"kind": "caption", "expected": {}}]}, "strings and finite numbers"),
    ({"format": 1, "outputs": [{"kind": "match", "expected": {"cosine": float("nan")}}]}, "strings and finite numbers"),
    ({"format": 1, "outputs": [{"kind": "match", "expected": {"cosine": True}}]}, "strings and finite numbers"),
    ({"format": 1, "outputs": [{"kind": "match", "expected": {"a": 1}, "tolerance": -1}]}, "a number from 0"),
    ({"format": 1, "outputs": [{"kind": "match", "expected": {"a": 1}, "tolerance": "1"}]}, "a number from 0"),
    ({"format": 1, "outputs": [{"kind": "match", "expected": {"a": 1}, "text": 3}]}, "expected a string"),
    ({"format": 1, "outputs": [{"kind": "match", "expected": {"a": 1}, "choices": "yes"}]}, "list of strings"),
    ({"format": 1, "outputs": [{"kind": "match", "expected": {"a": 1}, "choices": [1]}]}, "expected strings"),
    ({"format": 1, "outputs": [{"kind": "match", "expected": {"a": 1}, "run": "rm"}]}, "expected kind"),
    ({"format": 1, "scores": [{"task": "?", "dataset": "", "split": "", "metrics": {"a": 1.0}}]}, "task of a score"),
    (
        {"format": 1, "scores": [{"task": "image captioning", "dataset": "", "split": "", "metrics": {"a": 1.0}}]},
        "metrics of a score",
    ),
    (
        {"format": 1, "scores": [{"task": "image captioning", "dataset": "", "split": "", "metrics": {"CIDEr": "1"}}]},
        "expected numbers",
    ),
]


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_wrong_recordings_are_refused(content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_recording(content)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00", "null", "[]"])
def test_files_that_are_no_recordings(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match="recorded"):
        read_recording(tmp_path / "x.json")


@pytest.mark.slow
def test_outputs_that_a_head_lacks_differ(converted: Callable[[str], Path], photos: dict[str, Path]) -> None:
    outputs = [
        {"kind": "match", "text": "a dog", "expected": {"probability": 0.5}},
        {"kind": "caption_loss", "text": "a dog", "expected": {"perplexity": 1.0}},
        {"kind": "caption_loss", "expected": {"loss": 1.0}},
    ]
    report = verify(converted("blip_caption"), image=photos["coffee"], recording={"format": 1, "outputs": outputs})
    reasons = [entry.reason for entry in report.comparisons]
    assert not report.agrees and "has no match" in reasons[0]
    assert "gives loss, image_embeds only" in reasons[1] and "needs text, which is missing" in reasons[2]


@pytest.mark.slow
def test_weights_that_are_not_finite(
    converted: Callable[[str], Path], photos: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    repository, image = converted("blip_retrieval"), photos["coffee"]
    save_recording(tmp_path / "x.json", record(repository, image))
    broken = with_other_weights(repository, tmp_path / "broken", scale=float("nan"))
    with pytest.raises(ValueError, match=r"has nan as probability\. Weights may be NaN"):
        record(broken, image)
    arguments = ["verify", str(broken), "--image", str(image), "--recording", str(tmp_path / "x.json"), "--json"]
    assert main(arguments) == 1

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    report = json.loads(capfd.readouterr().out, parse_constant=refuse)
    assert report["agrees"] is False and {entry["found"] for entry in report["comparisons"]} == {"nan"}
