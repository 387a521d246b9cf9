# SPDX-License-Identifier: Apache-2.0
"""Timing, peak memory, and the rate at which the machine multiplies matrices."""

import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_CPU = torch.device("cpu")


def reset_peak(device: torch.device = _CPU) -> bool:
    """Start the high-water mark of memory anew, so that building the model does not count.

    Args:
        device: whose memory; resident memory of the process for the CPU.

    Returns:
        Whether the system allows it; where not, the mark is that of the process's whole life.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak_bytes(device: torch.device = _CPU) -> int:
    """High-water mark of this process's memory on a device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


class Timing(NamedTuple):
    """Seconds of each timed call: on the clock, and spent by the processors for all threads together; its results."""

    seconds: list[float]
    processor_seconds: list[float]
    results: list[Any]

    @property
    def result(self) -> Any:
        """What the last call returned."""
        return self.results[-1]


def timed(run: Callable[[], Any], *, repeats: int, warmups: int) -> Timing:
    """Call `run` `warmups` + `repeats` times and time the latter; keeps their results.

    Processor seconds hardly grow when other programs take turns on the same cores, so they tell whether a surprising
    time on the clock is the peer's or the machine's.
    """
    timing = Timing([], [], [])
    for turn in range(warmups + repeats):
        start, processor_start = time.perf_counter(), time.process_time()
        result = run()
        if turn >= warmups:
            timing.results.append(result)
            timing.seconds.append(time.perf_counter() - start)
            timing.processor_seconds.append(time.process_time() - processor_start)
    return timing


def matmul_rate(dtype: torch.dtype, device: torch.device = _CPU, *, size: int = 2048, seconds: float = 2.0) -> float:
    """Floating-point operations per second of a large square matrix product, with the threads that torch has.

    The median of several products: the floor it gives is one that a whole run can approach, not a lucky moment's.
    """
    left, right = (torch.randn(size, size).to(device, dtype) for _ in range(2))
    return 2.0 * size**3 / _median_seconds(lambda: torch.mm(left, right), device, seconds)


def read_rate(device: torch.device = _CPU, *, size: int = 2**28, seconds: float = 1.0) -> float:
    """Bytes per second at which a large tensor is summed up: what a step that reads all weights can approach."""
    numbers = torch.ones(size // 4, device=device)
    return size / _median_seconds(numbers.sum, device, seconds)


def _median_seconds(run: Callable[[], Any], device: torch.device, seconds: float) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    taken: list[float] = []
    while sum(taken) < seconds or len(taken) < 3:
        wait()
        start = time.perf_counter()
        run()
        wait()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
