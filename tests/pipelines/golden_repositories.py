"""Repositories converted from the recorded checkpoints of all families."""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from modeling_lavis.cli.main import main


def convert_golden(goldens: Path, architecture: str, output: Path) -> str:
    """Convert the checkpoint of a golden set with its separate parts, and return the output folder."""
    source = goldens / architecture
    options = ["--config", source / "config.json", "--tokenizer", goldens / "tokenizer"]
    if (source / "vision.pth").is_file() and architecture != "blip2_image_text_matching":  # whose encoder was trained
        options += ["--vision-checkpoint", source / "vision.pth"]
    if (source / "llm").is_dir():
        options += ["--language-model", source / "llm"]
    with redirect_stdout(io.StringIO()):
        status = main(["convert", architecture, *map(str, (source / "checkpoint.pth", output, *options))])
    assert status == 0
    return str(output)


@pytest.fixture(scope="session")
def golden_repository(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> Callable[[str], str]:
    """Function that returns the repository of a recorded architecture. Each is converted once."""
    made: dict[str, str] = {}

    def make(architecture: str) -> str:
        if architecture not in made:
            made[architecture] = convert_golden(goldens, architecture, tmp_path_factory.mktemp("golden") / "model")
        return made[architecture]

    return make
