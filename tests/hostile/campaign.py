"""Many changed files, given to worker processes: each ends by itself, or is stopped and counted as a defect."""

import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hostile.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60.0  # seconds for one input
_START = 300.0  # seconds for the imports of a worker and the valid files
_MOST_DEFECTS = 20


@dataclass
class Report:
    """
    What came of the inputs of a target.

    Args:
        target: its name.
        outcomes: how many inputs were accepted, refused, wrong, crashed, hung, or took too much memory.
        defects: descriptions of the last four kinds, with the folder that has the input.
        peak: largest memory of a worker beyond that at its start, in MiB.
        seconds: time for all inputs.
    """

    target: str
    outcomes: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    peak: int = 0
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """Number of inputs."""
        return self.outcomes.total()

    def line(self) -> str:
        """One line for a table."""
        bad = sum(self.outcomes[kind] for kind in ("wrong", "crashed", "hung", "memory"))
        return (
            f"{self.target:<15} {self.total:>7} inputs {self.outcomes['accepted']:>7} accepted"
            f" {self.outcomes['refused']:>7} refused {bad:>4} defects {self.peak:>6} MiB {self.seconds:>7.0f} s"
        )


def run_campaign(
    target: str,
    count: int,
    seed: int = 0,
    keep: Path | None = None,
    timeout: float = TIMEOUT,
    tell: Callable[[str], Any] | None = None,
) -> Report:
    """
    Give changed files to a target.

    Args:
        target: a key of `TARGETS`.
        count: number of inputs.
        seed: of the changes.
        keep: folder for the inputs that show a defect.
        timeout: seconds that one input may take.
        tell: called with the description of each defect.
    """
    report, start, attempts = Report(target), time.monotonic(), 0
    while report.total < count and len(report.defects) < _MOST_DEFECTS:
        with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
            before = report.total
            _run_worker(report, count - report.total, seed + 1000 * attempts, Path(folder), keep, timeout, tell)
        attempts += 1
        if report.total == before:
            raise RuntimeError(f"the worker of {target} gave nothing; run it by hand: python -m tests.hostile.worker")
    report.seconds = time.monotonic() - start
    return report


def _run_worker(
    report: Report, count: int, seed: int, folder: Path, keep: Path | None, timeout: float, tell: Any
) -> None:
    command = [sys.executable, "-m", "tests.hostile.worker", report.target, str(count), str(seed), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    errors = open(folder / "stderr", "w+b")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=environment)
    selector = selectors.DefaultSelector()
    assert process.stdout is not None
    selector.register(process.stdout, selectors.EVENT_READ)
    os.set_blocking(process.stdout.fileno(), False)
    current, baseline, too_large = "its start", 0, False
    rest, deadline = b"", time.monotonic() + _START

    def defect(kind: str, reason: str, case: str = "case") -> None:
        report.outcomes[kind] += 1
        place = ""
        if keep is not None:
            kept = keep / f"{report.target}-{len(report.defects)}-{kind}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder / case, kept, symlinks=True, dirs_exist_ok=True)
            place = f" [{kept}]"
        report.defects.append(f"{report.target}, {current}: {kind}{place}\n{reason}")
        if tell is not None:
            tell(report.defects[-1])

    try:
        while True:
            if not selector.select(max(deadline - time.monotonic(), 0)):
                process.kill()
                defect("hung", f"no answer after {timeout:.0f} seconds")
                return
            block = process.stdout.read()
            if block == b"":
                break
            *lines, rest = (rest + (block or b"")).split(b"\n")
            for line in lines:
                number, what, outcome, reason, peak = json.loads(line)
                deadline = time.monotonic() + timeout
                current = f"input {number} of seed {seed} ({what})"
                if outcome == "ready":
                    baseline = peak
                elif outcome == "wrong":
                    defect("wrong", reason, f"wrong-{number}")
                    if len(report.defects) >= _MOST_DEFECTS:
                        return
                elif outcome != "read":
                    report.peak = max(report.peak, peak - baseline)
                    if peak - baseline > TARGETS[report.target].limit and not too_large:
                        too_large = True  # the largest memory never shrinks
                        defect("memory", f"{peak - baseline} MiB beyond the start")
                    else:
                        report.outcomes[outcome] += 1
        if process.wait() != 0:
            errors.seek(0)
            defect("crashed", f"exit status {process.returncode}\n{errors.read()[-3000:].decode(errors='replace')}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        errors.close()
