"""Files of unusual names and places, and files that change: what an index makes of them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from modeling_lavis.search import SearchIndex, build_index, near_duplicates, remove_from_index
from tests.search.stubs import StubRetriever, save_pictures

pytestmark = pytest.mark.slow

NAMES = ("häßlich", "海辺の犬", "dog \N{DOG FACE}", "a\nb\tc", "x" * 251, " ", "'\"$(rm)`")


def build(data: Any, index: Path, **options: Any) -> Any:
    return build_index(data, StubRetriever(), index, **options)


def names_of(index: SearchIndex) -> list[str]:
    return [Path(index.record(row)["file"]).name for row in range(len(index))]


def test_names(tmp_path: Path) -> None:
    data = tmp_path / "data"
    save_pictures(data, range(len(NAMES)))
    for number, name in enumerate(NAMES):
        (data / f"{number:03d}.png").rename(data / f"{name}.png")
    made = build(data, tmp_path / "index")
    index = SearchIndex(tmp_path / "index")
    assert (made.items, made.failed) == (len(NAMES), 0)
    assert sorted(names_of(index)) == sorted(f"{name}.png" for name in NAMES)
    assert all(index.state(row) == "unchanged" for row in range(len(index)))
    assert build(data, tmp_path / "index").added == 0
    removed = remove_from_index(tmp_path / "index", [str(data / f"{name}.png") for name in NAMES[1:]])
    assert removed.removed == len(NAMES) - 1 and names_of(SearchIndex(tmp_path / "index")) == [f"{NAMES[0]}.png"]


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    data = tmp_path / "data"
    save_pictures(data, range(2))
    try:
        os.rename(data / "001.png", os.fsencode(data) + b"/\xff.png")
    except OSError:
        pytest.skip("the file system has no such names")
    for _ in range(2):
        made = build(data, tmp_path / "index")
        assert (made.items, made.failed) == (1, 1)
        assert "is not valid Unicode" in Path(made.failures).read_text()


def test_deep_folders(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for _ in range(12):
        folder /= "y" * 200
    save_pictures(folder, [0])
    assert len(os.fspath(folder)) > 2400
    assert build(tmp_path / "data", tmp_path / "index").items == 1
    assert SearchIndex(tmp_path / "index").state(0) == "unchanged"


def test_symbolic_links(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    save_pictures(data, [0])
    save_pictures(elsewhere, [1])
    (data / "link.png").symlink_to(elsewhere / "001.png")
    (data / "same.png").symlink_to(data / "000.png")
    (data / "nothing.png").symlink_to(tmp_path / "nothing")
    (data / "circle").symlink_to(data)
    made = build(data, tmp_path / "index")
    index = SearchIndex(tmp_path / "index")
    assert (made.items, made.failed) == (3, 1) and "nothing.png" in Path(made.failures).read_text()
    assert names_of(index) == ["000.png", "link.png", "same.png"]
    assert near_duplicates(index, 1.0) == [[0, 2]]
    save_pictures(elsewhere, [1])
    os.utime(elsewhere / "001.png", ns=(1, 1))
    assert index.state(1) == "changed", "of a link its target counts"
    (tmp_path / "other").symlink_to(tmp_path / "index")
    assert build(data, tmp_path / "other").added == 1
    assert (tmp_path / "other").is_symlink() and len(SearchIndex(tmp_path / "index")) == 3


def test_a_file_that_is_named_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_pictures(tmp_path / "data", range(2))
    made = build(["data/000.png", "./data/000.png", "data/001.png", "data/000.png"], tmp_path / "index")
    assert (made.items, made.added) == (2, 2)
    index = SearchIndex(tmp_path / "index")
    np.testing.assert_array_equal(np.unique(index.files.vectors, axis=0).shape, (2, 48))
    monkeypatch.chdir(tmp_path / "data")
    assert index.item(1) == str(tmp_path / "data" / "001.png"), "in another working folder"


def test_the_time_of_a_file_is_that_before_it_was_read(tmp_path: Path) -> None:
    """A file that changes while it is indexed counts as changed."""
    save_pictures(tmp_path / "data", range(3))

    def touch(rows: Any) -> None:
        os.utime(tmp_path / "data" / "001.png", ns=(5, 5))

    build_index(tmp_path / "data", StubRetriever(touch), tmp_path / "index")
    assert SearchIndex(tmp_path / "index").changes()["changed"] == [str(tmp_path / "data" / "001.png")]


def test_hidden_states_that_fit_are_stored(tmp_path: Path) -> None:
    """Those of the first items; of later ones when there is room again."""
    size = 48 * 4
    save_pictures(tmp_path / "data", range(5))
    made = build(tmp_path / "data", tmp_path / "index", disk_budget=3 * size + 1)
    states: Any = SearchIndex(tmp_path / "index").files.states
    assert made.with_states == 3 and [entry is None for entry in states] == [False] * 3 + [True] * 2
    remove_from_index(tmp_path / "index", [str(tmp_path / "data" / "000.png")])
    save_pictures(tmp_path / "data", (8, 9))
    made = build(tmp_path / "data", tmp_path / "index")  # the budget stays; 000.png comes first
    index = SearchIndex(tmp_path / "index")
    assert names_of(index) == ["001.png", "002.png", "003.png", "004.png", "000.png", "008.png", "009.png"]
    states = index.files.states
    assert [entry is not None for entry in states] == [True, True, False, False, True, False, False]
    for row in (0, 1, 4):
        pixels = StubRetriever()._prepare_pixels({"image": index.record(row)["path"]})["pixel_values"][0]
        np.testing.assert_array_equal(states[row], pixels.flatten(1))
    assert made.with_states == 3
    assert build(tmp_path / "data", tmp_path / "index", disk_budget=0).with_states == 3


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder with images and an index that cannot be written to, not even by root."""
    folder = tmp_path / "mount"
    save_pictures(tmp_path / "source" / "data", range(3))
    build(tmp_path / "source" / "data", tmp_path / "source" / "index")
    if os.geteuid() != 0:
        shutil.copytree(tmp_path / "source", folder)
        for path in (folder / "index", folder / "data", folder):
            path.chmod(0o555)
        yield folder
        for path in (folder, folder / "data", folder / "index"):
            path.chmod(0o755)
        return
    folder.mkdir()
    bound = subprocess.run(["mount", "--bind", tmp_path / "source", folder], capture_output=True)
    remounted = subprocess.run(["mount", "-o", "remount,bind,ro", folder], capture_output=True)
    try:
        if bound.returncode or remounted.returncode:
            pytest.skip("mounting is not permitted here")
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], capture_output=True)


def test_read_only_folders(read_only: Path, tmp_path: Path) -> None:
    index = SearchIndex(read_only / "index")
    assert len(index) == 3 and index.record(0)["file"].endswith("000.png")
    with pytest.raises(OSError, match=str(read_only)):
        build(read_only / "data", read_only / "index")
    with pytest.raises(OSError, match=str(read_only)):
        build(read_only / "data", read_only / "new")
    with pytest.raises(OSError, match=str(read_only)):
        remove_from_index(read_only / "index", missing=True)
    assert build(read_only / "data", tmp_path / "here").items == 3


def test_images_in_memory(tmp_path: Path) -> None:
    images = [np.full((4, 4, 3), number, np.uint8) for number in (0, 100, 200)]
    made = build([images[0], {"image": PIL.Image.fromarray(images[1])}, images[2]], tmp_path / "index")
    index = SearchIndex(tmp_path / "index")
    assert made.failed == 0 and names_of(index) == ["row 0", "row 1", "row 2"]
    assert index.record(0)["path"] is index.record(0)["bytes"] is None and index.state(1) == "unknown"
