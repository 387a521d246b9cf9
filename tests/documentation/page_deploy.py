"""What the page about deployment needs: the embedded model and one of its images under the names of the page."""

import shutil
from pathlib import Path
from typing import Any


def prepare(folder: Path) -> dict[str, Any]:
    from PIL import Image

    from modeling_lavis.embedded import embedded_images, embedded_model_path

    shutil.copytree(embedded_model_path(), folder / "my-captioner")
    image = next(image for image in embedded_images() if "getting haircut" in image.caption)
    with Image.open(image.path) as opened:
        opened.convert("RGB").save(folder / "photo.jpg", quality=95)
    return {}


def commands(words: list[str]) -> list[str]:
    return [*words, "--device", "cpu"] if "caption" in words else words
