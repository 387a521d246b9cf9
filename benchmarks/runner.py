# SPDX-License-Identifier: Apache-2.0
"""Runs a workload with one peer in this process and writes the measurements into a folder.

`benchmarks.cli` starts it in the peer's Python as `python -m benchmarks.runner`, with the settings as a JSON argument.
The peer `machine` measures the rates of matrix products and of reading memory instead.
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
    """Measure, and write `result.json` and, for a peer, `outputs.pt`.

    Args:
        settings: `peer`, `engine`, `exports`, `workload`, `size`, `dtype`, `device`, `threads`, `repeats`, `warmups`.
        folder: existing folder for the results of this run.
    """
    torch.set_num_threads(settings["threads"])
    dtype, device = getattr(torch, settings["dtype"]), torch.device(settings["device"])
    result: dict[str, Any] = {name: settings[name] for name in ("peer", "engine", "dtype")}
    if settings["peer"] == MACHINE:
        result["flops_per_second"] = measure.matmul_rate(dtype, device)
        result["bytes_per_second"] = measure.read_rate(device)
    else:
        workload = WORKLOADS[settings["workload"]]
        size = workload.sizes[settings["size"]]
        # outside of inference mode, in which parameters would be inference tensors
        if settings["engine"] != "torch":
            assert workload.build_exported is not None
            run_workload = workload.build_exported(size, settings["engine"], Path(settings["exports"]))
        else:
            device_argument = (device,) if workload.on_device else ()
            run_workload = workload.builders[settings["peer"]](size, dtype, *device_argument)
        peak_while_loading = measure.peak_bytes(device)
        was_reset = measure.reset_peak(device)
        with torch.inference_mode(not workload.trains):
            timing = measure.timed(run_workload, repeats=settings["repeats"], warmups=settings["warmups"])
        result["seconds"] = timing.seconds
        result["processor_seconds"] = timing.processor_seconds
        result["peak_bytes"] = measure.peak_bytes(device)
        result["peak_while_loading_bytes"] = peak_while_loading
        result["peak_includes_loading"] = not was_reset
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
