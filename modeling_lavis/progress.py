# SPDX-License-Identifier: Apache-2.0
"""Progress of long work, for people: a bar on a terminal or in a notebook, lines in a log.

Everything that takes long has an argument `progress` with the same values, see [`Progress`]. Bars that are shown by
default are hidden by `transformers.utils.logging.disable_progress_bar()` and huggingface_hub's
`disable_progress_bars()`; those that a call asks for, as all commands do, by the environment variable
`HF_HUB_DISABLE_PROGRESS_BARS=1`.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TextIO, TypeVar

Shown = bool | TextIO | None
"""Values of an argument `progress`, see [`Progress`]."""

_SECONDS_BETWEEN_LINES = 30.0

T = TypeVar("T")


class Progress:
    """
    Shows how far something is: what is done, failures, throughput and the time that is left. A context manager.

    Args:
        total (`int`, *optional*): number of items, if it is known.
        description (`str`, *optional*, defaults to `""`): what is being done.
        unit (`str`, *optional*, defaults to `"items"`): what the items are called; numbers of bytes, `"B"`, are
            shortened.
        done, failed (`int`, *optional*, defaults to 0): items that were done before, and those of them that failed.
        shown (`bool` or `TextIO`, *optional*): where progress is shown. By default as a bar on the standard error, if
            that is a terminal or a notebook and bars are not disabled. With `True`, or for a stream, in any case:
            elsewhere as a line every 30 seconds. With `False`, not at all.
        clock (`Callable`, *optional*): function that returns seconds.
    """

    def __init__(
        self,
        total: int | None = None,
        description: str = "",
        unit: str = "items",
        done: int = 0,
        failed: int = 0,
        shown: Shown = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._description, self._unit, self._clock = total, description, unit, clock
        self._before = self._done = done
        self._failed = failed
        self._started = self._written = clock()
        self._bar: Any = None
        self._stream: Any = None
        if shown is False:
            return
        from huggingface_hub import constants, utils
        from tqdm.auto import tqdm
        from transformers.utils import logging

        if constants.HF_HUB_DISABLE_PROGRESS_BARS or (shown is None and utils.are_progress_bars_disabled()):
            return
        stream: Any = sys.stderr if shown is None or shown is True else shown
        bar: Any = (logging.tqdm if shown is None else tqdm)(
            total=total,
            initial=done,
            desc=description or None,
            unit=unit if unit == "B" else f" {unit}",
            unit_scale=unit == "B",
            file=stream,
            disable=None,  # neither a terminal nor a notebook
            dynamic_ncols=True,
        )
        if not getattr(bar, "disable", False):
            self._bar = bar
        elif shown is not None:
            self._stream = stream

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, count: int = 1, failed: int = 0) -> None:
        """Count `count` more items as done, `failed` of which have failed."""
        self._done += count
        self._failed += failed
        if self._bar is not None:
            if failed:
                self._bar.set_postfix_str(f"{self._failed} failed", refresh=False)
            self._bar.update(count)
        elif self._stream is not None and self._clock() - self._written >= _SECONDS_BETWEEN_LINES:
            self._written = self._clock()
            self._stream.write(f"{self.text()}\n")
            self._stream.flush()

    def text(self) -> str:
        """The line, for example `1200 of 5000 images, 3 failed, 4.1 images/s, 15 min 27 s left`."""
        seconds = self._clock() - self._started
        rate = (self._done - self._before) / seconds if seconds > 0 else 0.0
        of = "" if self._total is None else f" of {self._amount(self._total)}"
        parts = [f"{self._amount(self._done)}{of}{'' if self._unit == 'B' else f' {self._unit}'}"]
        parts += [f"{self._failed} failed"] if self._failed else []
        parts.append(f"{self._amount(rate)}{'' if self._unit == 'B' else f' {self._unit}'}/s")
        if self._total is not None and rate > 0:
            parts.append(f"{duration((self._total - self._done) / rate)} left")
        return f"{self._description}: {', '.join(parts)}" if self._description else ", ".join(parts)

    def _amount(self, count: float) -> str:
        if self._unit == "B":
            size, unit = next(((count / size, unit) for size, unit in _SIZES if count >= size), (count, "B"))
            return f"{size:.1f} {unit}" if unit != "B" else f"{size:.0f} B"
        return str(count) if isinstance(count, int) else f"{count:.1f}" if count < 100 else f"{count:.0f}"

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()


_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def with_progress(entries: Iterable[T], total: int | None = None, **options: Any) -> Iterator[T]:
    """
    Iterate over entries, and show how many are done.

    Args:
        entries (`Iterable`): the entries.
        total (`int`, *optional*): their number; by default their length, if they have one.
        options: of [`Progress`].
    """
    if total is None and isinstance(entries, Sized):
        total = len(entries)
    with Progress(total, **options) as progress:
        for entry in entries:
            yield entry
            progress.update()


def duration(seconds: float) -> str:
    """A duration in the two largest units, such as `2 h 5 min`."""
    whole = round(seconds)
    for size, large, small, part in ((86400, "d", "h", 3600), (3600, "h", "min", 60), (60, "min", "s", 1)):
        if whole >= size:
            return f"{whole // size} {large} {whole % size // part} {small}"
    return f"{whole} s"


__all__ = ["Progress", "Shown", "duration", "with_progress"]
