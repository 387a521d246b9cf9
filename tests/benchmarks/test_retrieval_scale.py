"""`python -m benchmarks.retrieval_scale` with tiny sizes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.retrieval_scale import STAGES, encoded_again, kept_bytes, main, predict, sized
from benchmarks.workloads.retrieval import count_stages

LARGE = 2**40


@pytest.mark.slow
def test_measured_and_computed_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    plot, numbers = tmp_path / "scale.png", tmp_path / "scale.json"
    arguments = ["--model", "tiny", "--images", "8", "4", "--compute", "16", "--threads", "1"]
    assert main([*arguments, "--plot", str(plot), "--json", str(numbers)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["4 x 20", "8 x 40", "16 x 80"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    found = json.loads(numbers.read_text())
    assert [row["images"] for row in found["measured"]] == [4, 8]
    assert set(found["measured"][0]["seconds"]) == set(STAGES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scale.json", "scale.png"]


def test_computed_sizes_follow_from_the_measured_ones() -> None:
    seconds = {"texts": 1.0, "images": 2.0, "candidates": 0.1, "pairs": 4.0}
    row = {"images": 100, "texts": 500, "pairs": 1, "seconds": seconds, "peak_bytes": 3e9}
    same, double = predict("tiny", [row], [100, 200], LARGE)
    assert same["seconds"] == pytest.approx(seconds) and same["peak_bytes"] == pytest.approx(3e9)
    assert double["seconds"]["images"] == pytest.approx(4.0)
    assert double["seconds"]["candidates"] == pytest.approx(0.4)
    assert double["seconds"]["pairs"] == pytest.approx(8.0, rel=0.05)  # k candidates of each row
    assert double["peak_bytes"] > 3e9


def test_budgets_bound_the_memory_and_add_time() -> None:
    size = sized("full", 1000)
    assert encoded_again(size, LARGE) == 0
    assert kept_bytes(size, LARGE) - kept_bytes(size, 2**30) > 0.7e9  # 1.8 MB for each image
    half = encoded_again(size, 2**30)
    assert 0.3 < half < 0.7
    row = {"images": 10, "texts": 50, "seconds": dict.fromkeys(STAGES, 1.0), "peak_bytes": 1e9}
    with_budget, without = (predict("full", [row], [1000], budget)[0] for budget in (2**30, LARGE))
    assert with_budget["seconds"]["pairs"] > without["seconds"]["pairs"]
    assert with_budget["seconds"]["images"] == without["seconds"]["images"]


def test_operations_by_stage() -> None:
    small, large = (count_stages(replace(sized("full", 100), texts=texts)) for texts in (500, 1000))
    assert large["images"] == small["images"]
    assert large["candidates"] == 2 * small["candidates"]
    assert large["texts"] == pytest.approx(2 * small["texts"], rel=0.01)
    assert small["pairs"] < large["pairs"] < 2 * small["pairs"]
