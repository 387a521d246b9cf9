# SPDX-License-Identifier: Apache-2.0
"""PIL images in lists of rows are stored as they are in memory, without loss."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageDraw
import pytest

from modeling_lavis.data.collators import open_row_image
from modeling_lavis.data.loading import load_data

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)


def stored(image: PIL.Image.Image) -> dict[str, Any]:
    value: dict[str, Any] = load_data([{"image": image, "caption": "x"}], "captioning")[0]["image"]
    return value


def loaded(image: PIL.Image.Image) -> PIL.Image.Image:
    opened: PIL.Image.Image = open_row_image(stored(image))
    return opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    PIL.Image.fromarray(PIXELS[..., :3]).resize((64, 64)).save(tmp_path / "a.jpg")
    return tmp_path / "a.jpg"


def test_images_changed_in_place(path: Path) -> None:
    smaller, drawn = PIL.Image.open(path), PIL.Image.open(path)
    smaller.thumbnail((8, 8))
    PIL.ImageDraw.Draw(drawn).rectangle((0, 0, 64, 64), fill="red")
    reduced = PIL.Image.open(path)
    reduced.draft("L", (8, 8))  # nothing is read yet
    expected = [image.copy() for image in (smaller, drawn)]
    for image, copy in zip((smaller, drawn), expected, strict=True):
        found = loaded(image)
        assert found.size == copy.size and found.tobytes() == copy.tobytes()
    assert loaded(reduced).mode == "L"
    path.unlink()
    assert loaded(drawn).tobytes() == drawn.tobytes()


def test_later_frames(tmp_path: Path) -> None:
    frames = [PIL.Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    gif = PIL.Image.open(tmp_path / "a.gif")
    gif.seek(1)
    assert loaded(gif).convert("RGB").getpixel((4, 4)) == (0, 0, 255)


def test_images_of_files_that_are_not_read_are_not_copied(path: Path) -> None:
    image = PIL.Image.open(path)
    assert stored(image) == {"bytes": None, "path": str(path)}
    assert image.tile, "its pixels were read, and would stay in memory"


def test_bytes_come_before_a_file_of_their_name(path: Path) -> None:
    content = io.BytesIO()
    MODES["L"].save(content, "PNG")
    rows = [{"image": {"bytes": content.getvalue(), "path": str(path)}, "caption": "x"}]
    assert load_data(rows, "captioning")[0]["image"]["bytes"] == content.getvalue()


def test_images_are_not_compressed_with_loss(path: Path) -> None:
    image = PIL.Image.open(io.BytesIO(path.read_bytes()))
    image.load()
    assert loaded(image).tobytes() == image.tobytes()


def test_the_orientation_of_a_changed_image_stays(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    PIL.Image.fromarray(PIXELS[..., :3]).save(tmp_path / "a.jpg", exif=exif)
    image = PIL.Image.open(tmp_path / "a.jpg")
    image.load()
    assert loaded(image).getexif()[PIL.ExifTags.Base.Orientation] == 6


MODES = {mode: PIL.Image.fromarray(PIXELS).convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "RGBa")}
MODES |= {mode: PIL.Image.fromarray(PIXELS[..., :3]).convert(mode) for mode in ("CMYK", "HSV", "YCbCr", "PA")}
MODES["I"] = PIL.Image.fromarray((PIXELS[..., 0].astype(np.int32) - 100) * 70000)
MODES["I;16"] = PIL.Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 250)
MODES["F"] = PIL.Image.fromarray(PIXELS[..., 0].astype(np.float32) / 7)
MODES["LAB"] = PIL.Image.frombytes("LAB", (8, 6), PIXELS[..., :3].tobytes())
MODES["transparent"] = MODES["RGB"].convert("P")
MODES["transparent"].info["transparency"] = 3


@pytest.mark.parametrize("mode", MODES)
def test_all_modes(mode: str) -> None:
    image, found = MODES[mode], loaded(MODES[mode])
    if mode not in ("HSV", "RGBa", "YCbCr"):  # stored in another mode
        assert found.mode == image.mode and found.tobytes() == image.tobytes()
    if mode != "LAB":  # PIL does not convert it
        assert found.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()
