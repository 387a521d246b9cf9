# SPDX-License-Identifier: Apache-2.0
"""Command line: runs each peer in its own process, one after the other, and prints a report."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import plot, report
from benchmarks.runner import MACHINE
from benchmarks.workloads import OURS, WORKLOADS
from benchmarks.workloads.base import ENGINES
from modeling_lavis.plots import save_figure

# By default, glibc's allocator keeps freed blocks of up to 32 MB and fragments them, so that the peak memory of equal
# training steps varies by 10 % between runs, for every peer. It also keeps an arena for each thread, and a loop that is
# measured step by step runs in a thread.
_GLIBC_TUNABLES = f"glibc.malloc.mmap_threshold={16 * 2**20}:glibc.malloc.arena_max=1"

_ROOT = Path(__file__).resolve().parent.parent


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        type=_peer,
        metavar="NAME[=PYTHON]",
        help="a peer to compare with, and the Python that it is installed in (default: this one); may be repeated",
    )
    parser.add_argument(
        "--engine",
        action="append",
        choices=ENGINES,
        help="what runs this project's model: torch (default), or an exported folder; may be repeated for several "
        "rows, the first of which is ours in the ratios",
    )
    parser.add_argument(
        "--exports",
        type=Path,
        metavar="FOLDER",
        help="keep exported models in FOLDER and use those that are there (default: export them for this run)",
    )
    parser.add_argument("--threads", type=_positive, default=os.cpu_count(), help="threads per process")
    parser.add_argument("--repeats", type=_positive, default=3, help="timed runs per peer; the median is reported")
    parser.add_argument("--warmups", type=int, default=1, help="runs before, which are not timed")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="bfloat16 on a CPU adds this project in float32 to the table; LAVIS always runs in float32",
    )
    parser.add_argument("--size", default="full", help="size of the workload; `tiny` only tests that it runs")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for workloads that support it")
    parser.add_argument("--plot", type=plot.plot_file, metavar="FILE", help="draw time and memory, .png or .svg")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all measurements to FILE")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a workload with this project and the given peers.

    Returns:
        0, or 1 if a peer failed: its error is printed, and the other peers still run.
    """
    parser = make_parser()
    options = parser.parse_args(arguments)
    workload = WORKLOADS[options.workload]
    if options.size not in workload.sizes:
        parser.error(f"--size {options.size}: {workload.name} has the sizes {', '.join(workload.sizes)}")
    if options.device != "cpu" and not workload.on_device:
        supported = ", ".join(name for name, other in WORKLOADS.items() if other.on_device)
        parser.error(
            f"--device {options.device}: {workload.name} runs on the CPU only; workloads for other devices: {supported}"
        )
    if set(options.engine or ["torch"]) != {"torch"} and (
        workload.build_exported is None or options.dtype != "float32"
    ):
        supported = ", ".join(name for name, other in WORKLOADS.items() if other.build_exported is not None)
        parser.error(f"--engine {options.engine[0]}: exported models run in float32, in the workloads {supported}")
    for name, _ in options.peer:
        if name == OURS or name not in workload.builders:
            known = sorted(set(workload.builders) - {OURS})
            parser.error(f"--peer {name}: {workload.name} can be compared with {', '.join(known)}")

    results, failures = [], []
    with tempfile.TemporaryDirectory() as folder:
        exports = Path(folder) if options.exports is None else options.exports.resolve()
        for index, (peer, dtype, python, engine) in enumerate(_runs(options)):
            name = report.name_of({"peer": peer, "engine": engine})
            print(f"running {name} in {dtype} ...", file=sys.stderr, flush=True)
            result_folder = Path(folder) / str(index)
            result_folder.mkdir()
            settings = {
                "peer": peer,
                "engine": engine,
                "exports": str(exports),
                "dtype": dtype,
                "device": options.device,
                "workload": workload.name,
                "size": options.size,
                "threads": options.threads,
                "repeats": options.repeats,
                "warmups": options.warmups,
            }
            error = _run_in_fresh_process(python, settings, result_folder)
            if error is None:
                results.append(report.read_result(result_folder))
            else:
                failures.append(name)
                print(f"{name} failed:\n{error}", file=sys.stderr)
    summary = report.summarize(workload, options.size, options.threads, results, options.device)
    print(report.as_table(summary))
    if options.plot is not None and results:
        save_figure(plot.comparison_figure(summary), options.plot)
    if options.json is not None:
        _write_atomically(options.json, summary)
    return 1 if failures else 0


def _runs(options: argparse.Namespace) -> list[tuple[str, str, str, str]]:
    """(peer, dtype, Python, engine) in the order of running."""
    runs = [(MACHINE, options.dtype, sys.executable, "torch")]
    runs += [(OURS, options.dtype, sys.executable, engine) for engine in dict.fromkeys(options.engine or ["torch"])]
    if options.dtype != "float32" and options.device == "cpu":
        runs.append((OURS, "float32", sys.executable, "torch"))
    for name, python in options.peer:
        runs.append((name, "float32" if name == "lavis" else options.dtype, python, "torch"))
    return runs


def _run_in_fresh_process(python: str, settings: dict[str, Any], folder: Path) -> str | None:
    """Return the end of standard error if the process failed, else None."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {
        "PYTHONPATH": str(_ROOT),
        "OMP_NUM_THREADS": str(settings["threads"]),
        "MKL_NUM_THREADS": str(settings["threads"]),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if WORKLOADS[settings["workload"]].trains:
        environment["GLIBC_TUNABLES"] = _GLIBC_TUNABLES
    command = [python, "-W", "ignore", "-m", "benchmarks.runner", json.dumps(settings), str(folder)]
    try:
        process = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    except OSError as error:
        return f"cannot start {python}: {error}"
    return None if process.returncode == 0 else process.stderr[-4000:]


def _write_atomically(path: Path, summary: dict[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _peer(text: str) -> tuple[str, str]:
    name, _, python = text.partition("=")
    return name, python or sys.executable


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number
