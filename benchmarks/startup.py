# SPDX-License-Identifier: Apache-2.0
"""Seconds from the shell to the caption of one image, beside those of importing torch and transformers alone, and of
importing the model and the processor of transformers' BLIP, which caption nothing yet.

    python -m benchmarks.startup [--repeats N] [--threads N] [IMAGE]

Each run is a process of its own; they take turns, so that the load of the machine meets all.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_IMAGE = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "processors" / "images" / "chelsea.png"
_IMPORTS = "import torch, transformers"
_CLASSES = "from transformers import BlipForConditionalGeneration, BlipProcessor"
_CAPTION = "import sys; from modeling_lavis.cli.main import main; sys.exit(main(sys.argv[1:]))"


def seconds_of(code: str, *arguments: str, threads: int = 2) -> float:
    """Seconds of a Python process; `subprocess.CalledProcessError` if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def measure(image: str, repeats: int, threads: int) -> dict[str, float]:
    """Median seconds of the imports, of the classes and of the caption, after one run of each that is not timed."""
    runs = {"imports": (_IMPORTS,), "classes": (_CLASSES,), "caption": (_CAPTION, "caption", image)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(1 + repeats):
        for name, run in runs.items():
            seconds[name].append(seconds_of(*run, threads=threads))
    return {name: statistics.median(measured[1:]) for name, measured in seconds.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("image", nargs="?", default=str(_IMAGE), help="an image (one of the tests)")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs; the median is reported")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads per process")
    options = parser.parse_args(arguments)
    seconds = measure(options.image, options.repeats, options.threads)
    names = {
        "imports": f"`{_IMPORTS}`",
        "classes": f"`{_CLASSES}`",
        "caption": "`modeling-lavis caption`, embedded model",
    }
    print("| from the shell | median s | / imports |")
    print("| --- | ---: | ---: |")
    for name, what in names.items():
        print(f"| {what} | {seconds[name]:.2f} | {seconds[name] / seconds['imports']:.2f} x |")


if __name__ == "__main__":
    main()
