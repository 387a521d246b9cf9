"""Drawings of maps, and where they are saved."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_lavis.interpretability import Explanation
from modeling_lavis.interpretability.overlay import colorize, overlay


def explanation(pictures: int = 1) -> Explanation:
    """Two words on pictures of 80 x 40 pixels with 2 x 4 patches; each word is in one patch of the last picture."""
    grids = torch.zeros(2, pictures, 2, 4)
    grids[0, -1, 0, 0], grids[1, -1, 1, 3] = 2.0, 1.0
    shown = [Image.new("RGB", (80, 40), "gray") for _ in range(pictures)]
    return Explanation(
        ["red", "ball,"], grids, grids.mean(dim=0), shown, 0.5, "probability of a match", "match", "gradcam", 1
    )


def test_maps_have_the_size_of_the_picture() -> None:
    found = explanation()
    assert found.map("red").shape == (40, 80)
    assert found.map("red")[5, 5] == 2 and found.map("red")[-1, -1] == 0
    assert torch.equal(found.map("ball"), found.map(1)) and found.map("BALL").max() == 1
    assert torch.allclose(found.map(), (found.map(0) + found.map(1)) / 2)
    with pytest.raises(ValueError, match=r"no word 'blue'; expected one of \['red', 'ball,'\]"):
        found.map("blue")


def test_peaks_and_shares() -> None:
    found = explanation(pictures=3)
    assert found.peak("red") == (2, 10, 10) and found.peak("ball") == (2, 70, 30)
    assert found.shares.tolist() == [[0, 0, 1], [0, 0, 1]]
    found.grids.zero_()
    assert found.shares.sum() == 0


def test_brightest_where_the_value_is_largest() -> None:
    luminance = colorize(np.linspace(0, 1, 50)[None]).mean(axis=-1)[0]
    assert (np.diff(luminance) > 0).all()
    drawn = np.asarray(overlay(Image.new("RGB", (3, 1), "white"), np.array([[0.0, 0.5, 1.0]]))).mean(axis=-1)[0]
    assert drawn[0] < drawn[1] < drawn[2]


def test_every_word_has_a_scale_of_its_own() -> None:
    found = explanation()
    before = np.asarray(found.draw())
    found.grids[1] *= 100
    assert np.array_equal(np.asarray(found.draw()), before)
    found.grids[1, 0, 0, 0] = 100
    assert not np.array_equal(np.asarray(found.draw()), before)


def test_words_and_pictures_are_drawn() -> None:
    one, two = explanation().draw(["red"]), explanation().draw()
    assert one.width < two.width
    frames = explanation(pictures=4).draw()
    assert frames.width > 4 * 80 and frames.height > 3 * 40  # a row of pictures for each word, below the plain ones


def test_shares_of_pictures_are_drawn() -> None:
    found = explanation(pictures=2)
    before = np.asarray(found.draw(["red"]))
    found.grids[0, 0, 0, 0] = 2  # as bright as in the other picture, whose drawing stays
    after = np.asarray(found.draw(["red"]))
    label = slice(-20, None)  # below the last pictures
    assert not np.array_equal(before[label], after[label])


@pytest.mark.parametrize("name", ["maps.png", "maps.jpg", "MAPS.PNG"])
def test_save(tmp_path: Path, name: str) -> None:
    found = explanation()
    found.save(tmp_path / name)
    with Image.open(tmp_path / name) as saved:
        assert saved.size == found.draw().size
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_errors_leave_no_file(tmp_path: Path) -> None:
    for name in ("maps", "maps.txt"):
        with pytest.raises(ValueError, match=r"expected a file name that ends in .png or .jpg"):
            explanation().save(tmp_path / name)
    with pytest.raises(ValueError, match="no word 'blue'"):
        explanation().save(tmp_path / "maps.png", words=["blue"])
    assert not list(tmp_path.iterdir())


def test_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = explanation()
    with Image.open(io.BytesIO(found._repr_png_())) as image:
        assert image.size == found.draw().size
    shown: list[Image.Image] = []
    display = SimpleNamespace(display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=object, display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    found.show()
    assert shown[0].size == found.draw().size


def test_show_outside_of_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []
    monkeypatch.setattr(Image.Image, "show", lambda image: shown.append(image))
    explanation().show()
    assert len(shown) == 1
