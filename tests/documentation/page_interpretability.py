"""What the page about interpretability needs: an image of its own for the command."""

import shutil
from pathlib import Path
from typing import Any

from PIL import Image


def prepare(folder: Path) -> dict[str, Any]:
    from modeling_lavis.embedded import embedded_images

    shutil.copyfile(embedded_images()[1].path, folder / "surfer.png")
    return {}


def commands(words: list[str]) -> list[str]:
    return [*words, "--device", "cpu"]


def check_drawings(names: dict[str, Any]) -> None:
    for name in ("match.png", "caption.png", "similarity.png"):
        with Image.open(name) as drawing:
            assert drawing.width > 256


CHECKS = {"Interpretability": check_drawings}
