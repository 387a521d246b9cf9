"""The command `modeling-lavis page`: its arguments, and what it says before it starts."""

import re
import shlex
from pathlib import Path

import pytest

from modeling_lavis import import_utils
from modeling_lavis.cli.main import build_parser, main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "page.md"


def test_commands_of_the_documentation_are_understood() -> None:
    lines = re.findall(r"^modeling-lavis (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    parsed = [build_parser("page").parse_args(shlex.split(line)) for line in lines]
    assert len(parsed) == 2
    assert (parsed[0].model, parsed[0].allow, parsed[0].host) == (None, [], "127.0.0.1")
    assert (parsed[1].model, parsed[1].allow) == (["captioner/", "matcher/", "vqa/"], ["holiday/"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--allow", "missing"], "--allow: missing is not a folder. Give one that exists."),
        (["--model", " "], "' ' is empty"),
        (["--max-upload", "0"], "'0' is not a positive integer"),
    ],
)
def test_arguments_that_cannot_be_used(
    arguments: list[str],
    message: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["page", *arguments]) == 2
    assert message in capfd.readouterr().err


def test_without_gradio(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_utils, "is_available", lambda name: name != "gradio")
    assert main(["page"]) == 1
    assert 'pip install "modeling-lavis[demo]"' in capfd.readouterr().err
