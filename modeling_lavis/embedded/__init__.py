# SPDX-License-Identifier: Apache-2.0
"""The small trained BLIP that travels with the package, and a few pictures to try it on.

The model's card is `model/README.md` beside this file: what it was trained on, by which command, and how well it does
on pictures that it has not seen. The pictures are glyphs of the font Noto Color Emoji (SIL Open Font License 1.1).
"""

from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).resolve().parent


class EmbeddedImage(NamedTuple):
    """A carried picture.

    Args:
        path (`pathlib.Path`): PNG of 128 x 128 pixels on white.
        caption (`str`): its English name, in the wording of Unicode's CLDR.
    """

    path: Path
    caption: str


# All of them belong to the val part of the set: the model was not trained on them.
_CAPTIONS = {
    "emoji_1f3c3_1f3fe_200d_27a1": "person running: medium-dark skin tone, facing right",
    "emoji_1f3c4_1f3fb_200d_2642": "man surfing: light skin tone",
    "emoji_1f469_1f3fb_200d_1f3eb": "woman teacher: light skin tone",
    "emoji_1f468_1f3fd_200d_1f3a4": "man singer: medium skin tone",
    "emoji_1f469_1f3fd_200d_1f692": "woman firefighter: medium skin tone",
    "emoji_1f6a3_1f3ff": "person rowing boat: dark skin tone",
    "emoji_1f469_1f3fe_200d_1f9bc_200d_27a1": "woman in motorized wheelchair: medium-dark skin tone, facing right",
    "emoji_1f9d1_200d_1f91d_200d_1f9d1": "people holding hands",
    "emoji_1f487_1f3fc_200d_2642": "man getting haircut: medium-light skin tone",
    "emoji_1f939_1f3fe": "person juggling: medium-dark skin tone",
    "emoji_1f9dc_1f3ff_200d_2640": "mermaid: dark skin tone",
    "emoji_1faf1_1f3fd_200d_1faf2_1f3ff": "handshake: medium skin tone, dark skin tone",
}


def embedded_model_path() -> str:
    """Folder of the model; `from_pretrained` of the Auto classes and of `LavisBlipProcessor` takes it."""
    return str(_FOLDER / "model")


def embedded_images() -> list[EmbeddedImage]:
    """The carried pictures with their names, in a fixed order."""
    return [EmbeddedImage(_FOLDER / "images" / f"{stem}.png", caption) for stem, caption in _CAPTIONS.items()]


__all__ = ["EmbeddedImage", "embedded_images", "embedded_model_path"]
