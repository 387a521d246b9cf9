# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the retrieval engine against the size of the collection: measured, computed beyond, and plotted.

    python -m benchmarks.retrieval_scale --model small --images 50 100 200 400 --plot retrieval.png

Every size is measured in a fresh process: ALBEF with random weights and images, five captions per image. The times of
other sizes are computed from the operations that each stage cannot avoid, at the rate at which the largest measured
size did them; the memory from what is kept, added to the rest of the smallest measured size.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import measure, weights
from benchmarks.plot import plot_file
from benchmarks.workloads.retrieval import PADDED, Size, count_pairs, count_stages, make_texts, padded
from modeling_lavis.plots.figure import COLORS, in_style, new_figure, save_figure

TEXTS_PER_IMAGE = 5
BATCH_SIZE = 32
SIZES = {
    "full": Size(candidates=128),
    "small": Size(candidates=128, image_size=64, hidden_size=96, layers=4, heads=4, projection_dim=64),
    "tiny": Size(candidates=4, image_size=32, hidden_size=32, layers=2, heads=2, projection_dim=16),
}
STAGES = ("texts", "images", "candidates", "pairs")
#: bytes for a candidate: its index and similarity, the key of its pair in three lists, and its score
_BYTES_PER_CANDIDATE = 12 + 3 * 8 + 20
_ROOT = Path(__file__).resolve().parent.parent


class RandomImages:
    """Images that are drawn when they are loaded, so that the collection needs no memory."""

    def __init__(self, count: int, image_size: int) -> None:
        self._count = count
        self._image_size = image_size

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        return torch.stack([torch.randn(3, self._image_size, self._image_size, generator=g) for g in generators])


def sized(model: str, images: int) -> Size:
    """A model with a collection of some images."""
    return replace(SIZES[model], images=images, texts=TEXTS_PER_IMAGE * images)


def run(model: str, images: int, threads: int, budget: int) -> dict[str, Any]:
    """Measure one size in this process: seconds by stage, number of pairs and peak memory."""
    from benchmarks.our_parts import albef_config
    from modeling_lavis import AlbefForImageTextRetrieval
    from modeling_lavis.evaluation.engine import RetrievalEngine

    torch.set_num_threads(threads)
    size = sized(model, images)
    head = AlbefForImageTextRetrieval(albef_config(size, use_momentum=False))
    weights.fill(head, weights.FROM_OURS)
    texts = padded(make_texts(size), PADDED)
    engine = RetrievalEngine(
        head.eval(), k=size.candidates, batch_size=BATCH_SIZE, memory_budget=budget, progress=False
    )
    engine.run(RandomImages(2, size.image_size), {name: values[:8] for name, values in texts.items()})  # warm
    measure.reset_peak()
    result = engine.run(RandomImages(images, size.image_size), texts)
    return {
        "images": images,
        "texts": size.texts,
        "pairs": result.num_pairs,
        "seconds": result.seconds,
        "peak_bytes": measure.peak_bytes(),
    }


def text_state_bytes(size: Size, budget: int) -> int:
    """Bytes of the hidden states of all texts in memory; 0 if they exceed the budget."""
    states = 4 * size.hidden_size * sum(len(text) for text in make_texts(size))
    return states if states <= budget else 0


