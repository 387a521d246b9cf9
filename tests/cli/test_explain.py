"""`modeling-lavis explain`."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from modeling_lavis.embedded import embedded_images, embedded_model_path
from tests.cli.conftest import Result

Run = Callable[..., Result]
IMAGE = str(embedded_images()[1].path)


@pytest.mark.slow
def test_maps_of_a_text(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "maps.png"
    arguments = [IMAGE, "--text", "man surfing", "--output", output]
    result = run("explain", *arguments, model=embedded_model_path())
    assert result.status == 0 and result.err == ""
    first, *words, last = result.out.splitlines()
    assert first.startswith("match: probability of a match 0.")
    assert [word.split(":")[0] for word in words] == ["  man", "  surfing"] and last == f"Maps: {output}"
    with Image.open(output) as drawn:
        assert drawn.width > 3 * 128
    result = run("explain", *arguments, "--method", "rollout", "--json", model=embedded_model_path())
    (record,) = result.records
    assert record["file"] == IMAGE and record["method"] == "rollout" and record["layer"] is None
    assert [word["word"] for word in record["words"]] == ["man", "surfing"]
    assert all(0 < word["x"] < 128 and 0 < word["y"] < 128 and word["picture"] == 0 for word in record["words"])


@pytest.mark.slow
def test_maps_of_a_caption(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "maps.jpg"
    result = run("explain", IMAGE, "--output", output, "--json", model=embedded_model_path())
    assert result.status == 0 and output.exists()
    record = json.loads(result.out)
    assert record["target"].split() == [word["word"] for word in record["words"]]
    assert record["score"] < 0 and "log-probability" in record["score_name"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([IMAGE, "--output", "maps.txt"], 2, "--output is maps.txt"),
        ([IMAGE, IMAGE, IMAGE], 2, "Got 3 inputs; expected an image, a pair of images or a video"),
        ([IMAGE, "--text", "man", "--layer", "9"], 1, "Layer 9 .* choose one of \\[0, 1\\]"),
        (["missing.png", "--text", "man"], 1, "No such image: missing.png"),
    ],
)
def test_errors(
    run: Run, arguments: list[str], status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("explain", *arguments, model=embedded_model_path())
    assert result.status == status and result.out == ""
    assert re.search(message, result.err)
    assert not list(tmp_path.iterdir())
