"""Many inputs: memory stays flat, and 100,000 small files are no problem."""

import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.stubs import StubPipeline, run_stub

ROWS = 1_000_000


class _Samples:
    """Rows that are made when they are read, and the memory of Python at some of them."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.peaks: list[int] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(self.rows):
            if number % (self.rows // 10) == 0:
                self.peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.reset_peak()
            yield {"image": f"{number}.png"}


@pytest.mark.slow
def test_memory_is_flat_over_a_million_rows(tmp_path: Path) -> None:
    samples = _Samples(ROWS)
    tracemalloc.start()
    try:
        summary = run_stub(
            samples, tmp_path / "out.jsonl", pipe=StubPipeline(opens=False), batch_size=500, block_size=5000
        )
    finally:
        tracemalloc.stop()
    assert summary.written == ROWS
    early, late = max(samples.peaks[1:4]), max(samples.peaks[-3:])
    assert late < 1.1 * early
    with (tmp_path / "out.jsonl").open() as file:
        assert sum(1 for _ in file) == ROWS


@pytest.mark.slow
def test_a_hundred_thousand_small_files(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    original = folder / "00" / "original.png"
    original.parent.mkdir(parents=True)
    import PIL.Image

    PIL.Image.new("RGB", (2, 2), (1, 2, 3)).save(original)
    for number in range(1, 100_000):
        if number % 1000 == 0:
            (folder / f"{number // 1000:02d}").mkdir()
        os.link(original, folder / f"{number // 1000:02d}" / f"{number:06d}.png")
    summary = run_stub(folder, tmp_path / "out.jsonl", batch_size=64, block_size=1024)
    assert (summary.inputs, summary.failed) == (100_000, 0)
    with (tmp_path / "out.jsonl").open() as file:
        names = [json.loads(line)["file"] for line in file]
    assert len(set(names)) == 100_000 and names == sorted(names)
