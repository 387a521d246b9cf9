# SPDX-License-Identifier: Apache-2.0
"""Seconds from the shell to the caption of one image, beside those of importing torch and transformers alone.

    python -m benchmarks.startup [--repeats N] [--threads N] [IMAGE]

Each run is a process of its own; the two take turns, so that the load of the machine meets both.
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
_CAPTION = "import sys; from modeling_lavis.cli.main import main; sys.exit(main(sys.argv[1:]))"


def seconds_of(code: str, *arguments: str, threads: int = 2) -> float:
    """Seconds of a Python process; `subprocess.CalledProcessError` if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def measure(image: str, repeats: int, threads: int) -> tuple[float, float]:
    """Median seconds of the imports and of the caption, after one run of each that is not timed."""
    runs = ((_IMPORTS,), (_CAPTION, "caption", image))
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(1 + repeats):
        for measured, run in zip(seconds, runs):
            measured.append(seconds_of(*run, threads=threads))
    imports, caption = (statistics.median(measured[1:]) for measured in seconds)
    return imports, caption


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("image", nargs="?", default=str(_IMAGE), help="an image (one of the tests)")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs; the median is reported")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads per process")
    options = parser.parse_args(arguments)
    imports, caption = measure(options.image, options.repeats, options.threads)
    print("| from the shell | median s | / imports |")
    print("| --- | ---: | ---: |")
    print(f"| `{_IMPORTS}` | {imports:.2f} | |")
    print(f"| `modeling-lavis caption`, embedded model | {caption:.2f} | {caption / imports:.2f} x |")


if __name__ == "__main__":
    main()
