"""What the page about fine-tuning needs: a folder of pictures, and a small model to start from."""

import json
import shutil
from pathlib import Path
from typing import Any


def prepare(folder: Path) -> dict[str, Any]:
    from modeling_lavis.embedded import embedded_images, embedded_model_path

    (folder / "photos").mkdir()
    for split, images in (("train", embedded_images()[:8]), ("val", embedded_images()[8:])):
        for image in images:
            shutil.copy(image.path, folder / "photos")
        rows = [{"image": image.path.name, "caption": image.caption} for image in images]
        (folder / "photos" / f"{split}.json").write_text(json.dumps(rows))
    return {"start": embedded_model_path()}


def commands(words: list[str]) -> list[str]:
    from modeling_lavis.embedded import embedded_model_path

    replaced = {"START": embedded_model_path(), "captioner": "captioner-by-command", "emoji_set": "photos"}
    return [replaced.get(word, word) for word in words]
