"""Processes that are killed in the middle of what they write."""

import os
import signal
from collections.abc import Callable
from typing import Any

_CHANGES = ("rename", "replace", "unlink", "mkdir", "rmdir", "remove")


def die_after(count: int) -> None:
    """Let this process be killed before its next change of names in the file system after so many."""
    left = [count]

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return change(*args, **kwargs)

        return call

    for name in _CHANGES:
        setattr(os, name, counted(getattr(os, name)))
