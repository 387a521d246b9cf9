"""Forked processes, and how they are killed in the middle of what they write."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

_CHANGES = ("rename", "replace", "unlink", "mkdir", "rmdir", "remove")


def fork(work: Callable[[], Any]) -> int:
    """Run in a forked process, and return its id. Its status is the `errno` of an `OSError`, else 1."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # a forked process does not get the other threads of its parent
            work()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 1)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    return child


def status_of(child: int) -> int | None:
    """Wait for a forked process, and return its exit status; `None` if it was killed."""
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


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
