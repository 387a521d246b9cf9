"""Commands with converted BLIP-2 models on photos."""

import json
from pathlib import Path
from typing import Any

import pytest

from modeling_lavis.cli.main import main

NAMES = ("blip2", "blip2_feature_extractor", "blip2_image_text_matching", "blip2_opt", "blip2_t5")


@pytest.fixture(scope="module")
def converted(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of converted models by architecture."""
    folders = {}
    for name in NAMES:
        source, folder = goldens / name, tmp_path_factory.mktemp(name) / "model"
        options = ["--config", source / "config.json", "--tokenizer", goldens / "tokenizer"]
        if name != "blip2_image_text_matching":  # its checkpoint contains the image encoder
            options += ["--vision-checkpoint", source / "vision.pth"]
        if (source / "llm").is_dir():
            options += ["--language-model", source / "llm"]
        assert main(["convert", name, str(source / "checkpoint.pth"), str(folder), *map(str, options)]) == 0
        folders[name] = str(folder)
    return folders


@pytest.mark.parametrize(
    ("command", "architecture", "options", "field"),
    [
        ("caption", "blip2", ["--max-new-tokens", "4"], "captions"),
        ("caption", "blip2_opt", ["--max-new-tokens", "4"], "captions"),
        ("caption", "blip2_t5", ["--max-new-tokens", "4"], "captions"),
        ("answer", "blip2_opt", ["--question", "what is this?", "--max-new-tokens", "4"], "answers"),
        ("answer", "blip2_t5", ["--question", "what is this?", "--max-new-tokens", "4"], "answers"),
        ("answer", "blip2_opt", ["--question", "what?", "--answers", "yes,no", "--top-k", "1"], "answers"),
        (
            "answer",
            "blip2_t5",
            ["--question", "what?", "--answers", "yes,no", "--length-normalization", "mean"],
            "answers",
        ),
        ("match", "blip2", ["--text", "a dog", "the man"], None),
        ("match", "blip2_image_text_matching", ["--text", "a dog", "the man"], None),
        ("embed", "blip2_feature_extractor", [], None),
    ],
)
def test_commands(
    converted: dict[str, str],
    photos: dict[str, Path],
    capfd: pytest.CaptureFixture[str],
    command: str,
    architecture: str,
    options: list[str],
    field: str | None,
) -> None:
    files = [str(photos["coffee"]), str(photos["rocket"])]
    model_options = ["--model", converted[architecture], "--device", "cpu", "--json"]
    assert main([command, *model_options, *files, *options]) == 0
    printed, errors = capfd.readouterr()
    records: list[dict[str, Any]] = [json.loads(line) for line in printed.splitlines()]
    assert [record["file"] for record in records] == files and "Traceback" not in errors
    for record in records:
        assert "error" not in record
        if field is not None:
            texts = [entry["answer"] if field == "answers" else entry for entry in record[field]]
            assert texts and all(isinstance(text, str) for text in texts)
    if command == "match":
        assert all(0 <= entry["score"] <= 1 for record in records for entry in record["matches"])
        assert str(records[0]["matches"]) != str(records[1]["matches"]), "the scores do not depend on the image"


def test_missing_language_model_is_an_error(
    converted: dict[str, str], goldens: Path, tmp_path: Path, capfd: Any
) -> None:
    source = goldens / "blip2_opt"
    options = ["--config", str(source / "config.json"), "--vision-checkpoint", str(source / "vision.pth")]
    assert main(["convert", "blip2_opt", str(source / "checkpoint.pth"), str(tmp_path / "out"), *options]) == 1
    assert "--language-model" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
