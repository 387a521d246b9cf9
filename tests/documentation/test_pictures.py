"""The pictures of the documentation: small, on a page with a text for those who do not see them, and made anew."""

import re
from pathlib import Path

import PIL.Image
import PIL.ImageChops
import PIL.ImageStat
import pytest

from docs.tools.pictures import FOLDER, MAX_BYTES, PICTURES, TOP, shrink

PAGES = [TOP / "README.md", *TOP.glob("docs/**/*.md")]
#: made from measurements, by `python -m benchmarks`, and by `--plot` on data that are not part of the project
MEASURED = {"retrieval_scale.png", "evaluation_retrieval.png", "training_curves.png"}


def test_pictures_are_small_and_known() -> None:
    found = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert set(found) == set(PICTURES) | MEASURED
    assert {name: size for name, size in found.items() if size > MAX_BYTES} == {}


def test_every_picture_is_on_a_page() -> None:
    shown = {}
    for page in PAGES:
        for text, link in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                assert len(text) > 10, f"{page}: {link} has no text"
                shown[(page.parent / link).resolve()] = page
    assert {path.resolve() for path in FOLDER.iterdir()} <= set(shown)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo.png", "maps.png", "search.png"])
def test_pictures_show_what_commands_write(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    PICTURES[name](path)
    shrink(path)
    new, kept = (PIL.Image.open(file).convert("RGB") for file in (path, FOLDER / name))
    assert new.size == kept.size
    difference = PIL.ImageStat.Stat(PIL.ImageChops.difference(new, kept)).mean
    assert max(difference) < 4, f"run make docs-pictures: {name} has changed"


def test_pictures_that_stay_too_large_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    PIL.Image.effect_noise((800, 800), 100).save(path)
    with pytest.raises(ValueError, match=r"noise\.png has [\d,]+ bytes; expected at most 100,000"):
        shrink(path)
    PIL.Image.new("RGB", (1800, 20), "red").save(path)
    shrink(path)
    assert PIL.Image.open(path).size == (900, 10)
