"""Progress of long work: a bar on a terminal, lines in a log, nothing where it is disabled."""

import io
from pathlib import Path
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
    disable_progress_bars()
    try:
        assert written(Terminal(), None, monkeypatch) == ""
    finally:
        enable_progress_bars()
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


# ---- what takes long passes its argument on ----


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    from modeling_lavis.embedded import embedded_images

    return [{"image": str(entry.path), "caption": entry.caption} for entry in embedded_images()]


@pytest.mark.slow
def test_evaluation_index_jobs_and_checks(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    from modeling_lavis import check_data, evaluate, jobs
    from modeling_lavis.embedded import embedded_model_path
    from modeling_lavis.pipelines.loading import load

    captioner = load("image-captioning", embedded_model_path(), device="cpu")
    retriever = load("image-text-retrieval", embedded_model_path(), device="cpu")
    model, processor = captioner.model, captioner.processor
    shown = {}
    for name in ("captions", "retrieval", "index", "job", "check"):
        stream = shown[name] = Terminal()
        if name == "captions":
            evaluate("captioning", model, processor, rows, generation_options={"max_new_tokens": 3}, progress=stream)
        elif name == "retrieval":
            evaluate("retrieval", retriever.model, processor, rows, k=10, progress=stream)
        elif name == "index":
            retriever.index(images=[row["image"] for row in rows], progress=stream)
        elif name == "job":
            jobs.caption([row["image"] for row in rows], captioner, tmp_path / "captions.jsonl", progress=stream)
        else:
            check_data(rows, "captioning", progress=stream)
    bars = {name: stream.getvalue() for name, stream in shown.items()}
    assert all("12/12" in bar for bar in bars.values())
    units = {"captions": "rows", "index": "images", "job": "images", "check": "rows"}
    assert all(f" {unit}/s" in bars[name] for name, unit in units.items())
    assert [unit for unit in ("texts", "images", "pairs") if f" {unit}/s" in bars["retrieval"]] == [
        "texts",
        "images",
        "pairs",
    ]


@pytest.mark.slow
def test_conversion(goldens: Path, tmp_path: Path) -> None:
    from modeling_lavis.hub.convert import convert

    source, stream = goldens / "blip_caption", Terminal()
    options = {"config": source / "config.json", "tokenizer": goldens / "tokenizer", "with_code": False}
    convert("blip_caption", source / "checkpoint.pth", tmp_path / "converted", progress=stream, **options)
    assert stream.getvalue().startswith("\rweights:   0%") and "weights: 100%" in stream.getvalue()
