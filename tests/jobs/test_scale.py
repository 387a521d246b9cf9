"""Many inputs: memory stays flat, and 100,000 small files are no problem."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.jobs.stubs import StubPipeline, run_stub

ROWS = 1_000_000
FILES = 100_000


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Samples:
    """Rows that are made when they are read, and the memory of the process at some of them."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.memory: list[int] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(self.rows):
            if number % (self.rows // 20) == 0:
                self.memory.append(resident_bytes())
            yield {"image": f"{number}.png"}


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the memory of the process is read from /proc")
def test_memory_is_flat_over_a_million_rows(tmp_path: Path) -> None:
    samples = Samples(ROWS)
    summary = run_stub(samples, tmp_path / "out.jsonl", pipe=StubPipeline(opens=False), batch_size=500, block_size=5000)
    assert summary.written == ROWS
    # the first tenth fills caches of the allocator; a row that was kept would take more than 100 bytes
    assert max(samples.memory[2:]) - samples.memory[2] < 30 * ROWS
    with (tmp_path / "out.jsonl").open("rb") as file:
        assert sum(1 for _ in file) == ROWS


@pytest.mark.slow
def test_a_hundred_thousand_small_files(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "00").mkdir(parents=True)
    original = folder / "00" / "000000.ppm"
    PIL.Image.new("RGB", (1, 1), (1, 2, 3)).save(original)
    content = original.read_bytes()
    for number in range(1, FILES):
        if number % 1000 == 0:
            (folder / f"{number // 1000:02d}").mkdir()
        (folder / f"{number // 1000:02d}" / f"{number:06d}.ppm").write_bytes(content)
    summary = run_stub(folder, tmp_path / "out.jsonl", batch_size=64, block_size=1024)
    assert (summary.inputs, summary.failed) == (FILES, 0)
    with (tmp_path / "out.jsonl").open("rb") as file:
        names = [json.loads(line)["file"] for line in file]
    assert len(set(names)) == FILES and names == sorted(names)
