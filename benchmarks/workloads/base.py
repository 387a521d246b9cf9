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
# Builds models and inputs for one peer: (size, dtype) -> Run.
Builder = Callable[[Any, torch.dtype], Run]


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
    """

    name: str
    summary: str
    sizes: Mapping[str, Any]
    builders: Mapping[str, Builder]
    count_flops: Callable[[Any], float]
    exact: frozenset[str] = frozenset()
    trains: bool = False
