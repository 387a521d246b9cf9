"""The record of attached code: which release, and the SHA-256 of every file."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import modeling_lavis
from modeling_lavis.hub import attached_code as module
from modeling_lavis.hub.attached_code import CODE_RECORD, attached_code, check_attached_code, installed_code
from modeling_lavis.hub.portable import attach_code, portable_files

MODELS = Path(modeling_lavis.__file__).parent / "models"


def test_the_record_names_version_and_files(captioner_with_code: Path) -> None:
    code = attached_code(captioner_with_code)
    assert code is not None and code.version == modeling_lavis.__version__
    assert code.is_release == ("dev" not in code.version)
    assert set(code.sha256) == {path.name for path in captioner_with_code.glob("*.py")}
    for name, value in code.sha256.items():
        assert value == hashlib.sha256((MODELS / name).read_bytes()).hexdigest()
        assert value == hashlib.sha256((captioner_with_code / name).read_bytes()).hexdigest()
    assert check_attached_code(captioner_with_code) == []


def test_a_folder_without_code_has_nothing_to_check(captioner: Path) -> None:
    assert attached_code(captioner) is None
    assert check_attached_code(captioner) == []


def edit_record(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads((folder / CODE_RECORD).read_text())
    change(content)
    (folder / CODE_RECORD).write_text(json.dumps(content))


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"# changed\n")


def other_hash(folder: Path) -> None:
    """A record that fits a changed file, and not the release."""
    append(folder / "attention.py")
    value = hashlib.sha256((folder / "attention.py").read_bytes()).hexdigest()
    edit_record(folder, lambda content: content["sha256"].update({"attention.py": value}))  # type: ignore[attr-defined]


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no record": (lambda folder: (folder / CODE_RECORD).unlink(), "There is no modeling_lavis_code.json"),
    "changed": (lambda folder: append(folder / "attention.py"), "attention.py is not that of version"),
    "missing": (lambda folder: (folder / "attention.py").unlink(), "attention.py, which .* lists, is missing"),
    "more": (lambda folder: (folder / "more.py").write_text(""), "more.py is not among the files"),
    "not the release": (other_hash, "attention.py of version .* has another SHA-256"),
    "not listed": (
        lambda folder: (
            edit_record(folder, lambda content: content["sha256"].pop("modeling_lavis_blip.py")),  # type: ignore[attr-defined]
            (folder / "modeling_lavis_blip.py").unlink(),
        ),
        "auto_map names modeling_lavis_blip.py, which",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_other_code_is_noticed(name: str, captioner_with_code: Path) -> None:
    change, message = WRONG[name]
    change(captioner_with_code)
    found = check_attached_code(captioner_with_code)
    assert len(found) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found[0])
    attach_code(captioner_with_code)
    (captioner_with_code / "more.py").unlink(missing_ok=True)
    assert check_attached_code(captioner_with_code) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", ["[]", "{", "{}", '{"version": "1", "sha256": {"../a.py": "%s"}}' % ("0" * 64), '{"version": 1}']
)
def test_records_that_are_none(content: str, captioner_with_code: Path) -> None:
    (captioner_with_code / CODE_RECORD).write_text(content)
    with pytest.raises(ValueError, match=CODE_RECORD):
        attached_code(captioner_with_code)
    attach_code(captioner_with_code)
    assert check_attached_code(captioner_with_code) == []


@pytest.mark.slow
def test_code_of_another_version_is_compared_with_its_record_alone(captioner_with_code: Path) -> None:
    other_hash(captioner_with_code)
    edit_record(captioner_with_code, lambda content: content.update(version="0.0.1"))
    assert check_attached_code(captioner_with_code) == []
    append(captioner_with_code / "attention.py")
    assert "attention.py is not that of version 0.0.1" in check_attached_code(captioner_with_code)[0]


@pytest.mark.slow
def test_files_that_an_earlier_release_needed_are_removed(captioner_with_code: Path) -> None:
    for name, content in (("old_part.py", b"# old\n"), ("own_part.py", b"# changed by its owner\n")):
        (captioner_with_code / name).write_bytes(content)
    old, own = (hashlib.sha256(content).hexdigest() for content in (b"# old\n", b"# as attached\n"))
    edit_record(captioner_with_code, lambda c: c["sha256"].update({"old_part.py": old, "own_part.py": own}))  # type: ignore[attr-defined]
    attach_code(captioner_with_code)
    assert not (captioner_with_code / "old_part.py").exists()
    assert (captioner_with_code / "own_part.py").exists()


@pytest.mark.slow
def test_only_needed_files_are_attached(captioner_with_code: Path) -> None:
    names = {path.stem for path in captioner_with_code.glob("*.py")}
    assert names == {path.stem for path in portable_files(["modeling_lavis_blip", "processing_lavis_blip"])}
    other = ("albef", "alpro", "blip_2", "timesformer", "video", "qformer", "frozen_parts", "auto_lavis", "__init__")
    assert [name for name in names for part in other if part in name] == []


@pytest.mark.slow
def test_a_changed_installation_is_noticed(captioner_with_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hashes are those that the wheel recorded, not those of files that were changed afterwards."""

    class File:
        def __init__(self, name: str, value: str) -> None:
            self.name, self.hash = name, importlib.metadata.FileHash(f"sha256={value}")

        def locate(self) -> Path:
            return MODELS / self.name

    class Distribution:
        files = (File("attention.py", "A" * 43), File("losses.py", "B" * 43))

    monkeypatch.setattr(module.importlib.metadata, "distribution", lambda name: Distribution)
    found = installed_code()
    assert found["attention.py"] == "0" * 64 != found["losses.py"]
    assert found["vision_vit.py"] == hashlib.sha256((MODELS / "vision_vit.py").read_bytes()).hexdigest()
    problems = check_attached_code(captioner_with_code)
    assert any(problem.startswith("attention.py of version") for problem in problems)
