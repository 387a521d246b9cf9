"""Fixtures of the command line tests: tiny models, and a function that runs a command in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from modeling_lavis.cli.main import main
from tests.pipelines.tiny_models import save_model


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines of stdout, parsed as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> dict[str, str]:
    """Folders of tiny models by command."""
    heads = {"caption": "ForPreTraining", "answer": "ForQuestionAnswering"}
    folders = {
        command: str(save_model(tmp_path_factory.mktemp(command), head, goldens / "tokenizer"))
        for command, head in heads.items()
    }
    return {**folders, "match": folders["caption"], "embed": folders["caption"], "demo": folders["caption"]}


@pytest.fixture
def run(models: dict[str, str], capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command with its tiny model; `model=None` leaves out `--model`."""

    def run_command(command: str, *arguments: object, model: str | None = "") -> Result:
        model_options = [] if model is None else ["--model", model or models[command], "--device", "cpu"]
        # options come first, because --text takes all arguments that follow
        status = main([command, *model_options, *map(str, arguments)])
        return Result(status, *capfd.readouterr())

    return run_command
