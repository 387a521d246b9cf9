# SPDX-License-Identifier: Apache-2.0
"""Captions of a folder of photos, from JPEG files to JSON Lines: BLIP-base at 384 pixels, 3 beams.

The photos have the size of a camera's. They are enlarged from photos of the tests, with grain, so that their files and
the time to decode them are those of real ones. Each peer does it in its usual way: this project by a job
(`collection_draft`: with draft-mode decoding), transformers by a DataLoader with two workers and its exact processor,
LAVIS by a DataLoader with its own transform.
"""

import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from benchmarks.workloads import caption
from benchmarks.workloads.base import OURS, Rates, Run, Tensors, Workload

_PHOTOS = Path(__file__).resolve().parents[2] / "tests" / "goldens" / "processors" / "images"
_PROMPT = "a picture of "
_WORDS = dict(zip(caption.PROMPT, _PROMPT.split()))
_SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
_NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
_TIMED_BATCHES = 4  # of the model alone


@dataclass(frozen=True)
class Size(caption.Size):
    """Sizes of model and data."""

    images: int = 500
    length: int = 20
    width: int = 4000
    height: int = 3000
    batch: int = 8
    workers: int = 2


def save_photos(folder: Path, size: Size) -> list[str]:
    """Write photos as JPEG files; twelve different ones, linked under further names."""
    noise = np.random.RandomState(0)
    originals = sorted(path for path in _PHOTOS.iterdir() if path.name in _NAMES)
    contents = []
    for index in range(min(12, size.images)):
        with PIL.Image.open(originals[index % len(originals)]) as opened:
            photo = opened.convert("RGB").rotate(90 * (index // len(originals)), expand=True)
        photo = photo.resize((size.width, size.height), PIL.Image.Resampling.BICUBIC)
        grain = noise.randint(-6, 7, (size.height, size.width, 1), dtype=np.int16)
        file = io.BytesIO()
        pixels = np.clip(np.asarray(photo, dtype=np.int16) + grain, 0, 255).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(file, "JPEG", quality=90)
        contents.append(file.getvalue())
    paths = [str(folder / f"{index:06d}.jpg") for index in range(size.images)]
    for index, path in enumerate(paths):
        if index < len(contents):
            Path(path).write_bytes(contents[index])
        else:
            os.link(paths[index % len(contents)], path)
    return paths


def save_vocabulary(folder: Path, size: caption.Size) -> Path:
    """A vocabulary of the size of BERT's, whose words say their ids."""
    words = {**{index: f"w{index}" for index in range(size.vocabulary - 2)}, **_SPECIAL, **_WORDS}
    path = folder / "vocab.txt"
    path.write_text("\n".join(words[index] for index in sorted(words)) + "\n", encoding="utf-8")
    return path


def blip_processor(size: caption.Size) -> Any:
    """This project's processor, with that vocabulary."""
    from modeling_lavis import LavisBlipProcessor, LavisImageProcessor
    from modeling_lavis.models.processing_lavis_blip import blip_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        save_vocabulary(Path(folder), size)
        tokenizer = blip_tokenizer(folder)
    return LavisBlipProcessor(LavisImageProcessor(size=size.image_size), tokenizer, prompt=_PROMPT)


def as_outputs(captions: Sequence[Sequence[int]], size: Size) -> Tensors:
    """Generated ids without special ones, `(images, length)`, padded with -1."""
    ids = torch.full((len(captions), size.length), -1)
    for row, words in enumerate(captions):
        ids[row, : len(words)] = torch.tensor(words, dtype=torch.long)
    return {"ids": ids}


def without_special(ids: torch.Tensor) -> list[list[int]]:
    """Generated ids without prompt and special ones."""
    skipped = {*_SPECIAL, caption.DEC, caption.DEC + 1}
    return [[token for token in row if token not in skipped][len(caption.PROMPT) :] for row in ids.tolist()]


def _options(size: Size) -> dict[str, Any]:
    return {"num_beams": size.beams, "max_length": size.length, "min_length": size.length, "do_sample": False}


def build_job(draft: bool) -> Callable[[Size, torch.dtype], Run]:
    """A builder of this project's job."""

    def build(size: Size, dtype: torch.dtype) -> Run:
        from modeling_lavis import jobs
        from modeling_lavis.pipelines.captioning import ImageCaptioningPipeline

        model, processor = caption.our_model(size), blip_processor(size)
        folder = tempfile.TemporaryDirectory()
        photos = Path(folder.name) / "photos"
        photos.mkdir()
        paths = save_photos(photos, size)
        pipe = ImageCaptioningPipeline(
            model=model.to(dtype), processor=processor, task="image-captioning", device="cpu"
        )
        alone = _seconds_of_model(pipe, paths, size)
        runs = iter(range(1000))

        def run() -> Tensors:
            output = Path(folder.name) / f"captions-{next(runs)}.jsonl"
            options: dict[str, Any] = {"batch_size": size.batch, "num_workers": size.workers, "draft": draft}
            summary = jobs.caption(str(photos), pipe, output, **_options(size), **options)
            assert summary.written == size.images
            records = [json.loads(line) for line in output.read_text().splitlines()]
            names = {word: index for index, word in _WORDS.items()}
            captions = [
                [names[word] if word in names else int(word[1:]) for word in record["caption"].split()]
                for record in records
            ]
            measured = {"seconds_model": torch.tensor(summary.model_seconds), "seconds_alone": torch.tensor(alone)}
            return {**as_outputs(captions, size), **measured}

        return run

    return build


def _seconds_of_model(pipe: Any, paths: Sequence[str], size: Size) -> float:
    """Seconds that the model needs for all photos when nothing else runs."""
    prepare, run = pipe.steps(**_options(size))
    rows = [prepare(path) for path in paths[: size.batch]]
    run(rows)
    started = time.perf_counter()
    for _ in range(_TIMED_BATCHES):
        run(rows)
    return (time.perf_counter() - started) / (_TIMED_BATCHES * len(rows)) * size.images


class _Photos(torch.utils.data.Dataset):
    """Photos as a peer's transform makes them."""

    def __init__(self, paths: Sequence[str], transform: Callable[[Any], torch.Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with PIL.Image.open(self.paths[index]) as opened:
            return self.transform(opened.convert("RGB"))


def _loop(
    paths: Sequence[str],
    transform: Callable[[Any], torch.Tensor],
    generate: Callable[[torch.Tensor], torch.Tensor],
    size: Size,
) -> Tensors:
    """The usual loop: a DataLoader, a batch at a time, lines of JSON."""
    captions: list[list[int]] = []
    loader = torch.utils.data.DataLoader(_Photos(paths, transform), batch_size=size.batch, num_workers=size.workers)
    with tempfile.TemporaryFile("w") as file:
        for pixels in loader:
            captions += without_special(generate(pixels))
            file.write("".join(json.dumps(entry) + "\n" for entry in captions[-len(pixels) :]))
    return as_outputs(captions, size)


def build_transformers(size: Size, dtype: torch.dtype) -> Run:
    from transformers import BlipImageProcessor

    try:
        from transformers import BlipImageProcessorPil as Processor  # the exact one, since transformers 5
    except ImportError:
        Processor = BlipImageProcessor
    model = caption.transformers_model(size).to(dtype).eval()
    processor = Processor(size={"height": size.image_size, "width": size.image_size})
    folder = tempfile.TemporaryDirectory()
    paths = save_photos(Path(folder.name), size)
    prompt = torch.tensor([[caption.DEC, *caption.PROMPT, caption.SEP]])

    def transform(image: Any) -> torch.Tensor:
        return processor(images=image, return_tensors="pt")["pixel_values"][0]

    def generate(pixels: torch.Tensor) -> torch.Tensor:
        ids = prompt.repeat(len(pixels), 1)
        return model.generate(
            pixel_values=pixels.to(dtype), input_ids=ids, attention_mask=torch.ones_like(ids), **_options(size)
        )

    def run() -> Tensors:
        assert folder.name  # the photos live as long as this function
        return _loop(paths, transform, generate, size)

    return run


def build_lavis(size: Size, dtype: torch.dtype) -> Run:
    from lavis.processors.blip_processors import BlipImageEvalProcessor

    model, tokenizer = caption.lavis_model(size)
    model = model.to(dtype).eval()
    transform = BlipImageEvalProcessor(image_size=size.image_size)
    folder = tempfile.TemporaryDirectory()
    paths = save_photos(Path(folder.name), size)

    def generate(pixels: torch.Tensor) -> torch.Tensor:
        model.generate({"image": pixels}, num_beams=size.beams, max_length=size.length, min_length=size.length)
        assert tokenizer.decoded is not None
        return tokenizer.decoded

    def run() -> Tensors:
        assert folder.name
        return _loop(paths, transform, generate, size)

    return run


def describe(size: Size, seconds: float, figures: dict[str, float], bytes_per_number: int, rates: Rates) -> str:
    rows = f"{size.images / seconds:.2f} photos/s"
    if "seconds_alone" not in figures:
        return rows
    alone = figures["seconds_alone"]
    return f"{rows}, {seconds / alone:.2f} x the model alone ({alone:.1f} s)"


def count_flops(size: Size) -> float:
    return caption.count_flops(size)


_SIZES = {
    "full": Size(),
    "small": Size(images=48),
    "tiny": Size(images=5, length=8, image_size=32, hidden_size=32, layers=2, heads=2, width=200, height=150, batch=2),
}

WORKLOAD = Workload(
    name="collection",
    summary="a folder of 500 JPEGs of 12 megapixels to captions, BLIP-base, 384 px, 3 beams, 20 tokens",
    sizes=_SIZES,
    builders={
        OURS: build_job(draft=False),
        "transformers": build_transformers,
        "lavis": build_lavis,
    },
    count_flops=count_flops,
    exact=frozenset({"ids"}),
    describe=describe,
)

DRAFT = Workload(
    name="collection_draft",
    summary="as collection, with draft-mode decoding",
    sizes=_SIZES,
    builders={OURS: build_job(draft=True)},
    count_flops=count_flops,
    describe=describe,
)
