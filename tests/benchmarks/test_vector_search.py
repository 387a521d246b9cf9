"""`python -m benchmarks.vector_search` with few vectors."""

import json
from pathlib import Path

import pytest

from benchmarks.vector_search import main


@pytest.mark.slow
def test_indexes_of_few_vectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faiss")
    numbers = tmp_path / "numbers.json"
    arguments = ["--count", "3000", "--dimension", "16", "--queries", "5", "--kinds", "flat", "hnsw", "--threads", "1"]
    assert main([*arguments, "--work", str(tmp_path / "work"), "--json", str(numbers)]) == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines[2:]] == [["3,000", "exact"], ["3,000", "Flat"], ["3,000", "HNSW32"]]
    exact, flat, hnsw = json.loads(numbers.read_text())
    assert exact["recall"] == flat["recall"] == 1 and hnsw["recall"] > 0.8
    assert exact["disk_mb"] < flat["disk_mb"] < hnsw["disk_mb"] and exact["open_s"] < 1
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["3000-exact", "3000-flat", "3000-hnsw"]
