"""Conversion from the command line: `modeling-lavis convert` and the conversion scripts."""

import argparse
import json
import runpy
import sys
from pathlib import Path

import pytest
from transformers import AutoModel

from modeling_lavis.cli import convert as convert_command
from tests.conversion.golden_sets import GOLDENS, TOKENIZER, checkpoint

SCRIPT = Path(__file__).parents[2] / "conversion_scripts" / "convert_lavis_blip.py"


def command_line(output: Path, *more: str, architecture: str = "blip_caption") -> list[str]:
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


def run_command(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    convert_command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["convert", *arguments])
    return args.run(args)


def run_script(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return int(stop.value.code or 0)


def test_command_converts_and_prints_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(command_line(tmp_path / "repo")) == 0
    assert "blip_caption -> LavisBlipForConditionalGeneration" in capsys.readouterr().out
    assert type(AutoModel.from_pretrained(tmp_path / "repo")).__name__ == "LavisBlipForConditionalGeneration"


def test_report_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run_command(command_line(tmp_path / "repo", "--json", "--dtype", "float16", "--max-shard-size", "100KB")) == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["model_class"] == "LavisBlipForConditionalGeneration" and len(report["weight_files"]) > 1


def test_script_equals_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(command_line(tmp_path / "script"), monkeypatch) == 0
    assert run_command(command_line(tmp_path / "command")) == 0
    for name in ("model.safetensors", "config.json", "processor_config.json", "generation_config.json"):
        assert (tmp_path / "script" / name).read_bytes() == (tmp_path / "command" / name).read_bytes()


def test_errors_are_one_message_and_an_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(command_line(tmp_path / "repo", architecture="blip_vqa")) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and "Traceback" not in captured.err and not captured.out
    assert run_script(command_line(tmp_path / "repo", architecture="albef_vqa"), monkeypatch) == 2
    assert "not an architecture of BLIP" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_existing_output_needs_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(command_line(tmp_path / "repo")) == 0
    assert run_command(command_line(tmp_path / "repo")) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert run_command(command_line(tmp_path / "repo", "--overwrite")) == 0
