"""The commands `index` and `search`, with the embedded model."""

import json
import shutil
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from modeling_lavis.cli.main import main
from modeling_lavis.embedded import embedded_images
from modeling_lavis.evaluation.index_writing import index_lock

pytestmark = pytest.mark.slow


def test_index_and_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    images = embedded_images()[:5]
    for number, image in enumerate(images):
        with PIL.Image.open(image.path) as opened:
            opened.convert("RGB").save(f"photos/{number}.png")
    shutil.copy("photos/0.png", "photos/copy.png")

    def run(*arguments: Any) -> tuple[int, list[dict[str, Any]], str]:
        status = main([*map(str, arguments), "--json"])
        out, err = capfd.readouterr()
        return status, [json.loads(line) for line in out.splitlines()], err

    status, (made,), _ = run("index", "photos", "--output", "photos.index", "--device", "cpu")
    assert (status, made["items"], made["added"]) == (0, 6, 6)

    status, (stored,), _ = run("index", "photos", "--output", "stored.index", "--device", "cpu", "--disk-budget", 10**8)
    assert (status, made["with_states"], stored["with_states"]) == (0, 0, 6)
    with index_lock(Path("stored.index")):
        status, _, err = run("index", "--output", "stored.index", "--remove", "photos/3.png")
    assert status == 1 and "Another process is changing the index stored.index" in err

    query = ("search", "photos.index", images[3].caption, "--device", "cpu", "--top-k", 2)
    status, found, _ = run(*query, "--sheet", "found.png")
    assert status == 0 and [entry["file"] for entry in found][:1] == ["photos/3.png"] and len(found) == 2
    with PIL.Image.open("found.png") as sheet:
        assert sheet.size[0] > 2 * 260 and len(sheet.getcolors(2**20) or []) > 50
    status, found, _ = run("search", "photos.index", "--image", "photos/2.png", "--device", "cpu")
    assert status == 0 and found[0]["file"] == "photos/2.png" and len(found) == 6
    assert main(["search", "photos.index", images[3].caption, "--device", "cpu", "--no-rerank"]) == 0
    assert "cosine +" in capfd.readouterr().out

    status, (group,), _ = run("search", "photos.index", "--dedupe", 0.999, "--sheet", "same.png")
    assert status == 0 and group["files"] == ["photos/0.png", "photos/copy.png"] and Path("same.png").exists()

    Path("photos/3.png").unlink()
    status, found, err = run(*query, "--sheet", "found.png")
    assert status == 0 and "photos/3.png does not exist any more" in err and all(entry["row"] != 3 for entry in found)
    status, (state,), _ = run("index", "--output", "photos.index")
    assert status == 1 and state["missing"] == ["photos/3.png"] and state["changed"] == []
    status, (removed,), _ = run("index", "--output", "photos.index", "--remove", "photos/copy.png", "--remove-missing")
    assert (status, removed["items"], removed["removed"]) == (0, 4, 2)
    status, groups, err = run("search", "photos.index", "--dedupe", 0.999)
    assert (status, groups) == (0, []) and err == "note: no two items have a cosine similarity of at least 0.999.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "i"], "nothing to search for"),
        (["search", "i", "a dog", "--dedupe"], "TEXT cannot be used with --dedupe"),
        (["search", "i", "--image", "x.png", "--no-rerank"], "are for texts"),
        (["search", "i", "a dog", "--sheet", "x.jpg"], "ends in .png"),
        (["index", "--output", "i", "--index", "hnsw"], "--index cannot be used without inputs"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capfd.readouterr().err


def test_no_index(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(tmp_path), "a dog"]) == 1
    assert "is not an index" in capfd.readouterr().err
