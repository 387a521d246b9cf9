"""What pages assume their readers to have: checkpoints of the original, photographs, rows of a data set.

Real checkpoints take gigabytes. These are the recordings of tiny original models, under the names that the pages use.
"""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).resolve().parents[1]
GOLDENS = Path(os.environ.get("LAVIS_GOLDENS") or TESTS / "goldens")
TOKENIZER = GOLDENS / "tokenizer"


def photos() -> dict[str, str]:
    """Photographs by name."""
    folder = GOLDENS / "processors" / "images"
    return {path.stem: str(path) for path in sorted(folder.iterdir()) if path.suffix in (".png", ".jpg")}


def caption_rows() -> list[dict[str, str]]:
    """Eight rows: four photographs with two captions each."""
    return [
        {"image": path, "caption": f"a {word} {name}", "image_id": name}
        for name, path in photos().items()
        for word in ("dog", "man")
    ]


def convert_recorded(architecture: str, output: Path) -> str:
    """Convert a recorded checkpoint; returns the repository's folder."""
    from modeling_lavis.cli.main import main

    source = GOLDENS / architecture
    options = ["--config", source / "config.json", "--tokenizer", TOKENIZER]
    if (source / "vision.pth").exists() and architecture != "blip2_image_text_matching":  # whose encoder was trained
        options += ["--vision-checkpoint", source / "vision.pth"]
    if (source / "llm").is_dir():
        options += ["--language-model", source / "llm"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["convert", architecture, *map(str, (source / "checkpoint.pth", output, *options))]) == 0
    return str(output)


def place(files: Mapping[str, str]) -> None:
    """Copy files or folders of the recordings into the working directory, under the names that a page uses."""
    for name, source in files.items():
        if (GOLDENS / source).is_dir():
            shutil.copytree(GOLDENS / source, name)
        else:
            shutil.copy(GOLDENS / source, name)


def with_sizes(words: Sequence[str], configurations: Mapping[str, str]) -> list[str]:
    """
    A conversion with what the files of a tiny model need besides: the sizes that full-size files need not be told, from
    the recording that is named for the checkpoint, and the tokenizer. A command that has a `--config` keeps it.
    """
    extra: list[str] = []
    if "--config" not in words:
        settings = json.loads((GOLDENS / configurations[words[2]]).read_text(encoding="utf-8"))
        Path("sizes.json").write_text(json.dumps({part: settings[part] for part in ("vision", "text")}))
        extra = ["--config", "sizes.json"]
    return [*words, *extra, "--tokenizer", str(TOKENIZER)]


def changed(before: Any, after: Any) -> set[str]:
    """Names of the weights that differ between two models of a class."""
    new = after.state_dict()
    return {name for name, value in before.state_dict().items() if not torch.equal(value, new[name])}
