# SPDX-License-Identifier: Apache-2.0
"""Summary of the measurements: ratios, comparison of outputs, and a table."""

import json
import platform
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.runner import MACHINE
from benchmarks.workloads import OURS, Workload
from benchmarks.workloads.base import Rates


def read_result(folder: Path) -> dict[str, Any]:
    """Read the files that `benchmarks.runner` wrote; tensors are under `outputs`."""
    result = json.loads((folder / "result.json").read_text())
    outputs = folder / "outputs.pt"
    result["outputs"] = torch.load(outputs, weights_only=True) if outputs.exists() else {}
    return result


def name_of(run: dict[str, Any]) -> str:
    """Name of a run and of its row: the peer, and the engine that runs its exported model."""
    engine = run.get("engine", "torch")
    return run["peer"] if engine == "torch" else f"{run['peer']} ({engine})"


def summarize(
    workload: Workload, size: str, threads: int, results: list[dict[str, Any]], device: str = "cpu"
) -> dict[str, Any]:
    """All reported values, serializable as JSON.

    Ratios are a peer's value over this project's: above 1, this project is faster or needs less memory. The floor is
    the time of the unavoidable operations at the machine's rate of matrix products.
    """
    machine = next((result for result in results if result["peer"] == MACHINE), {})
    rates = Rates(machine.get("flops_per_second"), machine.get("bytes_per_second"))
    measured = [result for result in results if result["peer"] != MACHINE]
    ours = next((result for result in measured if result["peer"] == OURS), None)
    operations = workload.count_flops(workload.sizes[size])
    floor = operations / rates.flops if rates.flops else None
    return {
        "workload": workload.name,
        "summary": workload.summary,
        "size": size,
        "threads": threads,
        "machine": {"processor": _processor(device), "system": platform.platform()},
        "flops": operations,
        "flops_per_second": rates.flops,
        "bytes_per_second": rates.bytes,
        "floor_seconds": floor,
        "peers": [
            {**_row(result, ours, floor, workload), "notes": _notes(result, workload, size, rates)}
            for result in measured
        ],
    }


def _notes(result: dict[str, Any], workload: Workload, size: str, rates: Rates) -> str:
    if workload.describe is None:
        return ""
    seconds, bytes_per_number = statistics.median(result["seconds"]), getattr(torch, result["dtype"]).itemsize
    return workload.describe(workload.sizes[size], seconds, result.get("figures", {}), bytes_per_number, rates)


def _row(
    result: dict[str, Any], ours: dict[str, Any] | None, floor: float | None, workload: Workload
) -> dict[str, Any]:
    median = statistics.median(result["seconds"])
    row = {
        "peer": name_of(result),
        "dtype": result["dtype"],
        "median_seconds": median,
        "seconds": result["seconds"],
        "median_processor_seconds": statistics.median(result["processor_seconds"]),
        "processor_seconds": result["processor_seconds"],
        "peak_bytes": result["peak_bytes"],
        "peak_while_loading_bytes": result["peak_while_loading_bytes"],
        "peak_includes_loading": result["peak_includes_loading"],
        "versions": result["versions"],
        # the rate was measured in the dtype of the first row
        "times_floor": median / floor if floor and ours and result["dtype"] == ours["dtype"] else None,
    }
    if ours is not None and result is not ours:
        row["time_ratio"] = median / statistics.median(ours["seconds"])
        row["processor_ratio"] = row["median_processor_seconds"] / statistics.median(ours["processor_seconds"])
        row["memory_ratio"] = result["peak_bytes"] / ours["peak_bytes"]
        row["agreement"] = compare(ours["outputs"], result["outputs"], workload.exact)
    return row


def compare(
    ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], exact: frozenset[str]
) -> dict[str, str | float]:
    """For each common output, the share of equal entries if it must be equal, else the largest difference."""
    agreement: dict[str, str | float] = {}
    for name in ours.keys() & theirs.keys():
        left, right = ours[name], theirs[name]
        if left.shape != right.shape:
            agreement[name] = f"shapes {tuple(left.shape)} and {tuple(right.shape)}"
        elif name in exact:
            equal = int((left == right).sum())
            agreement[name] = "equal" if equal == left.numel() else f"{equal} of {left.numel()} equal"
        else:
            agreement[name] = float((left.double() - right.double()).abs().max())
    return agreement


def as_table(summary: dict[str, Any]) -> str:
    """A Markdown table with heading and floor."""
    lines = [
        f"### {summary['workload']}: {summary['summary']}"
        + (f" (size: {summary['size']})" if summary["size"] != "full" else ""),
        "",
        f"{summary['threads']} threads, {summary['machine']['processor']}",
        "",
        "| peer | dtype | median s | CPU s | peak MB | time / ours | CPU / ours | memory / ours | / floor | results |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in summary["peers"]:
        cells = [
            row["peer"],
            row["dtype"],
            f"{row['median_seconds']:.3f}",
            f"{row['median_processor_seconds']:.3f}",
            f"{row['peak_bytes'] / 1e6:.0f}",
            _times(row.get("time_ratio")),
            _times(row.get("processor_ratio")),
            _times(row.get("memory_ratio")),
            _times(row.get("times_floor")),
            ", ".join(f"{name} {_agreement(value)}" for name, value in sorted(row.get("agreement", {}).items())),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if any(row["notes"] for row in summary["peers"]):
        lines += ["", *(f"- {row['peer']} in {row['dtype']}: {row['notes']}" for row in summary["peers"])]
    if summary["floor_seconds"] is not None:
        lines += [
            "",
            f"Floor: {summary['flops'] / 1e9:.0f} GFLOP at {summary['flops_per_second'] / 1e9:.0f} GFLOP/s "
            f"take {summary['floor_seconds']:.3f} s.",
        ]
    return "\n".join(lines)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f} x"


def _agreement(value: str | float) -> str:
    return value if isinstance(value, str) else f"within {value:.1e}"


def _processor(device: str = "cpu") -> str:
    if device != "cpu":
        return f"{torch.cuda.get_device_name(device)}, {_processor()}"
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
