"""The benchmark of starting up."""

import subprocess

import pytest

from benchmarks import startup


def test_medians_are_of_runs_after_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter([9.0, 9.0, 9.0, 2.0, 4.0, 3.0, 4.0, 7.0, 5.0, 2.0, 4.0, 3.0])
    monkeypatch.setattr(startup, "seconds_of", lambda *code, threads: next(seconds))
    startup.main(["photo.jpg", "--repeats", "3", "--threads", "1"])
    imports, classes, caption = capsys.readouterr().out.splitlines()[-3:]
    assert imports.endswith("| 2.00 | 1.00 x |")
    assert classes.endswith("| 4.00 | 2.00 x |")
    assert caption.endswith("| 3.00 | 1.50 x |")


@pytest.mark.slow
def test_a_caption_is_made() -> None:
    assert startup.seconds_of(startup._CAPTION, "caption", str(startup._IMAGE), threads=1) > 0
    with pytest.raises(subprocess.CalledProcessError):
        startup.seconds_of(startup._CAPTION, "caption", "no-such-file.jpg", threads=1)
