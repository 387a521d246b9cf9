"""A process that reads changed files and tells after each what came of it; run by `campaign`.

Arguments: target, number of inputs, seed, folder. Each line of the output is a JSON list: the number of the input, what
it was made of, `"accepted"`, `"refused"` or `"wrong"`, the error, and the largest memory so far in MiB.
"""

import json
import logging
import os
import resource
import shutil
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", HF_DATASETS_CACHE=os.path.join(sys.argv[4], "cache"))

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, strategies

from tests.hostile.targets import REFUSALS, TARGETS, Target

_MOST_ADDRESSES = 6 * 2**30  # bytes that a process may map beyond what it has mapped at its start


def peak() -> int:
    """Largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def limit_addresses() -> None:
    """Let an allocation fail that no input of this size can need, before it takes the memory of the machine."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + _MOST_ADDRESSES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def attempt(target: Target, place: Path, what: str) -> tuple[str, str]:
    """What came of an input, and why."""
    refused, outcome, reason = False, "accepted", ""
    try:
        target.read(place, what)
    except REFUSALS as error:
        refused, outcome, reason = True, "refused", f"{type(error).__name__}: {error}"
        if not str(error):
            outcome, reason = "wrong", f"an error without a message\n{traceback.format_exc()}"
    except Exception:
        outcome, reason = "wrong", traceback.format_exc()
    if outcome != "wrong":
        try:
            target.check(place, what, refused)
        except Exception:
            outcome, reason = "wrong", traceback.format_exc()
    return outcome, reason


def main(name: str, count: int, seed: int, folder: Path) -> None:
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not a message
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    target = TARGETS[name](folder / "valid")
    number = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(strategies.data())
    def run(data: Any) -> None:
        nonlocal number
        place = folder / "case"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        what = target.write(data.draw, place)
        channel.write(json.dumps([number, what, "read", "", 0]) + "\n")
        outcome, reason = attempt(target, place, what)
        if outcome == "wrong":  # the next input takes its place
            shutil.move(place, folder / f"wrong-{number}")
        channel.write(json.dumps([number, what, outcome, reason[-3000:], peak()]) + "\n")
        number += 1

    limit_addresses()
    channel.write(json.dumps([-1, "", "ready", "", peak()]) + "\n")
    run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
