"""
Write small complete repositories in the format of this version, for `tests/repositories/complete`:
`python -m tests.hub_publish.write_repository NAME`, after a change of what is saved.

Each has a model, its processor, its code (in `code.zip`), and `recorded.safetensors`: what processor and head compute.
"""

import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

from modeling_lavis.hub.loading_probe import compute
from modeling_lavis.hub.portable import attach_code
from tests.pipelines.tiny_models import save_model
from tests.pipelines.tiny_video_models import save_video_model

FOLDER = Path(__file__).resolve().parents[1] / "repositories" / "complete"
TOKENIZER = Path(__file__).resolve().parents[1] / "goldens" / "tokenizer"
#: how a repository is saved, by the class of its model
SAVED: dict[str, Callable[[Path], object]] = {
    "LavisBlipForConditionalGeneration": lambda folder: save_model(
        folder, "ForConditionalGeneration", TOKENIZER, prompt="a picture of "
    ),
    "AlproForVideoTextRetrieval": lambda folder: save_video_model(folder, "ForVideoTextRetrieval", TOKENIZER),
}


def record(folder: Path) -> None:
    """Write what the repository computes today beside it."""
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        save_file(compute(model, processor), folder / "recorded.safetensors")


def pack_code(folder: Path) -> None:
    """Put the attached code of a folder into an archive, out of the reach of linters and type checkers."""
    with zipfile.ZipFile(folder / "code.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.glob("*.py")):
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)
            path.unlink()


def main(name: str) -> None:
    """Write all repositories under that name."""
    for head, save in SAVED.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / head
            save(folder)
            attach_code(folder)
            record(folder)
            pack_code(folder)
            shutil.copytree(folder, FOLDER / name / head)


if __name__ == "__main__":
    main(sys.argv[1])
