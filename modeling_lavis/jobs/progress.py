# SPDX-License-Identifier: Apache-2.0
"""Progress of a job, for people."""

import time
from collections.abc import Callable
from typing import TextIO

_SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """
    Writes how far a job is: items, failures, throughput and the time that is left.

    Args:
        stream (`TextIO`): where it is written; one line that changes on a terminal, a line every 30 seconds elsewhere.
        total (`int`, *optional*): number of items, if it is known.
        done (`int`, *optional*, defaults to 0): items that were done before.
        unit (`str`, *optional*, defaults to `"items"`): what the items are called.
        clock (`Callable`, *optional*): function that returns seconds.
    """

    def __init__(
        self,
        stream: TextIO,
        total: int | None,
        done: int = 0,
        unit: str = "items",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._total, self._unit, self._clock = stream, total, unit, clock
        self._before = self._done = done
        self._started = self._written = clock()
        self._is_terminal = stream.isatty()

    def update(self, done: int, failed: int) -> None:
        """Take note of the items that are done and of those among them that failed."""
        self._done = done
        now = self._clock()
        if now - self._written >= (0.5 if self._is_terminal else _SECONDS_BETWEEN_LINES):
            self._written = now
            self._write(self.text(failed))

    def text(self, failed: int) -> str:
        """The line, for example `1200 of 5000 images, 3 failed, 4.1 images/s, 15 min 27 s left`."""
        seconds = self._clock() - self._started
        rate = (self._done - self._before) / seconds if seconds > 0 else 0.0
        parts = [f"{self._done} {self._unit}" if self._total is None else f"{self._done} of {self._total} {self._unit}"]
        parts += [f"{failed} failed"] if failed else []
        parts.append(f"{rate:.1f} {self._unit}/s" if rate < 100 else f"{rate:.0f} {self._unit}/s")
        if self._total is not None and rate > 0:
            parts.append(f"{duration((self._total - self._done) / rate)} left")
        return ", ".join(parts)

    def close(self, failed: int) -> None:
        """Write the last line on a terminal, and end it."""
        if self._is_terminal:
            self._write(self.text(failed))
            self._stream.write("\n")

    def _write(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}" if self._is_terminal else f"{text}\n")
        self._stream.flush()


def duration(seconds: float) -> str:
    """A duration in the two largest units, such as `2 h 5 min`."""
    whole = round(seconds)
    for size, large, small, part in ((86400, "d", "h", 3600), (3600, "h", "min", 60), (60, "min", "s", 1)):
        if whole >= size:
            return f"{whole // size} {large} {whole % size // part} {small}"
    return f"{whole} s"


__all__ = ["Progress", "duration"]
