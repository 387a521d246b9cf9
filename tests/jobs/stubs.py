"""A pipeline without a model, whose results depend on the image, on its batch, and on random numbers."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from modeling_lavis.jobs.caption_filter import web_texts
from modeling_lavis.jobs.columns import ItemMaker
from modeling_lavis.jobs.journal import Journal
from modeling_lavis.jobs.opening import open_source
from modeling_lavis.jobs.runner import Summary, job_folder, run_job
from modeling_lavis.jobs.shards import WebDataset
from modeling_lavis.jobs.sinks import JsonLines, Metadata, Parquet, Sink, TextFiles
from modeling_lavis.jobs.tasks import TASKS
from modeling_lavis.jobs.work import Worker
from modeling_lavis.models.image_conversion import open_image

SINKS: dict[str, type[Sink]] = {
    "jsonl": JsonLines,
    "parquet": Parquet,
    "metadata": Metadata,
    "txt": TextFiles,
    "webdataset": WebDataset,
}


class StubPipeline:
    """What [`Worker`] needs of a pipeline; `before` is called with each batch, to fail or to wait."""

    device = torch.device("cpu")
    processor = SimpleNamespace()

    def __init__(self, before: Callable[[list[Any]], None] = lambda rows: None, opens: bool = True) -> None:
        self.before, self.opens = before, opens

    def steps(self, **options: Any) -> tuple[Callable[[Any], Any], Callable[[list[Any]], list[Any]]]:
        return self._prepare, self._run

    def _prepare(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if not self.opens:
            return {"value": len(str(row["image"]))}
        image = open_image(row["image"]).convert("RGB").resize((1, 1))
        return {"value": int(np.asarray(image).sum())}

    def _run(self, rows: list[Any]) -> list[Any]:
        self.before(rows)
        batch = sum(row["value"] for row in rows)
        chance = torch.rand(len(rows)).tolist()
        return [
            [{"generated_text": f"value {row['value']}", "score": -batch - number}] for row, number in zip(rows, chance)
        ]


class StubFilter(StubPipeline):
    """What CapFilt needs of its two models: a web text and a caption of each image, with scores."""

    def _prepare(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {**super()._prepare(row), "texts": web_texts(row.get("text"))}

    def _run(self, rows: list[Any]) -> list[Any]:
        captions = super()._run(rows)
        return [
            {
                "web": [_scored(text, row["value"] / 765) for text in row["texts"]],
                "synthetic": [_scored(caption["generated_text"], -caption["score"] % 1)],
            }
            for row, (caption,) in zip(rows, captions, strict=True)
        ]


def _scored(text: str, score: float) -> dict[str, Any]:
    return {"text": text, "score": score, "similarity": score - 0.5}


def use_stub_filter(monkeypatch: pytest.MonkeyPatch, pipe: StubFilter) -> None:
    """Let `capfilt` use the stub in place of the models that it is given."""
    monkeypatch.setattr("modeling_lavis.jobs.filtering.open_caption_filter", lambda *args: pipe)
    monkeypatch.setattr("modeling_lavis.jobs.api.model_identity", lambda pipe: {"class": type(pipe).__name__})


def run_stub(
    data: Any,
    output: Path,
    kind: str = "jsonl",
    pipe: Any = None,
    *,
    batch_size: int = 4,
    block_size: int = 8,
    identity: Mapping[str, Any] | None = None,
    maker: ItemMaker | None = None,
    worker: Any = None,
    **options: Any,
) -> Summary:
    """Run a captioning job as `modeling_lavis.jobs.caption` does, with a stub or a given worker."""
    task = TASKS["caption"]
    folder = job_folder(output, "caption", SINKS[kind])
    journal = Journal(folder)
    source = open_source(data, maker or ItemMaker("image", task.texts), folder / "files.jsonl", [output])
    if worker is None:
        keep = kind == "webdataset"
        worker = Worker(pipe or StubPipeline(), task, batch_size=batch_size, num_workers=2, keep_downloads=keep)
    sink_options: dict[str, Any] = {"text": "caption"}
    if kind == "webdataset":
        sink_options["samples_per_shard"] = 7
    if kind == "txt" and isinstance(data, (str, os.PathLike)):
        sink_options["root"] = Path(data)
    sink = SINKS[kind](output, folder, **sink_options)
    return run_job(
        source=source,
        worker=worker,
        sink=sink,
        journal=journal,
        identity=identity or {"verb": "caption"},
        block_size=block_size,
        **options,
    )


def save_pictures(folder: Path, count: int) -> list[Path]:
    """Save small images of different colors, in two folders."""
    paths = []
    for index in range(count):
        path = folder / f"part{index % 2}" / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        color = (index % 256, index // 256 % 256, 7 * index % 256)
        PIL.Image.new("RGB", (4, 4), color).save(path)
        paths.append(path)
    return sorted(paths)


def content_of(folder: Path) -> dict[str, bytes]:
    """Files of an output by relative path, without the folders of jobs."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.endswith(".job") for part in path.relative_to(folder).parts)
    }
