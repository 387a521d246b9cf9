# SPDX-License-Identifier: Apache-2.0
"""Size, seconds and quality of exported models with weights in float32, float16 and int8, beside torch.

    python -m benchmarks.smaller_weights --data FOLDER --work FOLDER

The embedded model is measured on the val part of FOLDER, images with one caption each, as `load_data` reads them:
recall at 1 among all of them by cosine, in both directions, and captions that are equal to the given ones, with 3
beams. Size and seconds are also those of a BLIP-base captioner with random weights.

Each measurement has a process of its own. Exported folders and results are kept in --work and are not made again, so
that the measurements can be spread over several calls with --models and --variants.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import measure
from modeling_lavis.files import whole_file

#: engine and weights of each row
VARIANTS = {
    f"{engine}-{weights}": (engine, weights)
    for engine, choices in (
        ("torch", ("float32", "bfloat16")),
        ("onnx", ("float32", "float16", "int8")),
        ("openvino", ("float32", "float16", "int8")),
    )
    for weights in choices
}
IMAGES, LENGTH = 4, 20
_WEIGHT_FILES = (".onnx", ".data", ".xml", ".bin", ".safetensors")


def embedded_model(folder: Path) -> Path:
    """Folder of the embedded model."""
    from modeling_lavis.embedded import embedded_model_path

    return Path(embedded_model_path())


def base_captioner(folder: Path) -> Path:
    """Write a BLIP-base captioner with random weights, unless the folder has it."""
    from benchmarks.workloads.caption import Size, our_model
    from benchmarks.workloads.collection import blip_processor
    from modeling_lavis.hub.writing import atomic_folder

    source = folder / "base"
    if not source.exists():
        with atomic_folder(source) as partial:
            blip_processor(Size()).save_pretrained(partial)
            our_model(Size()).save_pretrained(partial)
    return source


MODELS: dict[str, Callable[[Path], Path]] = {"embedded": embedded_model, "base": base_captioner}


def exported(model: str, variant: str, work: Path) -> Path:
    """Folder of a variant, which is exported unless it is there."""
    from modeling_lavis.export import export_model

    engine, weights = VARIANTS[variant]
    source, folder = MODELS[model](work), work / f"{model}-{variant}"
    if engine == "torch":
        return source
    return folder if folder.exists() else export_model(source, folder, engine, weights=weights)


def load(folder: Path, variant: str, threads: int) -> tuple[Any, Any]:
    """Model and processor."""
    import torch
    from transformers import AutoProcessor

    from modeling_lavis.pipelines.loading import CheckpointHead

    torch.set_num_threads(threads)
    engine, weights = VARIANTS[variant]
    options = {"dtype": getattr(torch, weights)} if engine == "torch" else {}
    return CheckpointHead.from_pretrained(folder, **options).eval(), AutoProcessor.from_pretrained(folder)


def bytes_of(folder: Path, weights: str) -> int:
    """Bytes of the graphs and weights in a folder; those of a torch model in bfloat16 are half of its file."""
    size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in _WEIGHT_FILES)
    return size // 2 if weights == "bfloat16" else size


def speed(folder: Path, variant: str, threads: int, repeats: int) -> dict[str, float]:
    """Size, memory, and seconds of image features and captions of 4 images of noise."""
    import torch

    from benchmarks.workloads.caption import make_pixels

    started = time.perf_counter()
    model, _ = load(folder, variant, threads)
    pixels = make_pixels(IMAGES, model.config.vision_config.image_size).to(model.dtype)

    def captions(beams: int) -> Any:
        return model.generate(
            pixel_values=pixels, num_beams=beams, do_sample=False, max_length=LENGTH, min_length=LENGTH
        )

    runs = {
        "encode_s": lambda: model.encode_images(pixels),
        "greedy_s": lambda: captions(1),
        "beams_s": lambda: captions(3),
    }
    with torch.inference_mode():
        captions(1)
        found = {"first_s": time.perf_counter() - started}
        for name, run in runs.items():
            timing = measure.timed(run, repeats=repeats, warmups=1)
            found[name] = statistics.median(timing.seconds)
            found[f"cpu_{name}"] = statistics.median(timing.processor_seconds)
    size = bytes_of(folder, VARIANTS[variant][1])
    return {"size_mb": size / 1e6, "peak_mb": measure.peak_bytes() / 1e6, **found}


def quality(folder: Path, variant: str, threads: int, data: Path) -> dict[str, Any]:
    """Recall at 1 and exact captions in percent, and the captions."""
    from modeling_lavis import load_data
    from modeling_lavis.evaluation.tasks import evaluate

    model, processor = load(folder, variant, threads)
    recall = evaluate("retrieval", model, processor, load_data(data, "retrieval", split="val"), rerank=False)
    captions = evaluate(
        "captioning",
        model,
        processor,
        load_data(data, "captioning", split="val"),
        generation_options={"num_beams": 3},
        return_predictions=True,
    )
    return {
        "text_recall": recall["text_recall@1"],
        "image_recall": recall["image_recall@1"],
        "exact": 100 * captions.metrics["exact_match"],
        "captions": [row["caption"] for row in captions.predictions],
    }


def kept(path: Path, make: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a function returns in a process of its own, from a file if it was made before."""
    if not path.exists():
        print(f"{path.stem} ...", file=sys.stderr, flush=True)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(make, *arguments).result()
        with whole_file(path) as partial:
            partial.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def speed_table(rows: dict[str, dict[str, float]]) -> str:
    """Sizes and seconds in Markdown; seconds of the processor, which other programs hardly change, in parentheses."""
    lines = [
        "| engine and weights | MB | peak MB | first captions s | image features s | greedy s | 3 beams s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        cells = [name.replace("-", " "), f"{row['size_mb']:.1f}", f"{row['peak_mb']:.0f}", f"{row['first_s']:.3g}"]
        cells += [f"{row[key]:.3g} ({row[f'cpu_{key}']:.3g})" for key in ("encode_s", "greedy_s", "beams_s")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def quality_table(rows: dict[str, dict[str, Any]]) -> str:
    """Quality in Markdown; captions are compared with those of the first row."""
    lines = [
        "| engine and weights | R@1 image to text | R@1 text to image | exact captions | as in the first row |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    first = next(iter(rows.values()))["captions"]
    for name, row in rows.items():
        equal = sum(caption == other for caption, other in zip(row["captions"], first, strict=True))
        percent = " | ".join(f"{row[key]:.1f} %" for key in ("text_recall", "image_recall", "exact"))
        lines.append(f"| {name.replace('-', ' ')} | {percent} | {equal} of {len(first)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.smaller_weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="images with captions, with a val part")
    parser.add_argument("--work", type=Path, required=True, help="folder for exported models and results (8 GB)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs; the median is reported")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        parser.error(f"There is no folder {options.data}; --data takes images with captions, with a val part.")
    options.work.mkdir(parents=True, exist_ok=True)
    for model in options.models:
        speeds, qualities = {}, {}
        for variant in options.variants:
            folder = exported(model, variant, options.work)
            file = options.work / f"{model}-{variant}"
            speeds[variant] = kept(
                file.with_suffix(".speed.json"), speed, folder, variant, options.threads, options.repeats
            )
            if model == "embedded":
                qualities[variant] = kept(
                    file.with_suffix(".quality.json"), quality, folder, variant, options.threads, options.data
                )
        print(f"{model}, {IMAGES} images, captions of {LENGTH} tokens\n\n{speed_table(speeds)}\n")
        if qualities:
            print(f"{quality_table(qualities)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
