"""Repositories converted from recorded checkpoints."""

import io
from contextlib import redirect_stdout
from pathlib import Path

from modeling_lavis.cli.main import main


def convert_recorded(goldens: Path, architecture: str, output: Path) -> str:
    """Convert the checkpoint of a golden set with `modeling-lavis convert`, and return the output folder."""
    source = goldens / architecture
    options = ["--config", source / "config.json", "--tokenizer", goldens / "tokenizer"]
    with redirect_stdout(io.StringIO()):
        status = main(["convert", architecture, *map(str, (source / "checkpoint.pth", output, *options))])
    assert status == 0
    return str(output)
