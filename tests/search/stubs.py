"""A retrieval pipeline without a model, whose features and hidden states are pixels of the image."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import torch

from modeling_lavis.evaluation.index_files import IndexFiles
from modeling_lavis.models.image_conversion import open_image
from modeling_lavis.pipelines.inputs import Failure
from modeling_lavis.pipelines.retrieval import ImageTextRetrievalPipeline

SIDE = 4


class StubModel(torch.nn.Module):
    """What identifies the model of an index."""

    dtype = torch.float32
    config = SimpleNamespace(_name_or_path="")

    def can_generate(self) -> bool:
        return False


class StubRetriever(ImageTextRetrievalPipeline):
    """What [`build_index`] needs of a pipeline; `before` is called with each batch, to fail or to wait."""

    def __init__(self, before: Callable[[list[Any]], None] = lambda rows: None) -> None:
        self.before = before
        self.model, self.device = StubModel(), torch.device("cpu")
        self.processor = SimpleNamespace(to_dict=dict)

    def item_steps(self, keep_states: bool = False) -> tuple[Callable[[Any], Any], Callable[[list[Any]], list[Any]]]:
        return self._prepare_pixels, functools.partial(self._run, keep_states=keep_states)

    def _prepare_pixels(self, row: Mapping[str, Any]) -> Any:
        try:
            medium = row["image"]
            image = PIL.Image.fromarray(medium) if isinstance(medium, np.ndarray) else open_image(medium)
            image = image.convert("RGB").resize((SIDE, SIDE))
        except OSError as error:
            return Failure(str(error))
        return {"pixel_values": torch.from_numpy(np.asarray(image, np.float32))[None]}

    def _run(self, rows: list[Any], keep_states: bool) -> list[Any]:
        self.before(rows)
        results = []
        for row in rows:
            pixels = row["pixel_values"][0]
            features = torch.nn.functional.normalize(pixels.flatten() + 1, dim=0)
            results.append((features, pixels.flatten(1) if keep_states else None))
        return results


def save_pictures(folder: Path, numbers: Any) -> None:
    """Save small images, each of which has its own pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number:03d}.png")


def content_of(folder: Path) -> dict[str, Any]:
    """Rows, vectors, hidden states and FAISS index of an index, and the names of all its files without numbers."""
    files = IndexFiles.open(folder)
    names = {"index.json", "failures.jsonl", ".lock", *(entry["name"] for entry in files.head["files"].values())}
    assert {path.name for path in folder.iterdir()} == names, "a killed process left something behind"
    faiss = files.path("faiss")
    return {
        "rows": files.rows.to_pylist(),
        "vectors": files.vectors.tobytes(),
        "states": None if files.states is None else files.states.values.tobytes(),
        "faiss": None if faiss is None else faiss.read_bytes(),
        "failures": (folder / "failures.jsonl").read_text(),
    }
