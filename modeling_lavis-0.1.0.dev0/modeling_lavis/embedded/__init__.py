# SPDX-License-Identifier: Apache-2.0
"""A small trained BLIP model that is part of the package, and a few images to try it on.

The model card is `model/README.md` in this folder, with the training data, the training command and the scores on
held-out images. The images are glyphs of the font Noto Color Emoji (SIL Open Font License 1.1).
"""

from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).resolve().parent


class EmbeddedImage(NamedTuple):
    """
    An embedded image.

    Args:
        path (`pathlib.Path`): PNG file of 128 x 128 pixels with a white background.
        caption (`str`): English name of the image, as in Unicode's CLDR.
    """

    path: Path
    caption: str


# All images are from the validation split, so the model was not trained on them.
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
    """Return the folder of the model, for `from_pretrained` of the Auto classes and of `LavisBlipProcessor`."""
    return str(_FOLDER / "model")


def embedded_images() -> list[EmbeddedImage]:
    """Return the embedded images with their names, in a fixed order."""
    return [EmbeddedImage(_FOLDER / "images" / f"{stem}.png", caption) for stem, caption in _CAPTIONS.items()]


__all__ = ["EmbeddedImage", "embedded_images", "embedded_model_path"]
