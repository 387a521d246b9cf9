# SPDX-License-Identifier: Apache-2.0
"""What a training step spends its time on: seconds by kind of operation, from torch's profiler.

    python -m benchmarks.step_profile [WORKLOAD] [--size SIZE] [--threads N] [--steps N]

The workload is one that trains in a plain loop (`train_retrieval`). One step is run before, without the profiler.
"""

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from benchmarks import measure
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.base import OURS

#: kind -> beginnings of the names of its operations, after `aten::`; the first that fits counts
_KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mkldnn_convolution", "convolution", "slow_conv"),
    "attention": ("_scaled_dot_product", "_softmax"),
    "GELU": ("gelu",),
    "layer norms": ("native_layer_norm",),
    "dropout": ("bernoulli", "native_dropout"),
    "log-softmax and loss": ("_log_softmax", "nll_loss", "logsumexp"),
    "copies": ("copy_", "cat", "contiguous", "clone", "index", "embedding"),
    "sums": ("sum", "mean"),
}
#: calls whose operations are not told apart
_WHOLE = {"Optimizer.step": "optimizer", "aten::_foreach_lerp_": "momentum update"}


def kind_of(event: FunctionEvent) -> str:
    """The row of the table that an operation belongs to."""
    caller: FunctionEvent | None = event
    while caller is not None:
        for name, kind in _WHOLE.items():
            if caller.name.startswith(name):
                return kind
        caller = caller.cpu_parent
    name = event.name.removeprefix("aten::")
    for kind, beginnings in _KINDS.items():
        if name.startswith(beginnings):
            return kind
    return "element-wise" if event.name.startswith("aten::") else "between operations"


def seconds_by_kind(events: Iterator[FunctionEvent]) -> Counter[str]:
    """Seconds of the calling thread in each kind of operation, without the operations that an operation calls."""
    seconds: Counter[str] = Counter()
    for event in events:
        seconds[kind_of(event)] += event.self_cpu_time_total / 1e6
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    plain = sorted(name for name, workload in WORKLOADS.items() if workload.trains and "trainer" not in name)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_profile", description=__doc__)
    parser.add_argument("workload", nargs="?", default="train_retrieval", choices=plain)
    parser.add_argument("--size", default="full", help="size of the workload")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of the process")
    parser.add_argument("--steps", type=int, default=1, help="steps under the profiler")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    workload = WORKLOADS[options.workload]
    size = workload.sizes[options.size]
    step = workload.builders[OURS](size, torch.float32)
    step()
    rate = measure.matmul_rate(torch.float32)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        for _ in range(options.steps):
            step()
    seconds = seconds_by_kind(iter(profiler.events()))
    total = sum(seconds.values()) / options.steps
    floor = workload.count_flops(size) / rate
    print(f"{total:.2f} s a step; floor {floor:.2f} s at {rate / 1e9:.0f} GFLOP/s, {total / floor:.2f} x")
    print("\n| operations | s | share | / floor |\n| --- | ---: | ---: | ---: |")
    for kind, value in seconds.most_common():
        value /= options.steps
        print(f"| {kind} | {value:.3f} | {100 * value / total:.1f} % | {value / floor:.2f} |")


if __name__ == "__main__":
    main()
