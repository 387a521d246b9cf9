# SPDX-License-Identifier: Apache-2.0
"""Runs one peer on one workload in this process and writes what it measured into a folder.

Started by `benchmarks.cli` in the peer's own Python as `python -m benchmarks.runner`. The settings come as one JSON
argument. The peer `machine` measures the rate of matrix products instead.
"""

import json
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure
from benchmarks.workloads import WORKLOADS

MACHINE = "machine"


def run(settings: dict[str, Any], folder: Path) -> None:
    """Measure, then write `result.json` and, for a peer, `outputs.pt`.

    Args:
        settings: `peer`, `workload`, `size`, `dtype`, `device`, `threads`, `repeats`, `warmups`.
        folder: an existing folder of this run's own.
    """
    torch.set_num_threads(settings["threads"])
    dtype, device = getattr(torch, settings["dtype"]), torch.device(settings["device"])
    result: dict[str, Any] = {"peer": settings["peer"], "dtype": settings["dtype"]}
    if settings["peer"] == MACHINE:
        result["flops_per_second"] = measure.matmul_rate(dtype, device)
        result["bytes_per_second"] = measure.read_rate(device)
    else:
        workload = WORKLOADS[settings["workload"]]
        size = workload.sizes[settings["size"]]
        # Outside, as anybody loads a model: weights that are born in inference mode are tensors of another kind.
        place = (device,) if workload.on_device else ()
        work = workload.builders[settings["peer"]](size, dtype, *place)
        loaded = measure.peak_bytes(device)
        mark_is_new = measure.reset_peak(device)
        with torch.inference_mode(not workload.trains):
            timing = measure.timed(work, repeats=settings["repeats"], warmups=settings["warmups"])
        result["seconds"] = timing.seconds
        result["processor_seconds"] = timing.processor_seconds
        result["peak_bytes"] = measure.peak_bytes(device)
        result["peak_while_loading_bytes"] = loaded
        result["peak_includes_loading"] = not mark_is_new
        found = {name: value.detach().cpu() for name, value in timing.result.items()}
        measured = [name for name in found if name.startswith("seconds")]
        result["figures"] = {
            name: statistics.median(float(outputs[name]) for outputs in timing.results) for name in measured
        }
        torch.save({name: value for name, value in found.items() if name not in measured}, folder / "outputs.pt")
    result["versions"] = _versions()
    (folder / "result.json").write_text(json.dumps(result))


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("transformers", "modeling_lavis"):
        if name in sys.modules:
            versions[name] = sys.modules[name].__version__
    return versions


if __name__ == "__main__":
    run(json.loads(sys.argv[1]), Path(sys.argv[2]))
