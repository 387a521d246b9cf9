"""Tiny models, images and texts for retrieval, and scores of all pairs one by one.

Shapes: I images, S texts.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.albef_cases import RETRIEVAL as ALBEF
from tests.models.alpro_cases import FRAMES
from tests.models.alpro_cases import RETRIEVAL as ALPRO
from tests.models.lavis_blip_2_cases import RETRIEVAL as BLIP_2
from tests.models.lavis_blip_cases import CLS, DEC, PAD, SEP, pixels, texts
from tests.models.lavis_blip_cases import RETRIEVAL as BLIP

IMAGES, TEXTS = 5, 7
HEADS = pytest.mark.parametrize("case", [ALBEF, ALPRO, BLIP, BLIP_2], ids=lambda case: case.name)
#: heads that fuse text hidden states
FUSING = pytest.mark.parametrize("case", [ALBEF, ALPRO], ids=lambda case: case.name)


def images_of(case: Any, count: int = IMAGES) -> Tensor:
    return pixels(count, FRAMES) if case is ALPRO else pixels(count)


def padded_texts() -> dict[str, Tensor]:
    """Texts of different lengths with columns that are padding in every row."""
    inputs = texts(TEXTS, length=8)
    return {name: torch.nn.functional.pad(value, (0, 3)) for name, value in inputs.items()}


def varied_texts(count: int) -> dict[str, Tensor]:
    """Texts of three to ten tokens in mixed order; the last is equal to the first."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(3, 11, (count, 1), generator=generator)
    columns = torch.arange(10)
    ids = torch.randint(5, DEC, (count, 10), generator=generator)
    ids = ids.where(columns > 0, CLS).where(columns != lengths - 1, SEP).where(columns < lengths, PAD)
    ids[-1] = ids[0]
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


@torch.no_grad()
def all_pairs(case: Any, model: Any, images: Tensor, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Cosine similarities and "match" logits `(I, S)`, one pair at a time and without padding."""
    count = len(inputs["input_ids"])
    cosine, logits = torch.zeros(len(images), count), torch.zeros(len(images), count)
    for image in range(len(images)):
        for text in range(count):
            length = int(inputs["attention_mask"][text].sum())
            pair = {name: value[text, None, :length] for name, value in inputs.items()}
            output = model(**{case.pixel_name: images[image, None]}, **pair, match_head="both")
            image_features = output.video_features if case is ALPRO else output.image_features
            cosine[image, text] = model.compare_features(image_features, output.text_features).item()
            logits[image, text] = output.logits[0, 1]
    return cosine, logits
