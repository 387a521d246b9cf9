"""Output of commands: progress bar, results, contact sheet, atomic files; and how inputs are found."""

import io
from pathlib import Path

import pytest

from modeling_lavis.cli import output
from modeling_lavis.cli.contact_sheet import draw, wrap
from modeling_lavis.data.media_files import find_inputs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("count", "err", "out", "shown"),
    [
        (output.PROGRESS_THRESHOLD, Terminal, io.StringIO, True),
        (output.PROGRESS_THRESHOLD - 1, Terminal, io.StringIO, False),
        (output.PROGRESS_THRESHOLD, io.StringIO, io.StringIO, False),
        (output.PROGRESS_THRESHOLD, Terminal, Terminal, True),
    ],
)
def test_progress(
    monkeypatch: pytest.MonkeyPatch, count: int, err: type[io.StringIO], out: type[io.StringIO], shown: bool
) -> None:
    """The progress bar is shown for many inputs on a terminal."""
    streams = err(), out()
    monkeypatch.setattr("sys.stderr", streams[0])
    monkeypatch.setattr("sys.stdout", streams[1])
    assert list(output.progress(list(range(count)))) == list(range(count))
    assert (f"{count}/{count}" in streams[0].getvalue()) is shown
    assert streams[1].getvalue() == ""


def test_progress_bar_is_cleared_for_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """If stdout and stderr are one terminal, each result is on a line of its own."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("sys.stdout", terminal)
    results = output.Results(as_json=True)
    for number in output.progress(list(range(output.PROGRESS_THRESHOLD))):
        results.add({"file": str(number)}, "")
    for number in range(output.PROGRESS_THRESHOLD):
        before, found, after = terminal.getvalue().partition(f'{{"file": "{number}"}}')
        assert found and before.endswith("\r") and after.startswith("\n")


def test_errors_are_reported_in_order(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    files = find_inputs([f"{tmp_path}/*.gif", f"{tmp_path}/a.png", "https://example.org/*.png"])
    assert [file.error is None for file in files] == [False, True, True]
    results = output.Results(as_json=False)
    seen = list(
        output.iterate_results(files, lambda names: ({"error": "bad"} if "a" in n[-5:] else n for n in names), results)
    )
    assert seen == [("https://example.org/*.png",) * 2]
    assert results.failed == 2 and results.status == 1
    assert capsys.readouterr().err.splitlines() == [
        f"error: No file matches {tmp_path}/*.gif.",
        f"error: {tmp_path}/a.png: bad",
    ]


def test_existing_files_take_precedence_over_glob_patterns(tmp_path: Path) -> None:
    (tmp_path / "photo[1].png").touch()
    (tmp_path / "photo1.png").touch()
    assert [Path(p.name).name for p in find_inputs([f"{tmp_path}/photo[1].png"])] == ["photo[1].png"]
    (tmp_path / "photo[1].png").unlink()
    assert [Path(p.name).name for p in find_inputs([f"{tmp_path}/photo[1].png"])] == ["photo1.png"]


def test_wrap() -> None:
    assert wrap("one two", 20, len) == ["one two"]
    assert wrap("one two three", 8, len) == ["one two", "three"]
    assert wrap("one two three four five", 9, len) == ["one two", "three ..."]
    assert wrap("immeasurably", 8, len) == ["immea..."]
    assert wrap("", 8, len) == [""]


def test_contact_sheet_without_images_raises() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        draw([])


def test_atomic_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with output.atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    with pytest.raises(KeyboardInterrupt), output.atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
