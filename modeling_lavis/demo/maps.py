# SPDX-License-Identifier: Apache-2.0
"""Maps of where a model looked for each word of a text, as a part of the page."""

from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image

from modeling_lavis.demo.markup import WordMap, word_maps
from modeling_lavis.demo.media import picture
from modeling_lavis.interpretability import explain
from modeling_lavis.interpretability.overlay import overlay

_SIDE, _FRAME = 320, 160  # pixels of the longer side of an image, and of one of several frames


def text_maps(pipe: Any, medium: Any, text: str) -> str:
    """
    The image with a map for each word of a text; of a video, the frames that the model saw.

    Args:
        pipe (`LavisPipeline`): pipeline of a matching model.
        medium: an image, or the path of a video.
        text (`str`): the text.
    """
    found = explain(pipe.model, pipe.processor, medium, text)
    side = _FRAME if len(found.pictures) > 1 else _SIDE
    small = []
    for image in found.pictures:
        factor = side / max(image.size)
        small.append(image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor)))))
    found = replace(found, pictures=small)  # maps have the size of the pictures
    words = []
    for number, word in enumerate(found.words):
        largest = float(found.grids[number].max()) or 1.0
        maps = [found.map(number, place).numpy() / largest for place in range(len(small))]
        drawn = [overlay(image, values.astype(np.float32)) for image, values in zip(small, maps)]
        words.append(WordMap(word, picture(_side_by_side(drawn), 4096)))
    return word_maps(text, picture(_side_by_side(small), 4096), words)


def _side_by_side(images: list[PIL.Image.Image]) -> PIL.Image.Image:
    """Images of one size in a row."""
    width, height = images[0].size
    row = PIL.Image.new("RGB", (width * len(images), height))
    for number, image in enumerate(images):
        row.paste(image, (number * width, 0))
    return row


__all__ = ["text_maps"]
