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


def reset_peak() -> bool:
    """Start the high-water mark of resident memory anew, so that building the model does not count.

    Returns:
        Whether the system allows it; where not, the mark is that of the process's whole life.
    """
    gc.collect()
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """High-water mark of this process's resident memory, in bytes."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


class Timing(NamedTuple):
    """Seconds of each timed call: on the clock, and spent by the processors for all threads together."""

    seconds: list[float]
    processor_seconds: list[float]
    result: Any


def timed(run: Callable[[], Any], *, repeats: int, warmups: int) -> Timing:
    """Call `run` `warmups` + `repeats` times and time the latter; keeps the last result.

    Processor seconds hardly grow when other programs take turns on the same cores, so they tell whether a surprising
    time on the clock is the peer's or the machine's.
    """
    timing = Timing([], [], None)
    for turn in range(warmups + repeats):
        start, processor_start = time.perf_counter(), time.process_time()
        timing = timing._replace(result=run())
        if turn >= warmups:
            timing.seconds.append(time.perf_counter() - start)
            timing.processor_seconds.append(time.process_time() - processor_start)
    return timing


def matmul_rate(dtype: torch.dtype, *, size: int = 2048, seconds: float = 2.0) -> float:
    """Floating-point operations per second of a large square matrix product, with the threads that torch has.

    The median of several products: the floor it gives is one that a whole run can approach, not a lucky moment's.
    """
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    torch.mm(left, right)
    taken: list[float] = []
    while sum(taken) < seconds or len(taken) < 3:
        start = time.perf_counter()
        torch.mm(left, right)
        taken.append(time.perf_counter() - start)
    return 2.0 * size**3 / statistics.median(taken)
