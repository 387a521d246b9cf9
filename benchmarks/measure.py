# SPDX-License-Identifier: Apache-2.0
"""Timing, peak memory, and the machine's rates of matrix products and of reading memory."""

import gc
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_CPU = torch.device("cpu")


def reset_peak(device: torch.device = _CPU) -> bool:
    """Reset the peak memory, so that building the model does not count.

    Args:
        device: device whose memory is measured; resident memory of the process for the CPU.

    Returns:
        Whether the system supports it; otherwise the peak is that since the start of the process.
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
    """Peak memory of this process on a device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


class AnonymousPeak:
    """Context manager that samples the memory of this process that backs no file, which the kernel cannot drop."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.bytes = 0
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(self._seconds):
            self.bytes = max(self.bytes, anonymous_bytes())

    def __enter__(self) -> "AnonymousPeak":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.bytes = max(self.bytes, anonymous_bytes())


def anonymous_bytes() -> int:
    """Memory of this process without pages of files; 0 where the system does not say."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


class Timing(NamedTuple):
    """Wall-clock seconds, processor seconds of all threads, and result of each timed call."""

    seconds: list[float]
    processor_seconds: list[float]
    results: list[Any]

    @property
    def result(self) -> Any:
        """Result of the last call."""
        return self.results[-1]


def timed(run: Callable[[], Any], *, repeats: int, warmups: int) -> Timing:
    """Call `run` `warmups + repeats` times and time the last `repeats` calls.

    Processor seconds hardly depend on other programs on the same cores, so they show whether the peer or the load of
    the machine causes an unusual wall-clock time.
    """
    timing = Timing([], [], [])
    for index in range(warmups + repeats):
        start, processor_start = time.perf_counter(), time.process_time()
        result = run()
        if index >= warmups:
            timing.results.append(result)
            timing.seconds.append(time.perf_counter() - start)
            timing.processor_seconds.append(time.process_time() - processor_start)
    return timing


def matmul_rate(dtype: torch.dtype, device: torch.device = _CPU, *, size: int = 2048, seconds: float = 2.0) -> float:
    """Floating-point operations per second of a large square matrix product, with torch's number of threads.

    The median of several products is a rate that a whole run can approach; the maximum is not.
    """
    left, right = (torch.randn(size, size).to(device, dtype) for _ in range(2))
    return 2.0 * size**3 / _median_seconds(lambda: torch.mm(left, right), device, seconds)


def read_rate(device: torch.device = _CPU, *, size: int = 2**28, seconds: float = 1.0) -> float:
    """Bytes per second of summing a large tensor: a limit for a step that reads all weights."""
    numbers = torch.ones(size // 4, device=device)
    return size / _median_seconds(numbers.sum, device, seconds)


def _median_seconds(run: Callable[[], Any], device: torch.device, seconds: float) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    durations: list[float] = []
    while sum(durations) < seconds or len(durations) < 3:
        wait()
        start = time.perf_counter()
        run()
        wait()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)
