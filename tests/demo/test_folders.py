"""Paths that visitors of the page may name."""

import os
from pathlib import Path

import pytest

from modeling_lavis.demo.folders import AllowedFolders


@pytest.fixture
def folders(tmp_path: Path) -> AllowedFolders:
    (tmp_path / "own" / "inside").mkdir(parents=True)
    (tmp_path / "own" / "file.txt").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secret.txt").write_text("x")
    (tmp_path / "own" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "own-too").mkdir()
    return AllowedFolders([tmp_path / "own"])


def test_what_is_inside_may_be_named(folders: AllowedFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    assert folders.folder(str(own)) == own and folders.folder(f" {own}/inside/../inside ") == own / "inside"
    assert folders.file(str(own / "file.txt")) == own / "file.txt"
    assert folders.check(str(own / "new" / "folder"), "output") == own / "new" / "folder"
    monkeypatch.chdir(own)
    assert folders.folder("inside") == own / "inside"


@pytest.mark.parametrize(
    "name",
    ["other", "own/../other", "own/link", "own/link/secret.txt", "own-too", ".", "own/inside/../..", "nothing", "~"],
)
def test_what_is_outside_is_refused(folders: AllowedFolders, tmp_path: Path, name: str) -> None:
    given = os.path.join(tmp_path, name)
    for ask in (folders.folder, folders.file):
        with pytest.raises(PermissionError, match="--allow FOLDER"):
            ask(given)
    assert not folders.contains(given)


@pytest.mark.parametrize("given", ["/etc/passwd", "\0", "x" * 5000, "http://127.0.0.1/x", "org/name"])
def test_other_texts_are_refused(folders: AllowedFolders, given: str) -> None:
    with pytest.raises(PermissionError, match="outside of the folders"):
        folders.check(given, "checkpoint")


def test_nothing_and_what_does_not_exist(folders: AllowedFolders, tmp_path: Path) -> None:
    for nothing in (None, "", "  "):
        with pytest.raises(ValueError, match="There is no checkpoint. Type its path."):
            folders.file(nothing, "checkpoint")
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        folders.folder(str(tmp_path / "own" / "file.txt"))
    with pytest.raises(FileNotFoundError, match="is not a file"):
        folders.file(str(tmp_path / "own" / "inside"))
    with pytest.raises(NotADirectoryError, match="is not a folder. Give one that exists."):
        AllowedFolders([tmp_path / "missing"])
    assert not AllowedFolders() and folders
    with pytest.raises(PermissionError, match=r"\(none\)"):
        AllowedFolders().check("x", "folder")
