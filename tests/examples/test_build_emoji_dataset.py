"""The script that builds the emoji dataset: file names, splits, captions; rendering where the font is installed."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image, features

from modeling_lavis.embedded import embedded_images

from .example_scripts import load_script

build_emoji = load_script("build_emoji_dataset")

FONT_IS_INSTALLED = os.path.isfile(build_emoji.DEFAULT_FONT) and features.check("raqm")


@pytest.mark.parametrize(
    ("emoji", "stem"),
    [
        ("\N{GRINNING FACE}", "emoji_1f600"),
        ("\u2764\ufe0f", "emoji_2764"),
        ("#\ufe0f\u20e3", "emoji_0023_20e3"),
        ("\U0001f9d1\U0001f3ff\u200d\U0001f9bd\u200d\u27a1\ufe0f", "emoji_1f9d1_1f3ff_200d_1f9bd_200d_27a1"),
        ("\U0001f1f1\U0001f1f9", "flag_lt"),
    ],
)
def test_file_stems(emoji: str, stem: str) -> None:
    assert build_emoji.stem_of(emoji) == stem


@pytest.mark.parametrize(
    ("stem", "part"),
    [("emoji_0023_20e3", "train"), ("flag_lt", "train"), ("emoji_1f468_200d_1f3a8", "val"), ("emoji_2764", "val")],
)
def test_split_depends_on_the_stem(stem: str, part: str) -> None:
    assert build_emoji.split_of(stem) == part


@pytest.mark.parametrize(
    ("name", "stem", "caption"),
    [
        (":red_apple:", "emoji_1f34e", "red apple"),
        (":man_dark_skin_tone_beard:", "emoji_x", "man: dark skin tone, beard"),
        (":person_running_facing_right_light_skin_tone:", "emoji_x", "person running: light skin tone, facing right"),
        (":woman_walking_facing_right:", "emoji_x", "woman walking: facing right"),
        (
            ":kiss_man_man_light_skin_tone_medium-dark_skin_tone:",
            "emoji_x",
            "kiss: man, man, light skin tone, medium-dark skin tone",
        ),
        (":family_man_woman_girl_boy:", "emoji_x", "family: man, woman, girl, boy"),
        (":kiss_mark:", "emoji_x", "kiss mark"),
        (":Lithuania:", "flag_lt", "flag: Lithuania"),
        (":keycap_#:", "emoji_0023_20e3", "keycap: #"),
        (":Japanese_free_of_charge_button:", "emoji_1f21a", "Japanese “free of charge” button"),
    ],
)
def test_captions_are_cldr_names(name: str, stem: str, caption: str) -> None:
    assert build_emoji.caption_of(name, stem) == caption


def test_missing_font_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="fonts-noto-color-emoji"):
        build_emoji.build(tmp_path / "set", font_path=str(tmp_path / "no.ttf"))
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(OSError, match="exists already"):
        build_emoji.build(tmp_path)
    assert (tmp_path / "kept").read_text() == "mine"


def test_embedded_images_belong_to_the_val_split() -> None:
    assert {build_emoji.split_of(image.path.stem) for image in embedded_images()} == {"val"}


@pytest.mark.skipif(not FONT_IS_INSTALLED, reason="needs the font of Debian's package fonts-noto-color-emoji")
def test_build(tmp_path: Path) -> None:
    pytest.importorskip("emoji", reason="the names come from the package emoji")
    counts = build_emoji.build(tmp_path / "set", limit=30)
    train = json.loads((tmp_path / "set" / "train.json").read_text(encoding="utf-8"))
    val = json.loads((tmp_path / "set" / "val.json").read_text(encoding="utf-8"))
    assert (len(train), len(val)) == (counts["train"], counts["val"])
    assert len(train) + len(val) == 30
    for part, entries in {"train": train, "val": val}.items():
        for entry in entries:
            path = tmp_path / "set" / entry["image"]
            assert build_emoji.split_of(path.stem) == part
            with Image.open(path) as image:
                assert image.size == (128, 128)
                assert len(set(image.convert("RGB").get_flattened_data())) > 2


@pytest.mark.skipif(not FONT_IS_INSTALLED, reason="needs the font of Debian's package fonts-noto-color-emoji")
def test_missing_glyphs_are_not_rendered() -> None:
    font = build_emoji.load_font(build_emoji.DEFAULT_FONT)
    assert build_emoji.render("\U0010fffd", font) is None
    assert build_emoji.render("\N{GRINNING FACE}\N{RED APPLE}", font) is None
    assert build_emoji.render("\N{GRINNING FACE}", font).size == (128, 128)
