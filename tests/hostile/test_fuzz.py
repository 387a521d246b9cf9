"""Changed files of every kind end in a result or in a clear error: no crash, no hang, no half-written output."""

import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="needs the extra [test]")
pytest.importorskip("datasets", reason="data sets need the extra [train]")
pytest.importorskip("av", reason="videos need the extra [video]")

from tests.hostile.__main__ import SHARES, counts
from tests.hostile.campaign import run_campaign
from tests.hostile.targets import TARGETS

#: Inputs of all targets together; 50,000 by hand: `python -m tests.hostile --inputs 50000`.
INPUTS = int(os.environ.get("HOSTILE_INPUTS", "2000"))


def test_every_target_has_a_share() -> None:
    assert SHARES.keys() == TARGETS.keys()
    assert sum(counts(2000).values()) >= 2000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the size of the process from /proc")
@pytest.mark.parametrize("target", TARGETS)
def test_changed_files(target: str, tmp_path: Path) -> None:
    count = counts(INPUTS)[target]
    report = run_campaign(target, count, keep=tmp_path)
    assert not report.defects, "\n\n".join(report.defects)
    assert report.total >= count
    # else the changes would be too strong, or the checks too weak
    assert report.outcomes["refused"] > 0.1 * count and report.outcomes["accepted"] > 0.01 * count, report.line()
