# SPDX-License-Identifier: Apache-2.0
"""What a workload is: inputs, one builder per peer, and a count of the operations that cannot be avoided.

A workload file is imported in the Python of every peer, LAVIS's own old environment included. So it imports nothing
but torch and `benchmarks` at its top; each builder imports its peer inside.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

OURS = "modeling_lavis"

Tensors = dict[str, torch.Tensor]
# Runs the workload once and returns what it found. Only this call is timed.
Run = Callable[[], Tensors]
# Builds models and inputs for one peer: (size, dtype) -> Run, or (size, dtype, device) -> Run.
Builder = Callable[..., Run]


@dataclass(frozen=True)
class Workload:
    """One task to be timed.

    Args:
        name: name on the command line.
        summary: one line for the table's heading.
        sizes: settings by name; `"full"` is what is measured, `"tiny"` what tests run.
        builders: peer name -> builder; must have `OURS`.
        count_flops: floating-point operations of one run at a size, each piece of work counted once.
        trains: whether gradients are needed.
        exact: names of outputs that must be equal (ids, ranks); the others are compared by their largest difference.
            An output whose name begins with `seconds` is a measurement; it is not compared but handed to `describe`.
        on_device: whether it can be run on an accelerator; its builders take the device as well.
        describe: (size, median seconds, medians of the measurements, bytes per number, bytes per second that the
            machine reads, if known) -> a text for the table.
    """

    name: str
    summary: str
    sizes: Mapping[str, Any]
    builders: Mapping[str, Builder]
    count_flops: Callable[[Any], float]
    exact: frozenset[str] = frozenset()
    trains: bool = False
    on_device: bool = False
    describe: Callable[[Any, float, dict[str, float], int, float | None], str] | None = None