def image_state_bytes(size: Size, budget: int) -> tuple[int, int]:
    """Bytes of the hidden states of images in memory, by whole groups, and of all images."""
    each = 4 * size.hidden_size * ((size.image_size // 16) ** 2 + 1)
    left = budget - text_state_bytes(size, budget)
    return min(each * size.images, left // (each * BATCH_SIZE) * each * BATCH_SIZE), each * size.images


def kept_bytes(size: Size, budget: int) -> float:
    """Bytes that grow with the collection: hidden states within the budget, features, candidates and pairs."""
    features = 2 * 4 * size.projection_dim * (size.images + size.texts)
    candidates = size.images * min(size.candidates, size.texts) + size.texts * min(size.candidates, size.images)
    inputs = 2 * 8 * PADDED * size.texts
    states = text_state_bytes(size, budget) + image_state_bytes(size, budget)[0]
    return states + features + _BYTES_PER_CANDIDATE * candidates + inputs + 3 * 8 * count_pairs(size)


def encoded_again(size: Size, budget: int) -> float:
    """Share of the images that are encoded a second time."""
    kept, all_images = image_state_bytes(size, budget)
    return 1 - kept / all_images


def predict(model: str, measured: list[dict[str, Any]], images: Sequence[int], budget: int) -> list[dict[str, Any]]:
    """Seconds by stage and peak memory of some sizes, from those that were measured."""
    largest, smallest = measured[-1], measured[0]
    work = _work(sized(model, largest["images"]), budget)
    rates = {stage: work[stage] / largest["seconds"][stage] for stage in STAGES}
    rest = smallest["peak_bytes"] - kept_bytes(sized(model, smallest["images"]), budget)
    rows = []
    for count in images:
        size = sized(model, count)
        seconds = {stage: amount / rates[stage] for stage, amount in _work(size, budget).items()}
        peak = rest + kept_bytes(size, budget)
        rows.append(
            {"images": count, "texts": size.texts, "pairs": count_pairs(size), "seconds": seconds, "peak_bytes": peak}
        )
    return rows


def _work(size: Size, budget: int) -> dict[str, float]:
    work = count_stages(size)
    work["pairs"] += encoded_again(size, budget) * work["images"]
    return work


def as_table(measured: list[dict[str, Any]], computed: list[dict[str, Any]]) -> str:
    """Markdown: each size with what was measured and what is computed."""
    found = {row["images"]: row for row in measured}
    heads = ["images x texts", "pairs", *(f"{stage} s" for stage in STAGES), "all s", "computed", "peak MB", "computed"]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for row in computed:
        real = found.get(row["images"])
        stages = (real or row)["seconds"]
        total, expected = (f"{sum(part['seconds'].values()):.1f}" if part else "" for part in (real, row))
        peak, expected_peak = (f"{part['peak_bytes'] / 1e6:.0f}" if part else "" for part in (real, row))
        cells = [f"{row['images']} x {row['texts']}", f"{(real or row)['pairs']:.0f}"]
        cells += [f"{stages[stage]:.2f}" for stage in STAGES] + [total, expected, peak, expected_peak]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@in_style
def scale_figure(measured: list[dict[str, Any]], computed: list[dict[str, Any]]) -> Any:
    """Draw time and memory over the number of images, measured and computed."""
    figure = new_figure(3.4)
    values = {
        "seconds": lambda row: sum(row["seconds"].values()),
        "peak memory, MB": lambda row: row["peak_bytes"] / 1e6,
    }
    for axis, (name, value) in zip(figure.subplots(1, 2), values.items(), strict=True):
        axis.plot([row["images"] for row in computed], [value(row) for row in computed], COLORS[0], label="computed")
        points = [row["images"] for row in measured], [value(row) for row in measured]
        axis.plot(*points, "o", color=COLORS[1], label="measured")
        axis.set(
            xscale="log",
            yscale="log" if name == "seconds" else "linear",
            xlabel=f"images ({TEXTS_PER_IMAGE} texts each)",
            ylabel=name,
        )
        axis.grid(True, which="both")
        axis.legend()
    return figure


def measure_in_fresh_process(model: str, images: int, threads: int, budget: int) -> dict[str, Any]:
    """[`run`] in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    settings = json.dumps([model, images, threads, budget])
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.retrieval_scale", "--run", settings]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{images} images failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, compute, print the table, and write plot and numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval_scale", description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(SIZES), default="small")
    parser.add_argument("--images", type=int, nargs="+", default=[50, 100, 200, 400, 800], help="sizes to measure")
    parser.add_argument(
        "--compute", type=int, nargs="+", default=[1600, 3200, 5000], help="further sizes, which are computed only"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of a process")
    parser.add_argument("--memory-budget", type=int, default=4 * 2**30, help="bytes of hidden states in memory")
    parser.add_argument("--plot", type=plot_file, metavar="FILE", help="draw measured and computed sizes, .png or .svg")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run is not None:
        print(json.dumps(run(*json.loads(options.run))))
        return 0
    measured = []
    for images in sorted(options.images):
        print(f"{images} x {TEXTS_PER_IMAGE * images} ...", file=sys.stderr, flush=True)
        measured.append(measure_in_fresh_process(options.model, images, options.threads, options.memory_budget))
    every = sorted({*options.images, *options.compute})
    computed = predict(options.model, measured, every, options.memory_budget)
    print(as_table(measured, computed))
    if options.plot is not None:
        save_figure(scale_figure(measured, computed), options.plot)
    if options.json is not None:
        partial = options.json.with_name(f"{options.json.name}.tmp")
        partial.write_text(json.dumps({"measured": measured, "computed": computed}, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
