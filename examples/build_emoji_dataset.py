# SPDX-License-Identifier: Apache-2.0
"""Build the emoji dataset that the embedded model is trained on: glyphs of Noto Color Emoji with English names.

On Debian and Ubuntu, in about half a minute on one core::

    apt-get install fonts-noto-color-emoji        # SIL OFL 1.1
    pip install -r examples/requirements.txt      # the `emoji` package (names, BSD) beside Pillow with raqm
    python examples/build_emoji_dataset.py --output emoji_set

The output is `images/<stem>.png` (128 x 128 on white), and `train.json` and `val.json` with LAVIS's caption fields
`{image, caption, image_id}` and the `emoji`. The stem determines the split: with h = int(sha1(stem), 16) % 100, train
is h < 80 and val is 80 <= h < 90. The other images are the test split, which is not written, so that nothing can be
trained or tuned on it by mistake.

The stem is `emoji_` and the lower-case hexadecimal code points joined by `_`, without fe0f; flags of two regional
letters are `flag_` and the two letters. Names are converted to the wording of Unicode's CLDR short names:
`:man_running_facing_right_medium_skin_tone:` becomes `man running: medium skin tone, facing right`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

DEFAULT_FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
STRIKE_SIZE = 109  # the only bitmap size of the font, and therefore of FreeType
IMAGE_SIZE = 128
LEFT_MARGIN = 4  # bitmaps are 136 pixels wide, with the glyph in the middle 128
VARIATION_SELECTOR = 0xFE0F
FIRST_REGIONAL_LETTER, LAST_REGIONAL_LETTER = 0x1F1E6, 0x1F1FF

SKIN_TONE = re.compile(r"\b(?:medium-light|medium-dark|medium|light|dark) skin tone\b")
FEATURE = re.compile(r"\b(?:(?:red|curly|white|blond) hair|bald|beard)$")
FACING_RIGHT = re.compile(r"\bfacing right\b")
GROUP = re.compile(r"^(family|kiss|couple with heart)((?: (?:man|woman|boy|girl|person|adult|child))+)$")
JAPANESE_BUTTON = re.compile(r"^Japanese (.+) button$")


def stem_of(emoji: str) -> str:
    """File stem of an emoji, which also determines its split."""
    points = [ord(character) for character in emoji if ord(character) != VARIATION_SELECTOR]
    if len(points) == 2 and all(FIRST_REGIONAL_LETTER <= point <= LAST_REGIONAL_LETTER for point in points):
        return "flag_" + "".join(chr(point - FIRST_REGIONAL_LETTER + ord("a")) for point in points)
    return "emoji_" + "_".join(f"{point:04x}" for point in points)


def split_of(stem: str) -> str:
    """The split of a stem by its sha1: `"train"`, `"val"` or `"test"`."""
    bucket = int(hashlib.sha1(stem.encode()).hexdigest(), 16) % 100
    return "train" if bucket < 80 else "val" if bucket < 90 else "test"


def caption_of(name: str, stem: str) -> str:
    """Convert a name of the `emoji` package to the CLDR short name.

    Args:
        name (`str`): name such as `":kiss_man_man_light_skin_tone_dark_skin_tone:"`.
        stem (`str`): file stem, which identifies flags of countries.

    Returns:
        `str`: caption such as `"kiss: man, man, light skin tone, dark skin tone"`.
    """
    text = name.strip(":").replace("_", " ")
    if stem.startswith("flag_") or "_e0067_" in stem:
        return f"flag: {text}"
    if text.startswith("keycap "):
        return text.replace("keycap ", "keycap: ", 1)
    if (button := JAPANESE_BUTTON.match(text)) is not None:
        return f"Japanese “{button.group(1)}” button"

    details = SKIN_TONE.findall(text)
    text = " ".join(SKIN_TONE.sub("", text).split())
    if FACING_RIGHT.search(text) is not None:
        text = " ".join(FACING_RIGHT.sub("", text).split())
        facing = ["facing right"]
    else:
        facing = []
    feature = FEATURE.search(text)
    if feature is not None and text[: feature.start()].strip() in {"man", "woman", "person"}:
        details.append(feature.group(0))
        text = text[: feature.start()].strip()
    group = GROUP.match(text)
    if group is not None:
        text, details = group.group(1), group.group(2).split() + details
    details += facing
    return f"{text}: {', '.join(details)}" if details else text


def render(emoji: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """Render an emoji as an RGB image of 128 x 128 pixels on white.

    Returns:
        `PIL.Image.Image` or `None`: `None` if the font has no single glyph for the sequence (an emoji newer than the
        font, or a sequence that is rendered side by side).
    """
    left, top, right, bottom = font.getbbox(emoji)
    if bottom <= top or right - left > IMAGE_SIZE + 2 * LEFT_MARGIN:
        return None
    canvas = Image.new("RGB", (IMAGE_SIZE + 2 * LEFT_MARGIN, IMAGE_SIZE), "white")
    ImageDraw.Draw(canvas).text((0, 0), emoji, font=font, embedded_color=True)
    return canvas.crop((LEFT_MARGIN, 0, LEFT_MARGIN + IMAGE_SIZE, IMAGE_SIZE))


def load_font(path: str) -> ImageFont.FreeTypeFont:
    """Open the font with the layout engine that joins sequences into one glyph.

    Raises:
        OSError: the font file is missing, or Pillow was built without raqm.
    """
    if not os.path.isfile(path):
        raise OSError(
            f"There is no font file at {path!r}. Install Debian's package fonts-noto-color-emoji, or give the path of "
            "NotoColorEmoji.ttf with --font."
        )
    if not features.check("raqm"):
        raise OSError(
            "Pillow was built without raqm, so sequences such as skin tones would be rendered as several glyphs. "
            "Install Pillow from PyPI (`pip install --force-reinstall pillow`) together with libfribidi0."
        )
    return ImageFont.truetype(path, STRIKE_SIZE, layout_engine=ImageFont.Layout.RAQM)


def emoji_names() -> dict[str, tuple[str, str]]:
    """All emoji by stem: the fully qualified sequence and its English name, from the `emoji` package."""
    try:
        from emoji import EMOJI_DATA, STATUS
    except ImportError as error:
        raise ImportError("The names come from the package `emoji`: run `pip install emoji`.") from error
    fully_qualified = STATUS["fully_qualified"]
    entries = {emoji: entry for emoji, entry in EMOJI_DATA.items() if entry["status"] == fully_qualified}
    return {stem_of(emoji): (emoji, entry["en"]) for emoji, entry in entries.items()}


def build(output: Path, font_path: str = DEFAULT_FONT, limit: int | None = None) -> dict[str, int]:
    """Write the train and val splits.

    Args:
        output (`Path`): folder that must not exist. It is created atomically.
        font_path (`str`): path of NotoColorEmoji.ttf.
        limit (`int`, *optional*): maximal number of images.

    Returns:
        `dict[str, int]`: number of images in each split, and number of emoji that were left out, by reason.
    """
    if output.exists():
        raise OSError(f"{str(output)!r} exists already. Give a new folder with --output, or remove the old one first.")
    font = load_font(font_path)
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        counts = _write_splits(scratch, font, limit)
        scratch.chmod(0o755)
        os.replace(scratch, output)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return counts


def _write_splits(folder: Path, font: ImageFont.FreeTypeFont, limit: int | None) -> dict[str, int]:
    (folder / "images").mkdir()
    splits: dict[str, list[dict[str, object]]] = {"train": [], "val": []}
    counts = {"train": 0, "val": 0, "left out (test split)": 0, "not in the font": 0, "same image as another": 0}
    seen: set[bytes] = set()
    for stem, (emoji, name) in sorted(emoji_names().items()):
        image = render(emoji, font)
        if image is None:
            counts["not in the font"] += 1
            continue
        digest = hashlib.sha1(image.tobytes()).digest()
        if digest in seen:
            counts["same image as another"] += 1
            continue
        seen.add(digest)
        split = split_of(stem)
        if split == "test":
            counts["left out (test split)"] += 1
            continue
        image.quantize(96).save(folder / "images" / f"{stem}.png", optimize=True)
        splits[split].append(
            {
                "image": f"images/{stem}.png",
                "caption": caption_of(name, stem),
                "image_id": len(seen),
                "emoji": emoji,
            }
        )
        counts[split] += 1
        if limit is not None and counts["train"] + counts["val"] >= limit:
            break
    for split, entries in splits.items():
        text = json.dumps(entries, ensure_ascii=False, indent=0)
        (folder / f"{split}.json").write_text(text, encoding="utf-8")
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Build the emoji dataset of the embedded model.")
    parser.add_argument("--output", type=Path, required=True, help="folder to create")
    parser.add_argument("--font", default=DEFAULT_FONT, help="NotoColorEmoji.ttf (default: the path on Debian)")
    parser.add_argument("--limit", type=int, default=None, help="maximal number of images")
    options = parser.parse_args(arguments)
    try:
        counts = build(options.output, options.font, options.limit)
    except (ImportError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for reason, count in counts.items():
        print(f"{reason:>24}: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
