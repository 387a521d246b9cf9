"""Progress of long work: a bar on a terminal, lines in a log, nothing where it is disabled."""

import io
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging

from modeling_lavis.progress import Progress, Shown, duration, with_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def bars_as_before(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", None)
    enabled, hub_disabled = logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    logging.enable_progress_bar()
    yield
    (logging.enable_progress_bar if enabled else logging.disable_progress_bar)()
    (disable_progress_bars if hub_disabled else enable_progress_bars)()


def written(stream: io.StringIO, shown: Shown, monkeypatch: pytest.MonkeyPatch, seconds: float = 45.0) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    now = [0.0]
    with Progress(1000, "first part", "images", done=100, failed=1, shown=shown, clock=lambda: now[0]) as progress:
        now[0] = seconds
        progress.update(90, failed=1)
    return stream.getvalue()


LINE = "first part: 190 of 1000 images, 2 failed, 2.0 images/s, 6 min 45 s left\n"


def test_lines_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(io.StringIO(), True, monkeypatch) == LINE
    assert written(io.StringIO(), True, monkeypatch, seconds=29.0) == ""
    assert written(io.StringIO(), None, monkeypatch) == "" == written(io.StringIO(), False, monkeypatch)
    stream, other = io.StringIO(), Terminal()
    assert written(other, stream, monkeypatch) == "" and stream.getvalue() == LINE


@pytest.mark.parametrize("shown", [True, None])
def test_bar_on_a_terminal(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    bar = written(Terminal(), shown, monkeypatch)
    assert bar.startswith("\rfirst part") and "190/1000" in bar and "2 failed" in bar and bar.endswith("\n")
    assert written(Terminal(), False, monkeypatch) == ""


def test_bars_can_be_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are shown by default as those of the libraries, those that a call asks for by the variable."""
    logging.disable_progress_bar()
    assert written(Terminal(), None, monkeypatch) == "" and "190/1000" in written(Terminal(), True, monkeypatch)
    logging.enable_progress_bar()
    with disable_progress_bars():
        assert written(Terminal(), None, monkeypatch) == ""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    assert written(Terminal(), True, monkeypatch) == "" == written(io.StringIO(), True, monkeypatch)


def test_bytes_are_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    now, stream = [0.0], io.StringIO()
    progress = Progress(3 * 10**9, unit="B", shown=stream, clock=lambda: now[0])
    now[0] = 60.0
    progress.update(15 * 10**7)
    assert stream.getvalue() == "150.0 MB of 3.0 GB, 2.5 MB/s, 19 min 0 s left\n"
    assert Progress(unit="B").text() == "0 B, 0 B/s"


def test_entries_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    assert list(with_progress(range(5), shown=terminal)) == list(range(5)) and "5/5" in terminal.getvalue()
    assert list(with_progress(iter("ab"), shown=terminal)) == ["a", "b"]


def test_durations() -> None:
    found = [duration(seconds) for seconds in (0.4, 59, 61, 7200, 90061)]
    assert found == ["0 s", "59 s", "1 min 1 s", "2 h 0 min", "1 d 1 h"]
