"""`python -m benchmarks.cluster_scale` with few images."""

import pytest

from benchmarks.cluster_scale import main, seconds_in_parts, seconds_with_ray

STAGES = {"list": 0.001, "open": 0.2, "model": 0.8, "transport": 0.002, "write": 0.001, "merge": 0.001}


def test_computed_times() -> None:
    assert seconds_with_ray(STAGES, 100, 1) == pytest.approx(100.0)
    assert seconds_with_ray(STAGES, 100, 10) == pytest.approx(10.0)
    assert seconds_with_ray(STAGES, 100, 10**6) == pytest.approx(0.4)  # the process that writes
    assert seconds_with_ray(STAGES, 100, 4, cores=2) == pytest.approx(50.2)
    assert seconds_in_parts(STAGES, 100, 1) == pytest.approx(100.2)
    assert seconds_in_parts(STAGES, 100, 10) == pytest.approx(10.12)
    assert seconds_in_parts(STAGES, 100, 4, cores=2) == pytest.approx(50.2)


@pytest.mark.slow
def test_measured_stages(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray.data")
    arguments = ["--workers", "--names", "640", "--compute", "1000", "--compute-workers", "1", "4"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    stages = [float(cell) for cell in lines[2].split("|")[1:-1]]
    assert len(stages) == 6 and all(0 < value < 1000 for value in stages)
    assert [line.split("|")[1].strip() for line in lines[-2:]] == ["1", "4"]
