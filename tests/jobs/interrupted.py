"""Jobs in processes that are killed, and what is compared afterwards."""

import functools
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.jobs.stubs import content_of
from tests.kills import fork, status_of

#: Moments at which each job is killed.
KILLS = int(os.environ.get("JOB_KILLS", "30"))


def in_child(work: Callable[[], Any], limit: float | None = None, user: int | None = None) -> int | None:
    """
    Run in a forked process.

    Args:
        work (`Callable`): what to run.
        limit (`float`, *optional*): seconds after which the process is killed.
        user (`int`, *optional*): id of the user and the group that it runs as.

    Returns:
        `int`, *optional*: its exit status, see [`tests.kills.fork`]; `None` if it was killed.
    """

    def as_user() -> None:
        if user is not None:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        work()

    child = fork(as_user)
    if limit is not None:
        time.sleep(limit)
        os.kill(child, signal.SIGKILL)
    return status_of(child)


def kill_at_random(
    run: Callable[[Path], Any],
    compare: Callable[[Path], None],
    folder: Path,
    seconds: float,
    seed: str,
    prepare: Callable[[Path], Any] = lambda folder: None,
) -> int:
    """
    Kill a job at [`KILLS`] random moments, and let it go on each time until it ends.

    Args:
        run (`Callable`): runs the job in a folder.
        compare (`Callable`): checks the finished job in a folder.
        folder (`Path`): where folders for jobs are made.
        seconds (`float`): how long an undisturbed run takes.
        seed (`str`): of the moments.
        prepare (`Callable`, *optional*): puts inputs into a folder, before anything is killed.

    Returns:
        `int`: how many jobs it took.
    """
    draws, kills, jobs = random.Random(seed), 0, 0
    while kills < KILLS:
        jobs += 1
        own = folder / str(jobs)
        own.mkdir(parents=True)
        prepare(own)
        while True:
            status = in_child(functools.partial(run, own), draws.uniform(0, seconds))
            if status is not None:
                assert status == 0
                break
            kills += 1
            if draws.random() < 0.2:  # let it end now and then
                assert in_child(functools.partial(run, own)) == 0
                break
        compare(own)
    return jobs


def everything(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Outputs and failures of the jobs in a folder, with the path of the folder left out."""
    found: dict[str, Any] = {}
    for name, content in content_of(folder).items():
        if name.endswith(".parquet"):
            import pyarrow.parquet

            content = json.dumps(pyarrow.parquet.read_table(folder / name).to_pylist()).encode()
        found[name] = content.replace(str(folder).encode(), b"")
    lines = [line for path in sorted(folder.rglob("failures.jsonl")) for line in path.read_text().splitlines()]
    return found, [json.loads(line.replace(str(folder), "")) for line in lines]
