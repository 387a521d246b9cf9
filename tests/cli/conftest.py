"""Models, and the command run in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from modeling_lavis.cli.main import main
from tests.pipelines.tiny_models import save_model


class Ran(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """Stdout, every line of which must be JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> dict[str, str]:
    """Folders of tiny models, by the verb that they are for."""
    heads = {"caption": "ForPreTraining", "answer": "ForQuestionAnswering"}
    folders = {
        verb: str(save_model(tmp_path_factory.mktemp(verb), head, goldens / "tokenizer"))
        for verb, head in heads.items()
    }
    return {**folders, "match": folders["caption"], "embed": folders["caption"], "demo": folders["caption"]}


@pytest.fixture
def run(models: dict[str, str], capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a verb on its tiny model; `model=None` leaves `--model` out."""

    def call(verb: str, *arguments: object, model: str | None = "") -> Ran:
        given = [] if model is None else ["--model", model or models[verb], "--device", "cpu"]
        # texts take all that follows them, so options go in front
        status = main([verb, *given, *map(str, arguments)])
        return Ran(status, *capfd.readouterr())

    return call
