# SPDX-License-Identifier: Apache-2.0
"""Rebuild the emoji set that the embedded model is trained on: glyphs of Noto Color Emoji with English names.

What is needed (Debian, Ubuntu), about half a minute of one core::

    apt-get install fonts-noto-color-emoji        # SIL OFL 1.1
    pip install -r examples/requirements.txt      # the `emoji` package (names, BSD) beside Pillow with raqm
    python examples/build_emoji_dataset.py --output emoji_set

Written: `images/<stem>.png` (128 x 128 on white), `train.json` and `val.json` with LAVIS's caption fields
`{image, caption, image_id}` and the `emoji` itself. A picture's part is decided by its stem alone:
h = int(sha1(stem), 16) % 100, train below 80, val below 90. The remaining pictures are the test part, which is
left out here, so that nothing can train or tune on it by mistake.

The stem is `emoji_` + the lower-case hexadecimal code points joined by `_`, without fe0f; flags of two regional
letters are `flag_` + the two letters. Names are put into the wording of Unicode's CLDR short names:
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
STRIKE_SIZE = 109  # the only bitmap size of the font; other sizes are refused by FreeType
PICTURE_SIZE = 128
LEFT_MARGIN = 4  # a bitmap is 136 pixels wide, the drawing lies in the middle 128
VARIATION_SELECTOR = 0xFE0F
FIRST_REGIONAL_LETTER, LAST_REGIONAL_LETTER = 0x1F1E6, 0x1F1FF

SKIN_TONE = re.compile(r"\b(?:medium-light|medium-dark|medium|light|dark) skin tone\b")
FEATURE = re.compile(r"\b(?:(?:red|curly|white|blond) hair|bald|beard)$")
FACING_RIGHT = re.compile(r"\bfacing right\b")
GROUP = re.compile(r"^(family|kiss|couple with heart)((?: (?:man|woman|boy|girl|person|adult|child))+)$")
JAPANESE_BUTTON = re.compile(r"^Japanese (.+) button$")


def stem_of(emoji: str) -> str:
    """File stem of an emoji, which also decides its part of the set."""
    points = [ord(character) for character in emoji if ord(character) != VARIATION_SELECTOR]
    if len(points) == 2 and all(FIRST_REGIONAL_LETTER <= point <= LAST_REGIONAL_LETTER for point in points):
        return "flag_" + "".join(chr(point - FIRST_REGIONAL_LETTER + ord("a")) for point in points)
    return "emoji_" + "_".join(f"{point:04x}" for point in points)


def part_of(stem: str) -> str:
    """`"train"`, `"val"` or `"test"` for a stem, by its sha1."""
    bucket = int(hashlib.sha1(stem.encode()).hexdigest(), 16) % 100
    return "train" if bucket < 80 else "val" if bucket < 90 else "test"


def caption_of(name: str, stem: str) -> str:
    """Turn a name of the `emoji` package into the wording of the CLDR short name.

    Args:
        name (str): such as `":kiss_man_man_light_skin_tone_dark_skin_tone:"`.
        stem (str): stem of the picture; tells flags of countries.

    Returns:
        str: such as `"kiss: man, man, light skin tone, dark skin tone"`.
    """
    words = name.strip(":").replace("_", " ")
    if stem.startswith("flag_") or "_e0067_" in stem:
        return f"flag: {words}"
    if words.startswith("keycap "):
        return words.replace("keycap ", "keycap: ", 1)
    if (button := JAPANESE_BUTTON.match(words)) is not None:
        return f"Japanese “{button.group(1)}” button"

    details = SKIN_TONE.findall(words)
    words = " ".join(SKIN_TONE.sub("", words).split())
    if FACING_RIGHT.search(words) is not None:
        words = " ".join(FACING_RIGHT.sub("", words).split())
        facing = ["facing right"]
    else:
        facing = []
    feature = FEATURE.search(words)
    if feature is not None and words[: feature.start()].strip() in {"man", "woman", "person"}:
        details.append(feature.group(0))
        words = words[: feature.start()].strip()
    group = GROUP.match(words)
    if group is not None:
        words, details = group.group(1), group.group(2).split() + details
    details += facing
    return f"{words}: {', '.join(details)}" if details else words


def render(emoji: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """Draw one emoji as an RGB picture of 128 x 128 pixels on white.

    Returns:
        `PIL.Image.Image` or `None`: `None` where the font has no single glyph for the sequence (an emoji newer than
        the font, or a sequence that it draws side by side).
    """
    left, top, right, bottom = font.getbbox(emoji)
    if bottom <= top or right - left > PICTURE_SIZE + 2 * LEFT_MARGIN:
        return None
    canvas = Image.new("RGB", (PICTURE_SIZE + 2 * LEFT_MARGIN, PICTURE_SIZE), "white")
    ImageDraw.Draw(canvas).text((0, 0), emoji, font=font, embedded_color=True)
    return canvas.crop((LEFT_MARGIN, 0, LEFT_MARGIN + PICTURE_SIZE, PICTURE_SIZE))


def load_font(path: str) -> ImageFont.FreeTypeFont:
    """Open the font with the layout engine that joins sequences into one glyph.

    Raises:
        OSError: when the font file is missing or Pillow was built without raqm.
    """
    if not os.path.isfile(path):
        raise OSError(
            f"There is no font file at {path!r}. Install Debian's package fonts-noto-color-emoji, or name the file "
            "NotoColorEmoji.ttf with --font."
        )
    if not features.check("raqm"):
        raise OSError(
            "Pillow was built without raqm, so sequences such as skin tones would fall apart. "
            "Install Pillow from PyPI (`pip install --force-reinstall pillow`) together with libfribidi0."
        )
    return ImageFont.truetype(path, STRIKE_SIZE, layout_engine=ImageFont.Layout.RAQM)


def emoji_names() -> dict[str, tuple[str, str]]:
    """All emoji by stem: the fully written sequence and its English name, from the `emoji` package."""
    try:
        from emoji import EMOJI_DATA, STATUS
    except ImportError as error:
        raise ImportError("The names come from the package `emoji`: run `pip install emoji`.") from error
    wanted = STATUS["fully_qualified"]
    entries = {emoji: entry for emoji, entry in EMOJI_DATA.items() if entry["status"] == wanted}
    return {stem_of(emoji): (emoji, entry["en"]) for emoji, entry in entries.items()}


def build(output: Path, font_path: str = DEFAULT_FONT, limit: int | None = None) -> dict[str, int]:
    """Write the train and val parts.

    Args:
        output (Path): a folder that does not exist yet. It appears whole or not at all.
        font_path (str): NotoColorEmoji.ttf.
        limit (int, *optional*): stop after that many pictures; for a quick look.

    Returns:
        dict: how many pictures each part has, and how many emoji were passed over and why.
    """
    if output.exists():
        raise OSError(f"{str(output)!r} exists already. Name a new folder with --output, or remove the old one first.")
    font = load_font(font_path)
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        counts = _write_parts(scratch, font, limit)
        scratch.chmod(0o755)
        os.replace(scratch, output)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return counts


def _write_parts(folder: Path, font: ImageFont.FreeTypeFont, limit: int | None) -> dict[str, int]:
    (folder / "images").mkdir()
    parts: dict[str, list[dict[str, object]]] = {"train": [], "val": []}
    counts = {"train": 0, "val": 0, "left out (test part)": 0, "not in the font": 0, "same picture as another": 0}
    seen: set[bytes] = set()
    for stem, (emoji, name) in sorted(emoji_names().items()):
        picture = render(emoji, font)
        if picture is None:
            counts["not in the font"] += 1
            continue
        digest = hashlib.sha1(picture.tobytes()).digest()
        if digest in seen:
            counts["same picture as another"] += 1
            continue
        seen.add(digest)
        part = part_of(stem)
        if part == "test":
            counts["left out (test part)"] += 1
            continue
        picture.quantize(96).save(folder / "images" / f"{stem}.png", optimize=True)
        parts[part].append(
            {
                "image": f"images/{stem}.png",
                "caption": caption_of(name, stem),
                "image_id": len(seen),
                "emoji": emoji,
            }
        )
        counts[part] += 1
        if limit is not None and counts["train"] + counts["val"] >= limit:
            break
    for part, entries in parts.items():
        text = json.dumps(entries, ensure_ascii=False, indent=0)
        (folder / f"{part}.json").write_text(text, encoding="utf-8")
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Draw the emoji set of the embedded model.")
    parser.add_argument("--output", type=Path, required=True, help="folder to create")
    parser.add_argument("--font", default=DEFAULT_FONT, help="NotoColorEmoji.ttf (default: Debian's place)")
    parser.add_argument("--limit", type=int, default=None, help="stop after so many pictures")
    options = parser.parse_args(arguments)
    try:
        counts = build(options.output, options.font, options.limit)
    except (ImportError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for what, count in counts.items():
        print(f"{what:>24}: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
