# SPDX-License-Identifier: Apache-2.0
"""The command line: starts each peer in a process of its own, one after the other, and reports."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.runner import MACHINE
from benchmarks.workloads import OURS, WORKLOADS

# Left alone, the allocator of the C library keeps freed blocks of up to 32 MB and fills the gaps badly: the high-water
# mark of one and the same training step then differs by 10 % from run to run, whoever's step it is.
_LARGE_BLOCKS_GO_BACK = f"glibc.malloc.mmap_threshold={16 * 2**20}"

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
        help="a peer to compare with, and the Python that has it (default: this one); may be repeated",
    )
    parser.add_argument("--threads", type=_positive, default=os.cpu_count(), help="threads of each process")
    parser.add_argument("--repeats", type=_positive, default=3, help="timed runs per peer; the median counts")
    parser.add_argument("--warmups", type=int, default=1, help="runs before them that are not timed")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="bfloat16 adds this project in float32 to the table on a CPU; LAVIS is always run in float32",
    )
    parser.add_argument("--size", default="full", help="`tiny` only shows that everything runs")
    parser.add_argument("--device", default="cpu", help="an accelerator, for workloads that can be run on one: cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured to FILE")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a workload for this project and the chosen peers.

    Returns:
        0, or 1 if a peer failed; its error is printed, and the others are run and reported all the same.
    """
    parser = make_parser()
    options = parser.parse_args(arguments)
    workload = WORKLOADS[options.workload]
    if options.size not in workload.sizes:
        parser.error(f"--size {options.size}: {workload.name} has the sizes {', '.join(workload.sizes)}")
    if options.device != "cpu" and not workload.on_device:
        able = ", ".join(name for name, other in WORKLOADS.items() if other.on_device)
        parser.error(f"--device {options.device}: {workload.name} is run on the CPU; on devices there is {able}")
    for name, _ in options.peer:
        if name == OURS or name not in workload.builders:
            known = sorted(set(workload.builders) - {OURS})
            parser.error(f"--peer {name}: {workload.name} can be compared with {', '.join(known)}")

    results, failures = [], []
    with tempfile.TemporaryDirectory() as folder:
        for index, (peer, dtype, python) in enumerate(_turns(options)):
            print(f"running {peer} in {dtype} ...", file=sys.stderr, flush=True)
            place = Path(folder) / str(index)
            place.mkdir()
            settings = {
                "peer": peer,
                "dtype": dtype,
                "device": options.device,
                "workload": workload.name,
                "size": options.size,
                "threads": options.threads,
                "repeats": options.repeats,
                "warmups": options.warmups,
            }
            error = _run_in_fresh_process(python, settings, place)
            if error is None:
                results.append(report.read_result(place))
            else:
                failures.append(peer)
                print(f"{peer} failed:\n{error}", file=sys.stderr)
    summary = report.summarise(workload, options.size, options.threads, results, options.device)
    print(report.as_table(summary))
    if options.json is not None:
        _write_whole(options.json, summary)
    return 1 if failures else 0


def _turns(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """(peer, dtype, Python) in the order in which they run."""
    turns = [(MACHINE, options.dtype, sys.executable), (OURS, options.dtype, sys.executable)]
    if options.dtype != "float32" and options.device == "cpu":
        turns.append((OURS, "float32", sys.executable))
    for name, python in options.peer:
        turns.append((name, "float32" if name == "lavis" else options.dtype, python))
    return turns


def _run_in_fresh_process(python: str, settings: dict[str, Any], folder: Path) -> str | None:
    """Returns the end of what the process wrote to standard error if it failed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {
        "PYTHONPATH": str(_ROOT),
        "OMP_NUM_THREADS": str(settings["threads"]),
        "MKL_NUM_THREADS": str(settings["threads"]),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if WORKLOADS[settings["workload"]].trains:
        environment["GLIBC_TUNABLES"] = _LARGE_BLOCKS_GO_BACK
    command = [python, "-W", "ignore", "-m", "benchmarks.runner", json.dumps(settings), str(folder)]
    try:
        process = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    except OSError as error:
        return f"cannot start {python}: {error}"
    return None if process.returncode == 0 else process.stderr[-4000:]


def _write_whole(path: Path, summary: dict[str, Any]) -> None:
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
