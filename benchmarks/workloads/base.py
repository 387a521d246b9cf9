# SPDX-License-Identifier: Apache-2.0
"""Definition of a workload: inputs, one builder per peer, and the number of unavoidable operations.

The Python of every peer imports all workloads, including LAVIS's old environment. So the files import only torch and
`benchmarks` at the top; each builder imports its peer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

OURS = "modeling_lavis"
ENGINES = ("torch", "onnx", "openvino")

Tensors = dict[str, torch.Tensor]
# Runs the workload once and returns its outputs. Only this call is timed.
Run = Callable[[], Tensors]
# Builds models and inputs for one peer: (size, dtype) -> Run, or (size, dtype, device) -> Run.
Builder = Callable[..., Run]


class Rates(NamedTuple):
    """What the machine reaches, if it was measured: floating-point operations and bytes of memory per second."""

    flops: float | None = None
    bytes: float | None = None


@dataclass(frozen=True)
class Workload:
    """A timed task.

    Args:
        name: name on the command line.
        summary: heading of the table.
        sizes: sizes by name; `"full"` is measured, `"tiny"` is for tests.
        builders: name of the peer -> builder; must contain `OURS`.
        count_flops: floating-point operations of one run of a size, without repeated work.
        trains: whether gradients are computed.
        exact: names of outputs that must be equal (ids, ranks); others are compared by their largest difference.
            Outputs whose names start with `seconds` are measurements, which are passed to `describe`.
        on_device: whether the workload supports accelerators; its builders take the device as well.
        build_exported: (size, format, folder) -> Run of this project with an exported model, which is written into
            the folder if it is not there yet.
        describe: (size, median seconds, medians of the measurements, bytes per number, rates of the machine) -> notes
            below the table.
    """

    name: str
    summary: str
    sizes: Mapping[str, Any]
    builders: Mapping[str, Builder]
    count_flops: Callable[[Any], float]
    exact: frozenset[str] = frozenset()
    trains: bool = False
    on_device: bool = False
    build_exported: Callable[[Any, str, Path], Run] | None = None
    describe: Callable[[Any, float, dict[str, float], int, Rates], str] | None = None
