"""The command line of the conversion, from both of its doors."""

import argparse
import json
import runpy
import sys
from pathlib import Path

import pytest
from transformers import AutoModel

from modeling_lavis.cli import convert as verb
from tests.conversion.golden_sets import GOLDENS, TOKENIZER, checkpoint

SCRIPT = Path(__file__).parents[2] / "conversion_scripts" / "convert_lavis_blip.py"


def words(output: Path, *more: str, architecture: str = "blip_caption") -> list[str]:
    config = GOLDENS / "blip_caption" / "config.json"
    return [
        architecture,
        str(checkpoint("blip_caption")),
        str(output),
        "--config",
        str(config),
        "--tokenizer",
        str(TOKENIZER),
        *more,
    ]


def run_verb(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers())
    args = parser.parse_args(["convert", *arguments])
    return args.run(args)


def run_script(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return int(stop.value.code or 0)


def test_the_verb_converts_and_prints_the_account(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(words(tmp_path / "repo")) == 0
    assert "blip_caption -> LavisBlipForConditionalGeneration" in capsys.readouterr().out
    assert type(AutoModel.from_pretrained(tmp_path / "repo")).__name__ == "LavisBlipForConditionalGeneration"


def test_the_account_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(words(tmp_path / "repo", "--json", "--dtype", "float16", "--max-shard-size", "100KB")) == 0
    account = json.loads(capsys.readouterr().out)
    assert account["model_class"] == "LavisBlipForConditionalGeneration" and len(account["weight_files"]) > 1


def test_the_script_does_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(words(tmp_path / "script"), monkeypatch) == 0
    assert run_verb(words(tmp_path / "verb")) == 0
    for name in ("model.safetensors", "config.json", "processor_config.json", "generation_config.json"):
        assert (tmp_path / "script" / name).read_bytes() == (tmp_path / "verb" / name).read_bytes()


def test_errors_are_one_message_and_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(words(tmp_path / "repo", architecture="blip_vqa")) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and "Traceback" not in captured.err and not captured.out
    assert run_script(words(tmp_path / "repo", architecture="albef_vqa"), monkeypatch) == 2
    assert "not an architecture of BLIP" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_overwriting_must_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(words(tmp_path / "repo")) == 0
    assert run_verb(words(tmp_path / "repo")) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert run_verb(words(tmp_path / "repo", "--overwrite")) == 0
