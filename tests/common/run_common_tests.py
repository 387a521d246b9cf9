"""
Run transformers' common tests over all classes of this project.

    TRANSFORMERS_SOURCE=path/to/transformers-5.24.0 python tests/common/run_common_tests.py [-k EXPRESSION] [-n WORKERS]

The exit status is 0 if the tests that fail are those that `differences.py` lists: a failure that is not listed is an
error, and so is an entry whose tests pass.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.common import transformers_source  # noqa: E402
from tests.common.differences import DIFFERENCES, PENDING, Difference  # noqa: E402

COLLECTED = Path("tests") / "common" / "collected.py"


@dataclass
class Results:
    """Plugin of pytest that records which tests passed, failed and were skipped, by class and name."""

    outcomes: dict[tuple[str, str], str] = field(default_factory=dict)
    messages: dict[tuple[str, str], str] = field(default_factory=dict)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Print nothing for subtests, of which there are thousands."""
        return ("", "", "") if "SubtestReport" in type(report).__name__ else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the worst outcome of setup, call, teardown and subtests."""
        _, _, rest = report.nodeid.partition("::")
        name, _, test = rest.partition("::")
        key = (name, test)
        if report.failed:
            if self.outcomes.get(key) != "failed":
                self.messages[key] = _message(report.longreprtext)
            self.outcomes[key] = "failed"
        elif self.outcomes.get(key) != "failed":
            # a test has three phases, of which only the call can be skipped or run
            if report.skipped or report.when == "call":
                self.outcomes[key] = report.outcome


def _message(text: str) -> str:
    errors = [line.removeprefix("E").strip() for line in text.splitlines() if line.startswith("E ")]
    return (errors or text.splitlines() or ["no message"])[0][:300]


def compare(
    outcomes: Mapping[tuple[str, str], str], listed: Iterable[Difference], complete: bool = True
) -> list[tuple[str, str, str]]:
    """
    Compare outcomes with the list of differences.

    Args:
        outcomes: outcome (`"passed"`, `"failed"` or `"skipped"`) by class and test.
        listed: the deliberate differences.
        complete: whether all tests ran, so that an entry without a failing test is an error.

    Returns:
        `list[tuple[str, str, str]]`: class, test and problem.
    """
    problems = []
    entries = list(listed)
    unused = set(range(len(entries)))
    for (name, test), outcome in outcomes.items():
        found = [index for index, entry in enumerate(entries) if entry.matches(name, test)]
        if outcome == "failed":
            unused -= set(found)
            if not found:
                problems.append((name, test, "fails and is not listed in tests/common/differences.py"))
        elif outcome == "passed":
            reasons = "; ".join(entries[index].reason for index in found)
            if found:
                problems.append((name, test, f"passes but is listed in tests/common/differences.py: {reasons}"))
    if complete:
        for index in sorted(unused):
            entry = entries[index]
            problems.append((", ".join(entry.classes), entry.test, "is listed, but no such test fails"))
    return problems


def run(arguments: list[str]) -> Results:
    """Run the tests by pytest, with additional arguments."""
    results = Results()
    options = ["-o", "addopts=", "-o", "filterwarnings=", "-p", "no:warnings", "-q", "--tb=short", "--no-header"]
    pytest.main([*options, f"--rootdir={ROOT}", *arguments, str(ROOT / COLLECTED)], plugins=[results])
    return results


def main() -> int:
    """Run the tests, print the problems, and return the exit status."""
    parser = argparse.ArgumentParser(description="Run transformers' common tests over all classes of this project.")
    parser.add_argument("-k", dest="expression", help="run only matching tests, as in pytest")
    parser.add_argument("-n", dest="workers", type=int, default=0, help="number of processes (default: this one)")
    parser.add_argument("--full", action="store_true", help="print the failures in full, the listed ones too")
    given = parser.parse_args()
    try:
        transformers_source.source_folder()
    except ValueError as error:
        parser.error(str(error))
    # nothing is downloaded: tests that need the Hub are skipped or listed
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.chdir(ROOT)
    arguments = [] if given.expression is None else ["-k", given.expression]
    arguments += [] if given.workers == 0 else ["-n", str(given.workers)]
    arguments += [] if given.full else ["--show-capture=no", "--tb=no", "-r", "N"]
    results = run(arguments)
    problems = compare(results.outcomes, (*DIFFERENCES, *PENDING), complete=given.expression is None)
    counts = {kind: list(results.outcomes.values()).count(kind) for kind in ("passed", "failed", "skipped")}
    for name, test, problem in problems:
        message = results.messages.get((name, test))
        print(f"{name}::{test} {problem}{f': {message}' if message else ''}")
    pending = sum(
        outcome == "failed" and any(entry.matches(*key) for entry in PENDING)
        for key, outcome in results.outcomes.items()
    )
    print(f"{', '.join(f'{count} {kind}' for kind, count in counts.items())}, of which {pending} failures are pending")
    if not counts["passed"]:
        print("no test passed: the tests did not run")
        return 1
    print(f"{len(problems)} problems")
    return min(len(problems), 1)


if __name__ == "__main__":
    sys.exit(main())
