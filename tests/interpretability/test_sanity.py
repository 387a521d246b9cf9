"""Sanity checks of the methods on the embedded model: maps depend on what was learned, and light what is named.

Adebayo et al., 2018, https://arxiv.org/abs/1810.03292.
"""

import copy
import itertools
import random
from functools import cache
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForPreTraining, AutoProcessor

from modeling_lavis import explain
from modeling_lavis.embedded import EmbeddedImage, embedded_images, embedded_model_path

METHODS = ("gradcam", "relevance", "rollout", "attention")


@cache
def model() -> Any:
    return AutoModelForPreTraining.from_pretrained(embedded_model_path()).eval()


@cache
def processor() -> Any:
    return AutoProcessor.from_pretrained(embedded_model_path())


def maps(of: Any, method: str, **options: Any) -> Tensor:
    """Maps of the names of all embedded images `(images, patches)`."""
    found = [
        explain(of, processor(), image.path, image.caption, method=method, **options) for image in embedded_images()
    ]
    return torch.stack([explanation.overall.flatten() for explanation in found])


def correlation(first: Tensor, second: Tensor) -> float:
    """Mean correlation of the maps of an image."""
    pairs = zip(first, second, strict=True)
    return float(torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).nan_to_num().mean())


@torch.no_grad()
def randomized(*parts: str) -> Any:
    """A copy of the model, parts of which have shuffled weights: what they learned is lost, their scale is not."""
    changed = copy.deepcopy(model())
    generator = torch.Generator().manual_seed(0)
    for part in parts:
        for parameter in changed.get_submodule(part).parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return changed


#: What a method depends on: attention rollout hardly on the text encoder, whose weights it only averages the image by.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "part"),
    [
        *((method, "vision_model") for method in METHODS),
        *((method, "text_encoder") for method in METHODS if method != "rollout"),
    ],
)
def test_randomization_of_an_encoder_changes_maps(method: str, part: str) -> None:
    assert correlation(maps(model(), method), maps(randomized(part), method)) < 0.5


@pytest.mark.slow
def test_only_methods_with_gradients_depend_on_the_score() -> None:
    head = randomized("itm_head")
    for method in ("gradcam", "relevance"):
        assert correlation(maps(model(), method), maps(head, method)) < 0.95
    for method in ("rollout", "attention"):
        assert torch.equal(maps(model(), method), maps(head, method))


def pasted(left: EmbeddedImage, right: EmbeddedImage) -> Image.Image:
    """Two images side by side."""
    picture = Image.new("RGB", (256, 128), "white")
    for place, image in enumerate((left, right)):
        with Image.open(image.path) as opened:
            rgba = opened.convert("RGBA")
            picture.paste(rgba, (128 * place, 0), rgba)
    return picture


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradcam", "relevance"])
def test_named_half_is_lit(method: Any) -> None:
    """Of 100 pictures of two emoji, one of which is named, the half with that one has the larger part of the map in at
    least 90 (94 by Grad-CAM and 99 by relevance, when this was written)."""
    images = embedded_images()
    pairs = random.Random(0).sample(list(itertools.permutations(range(len(images)), 2)), 100)
    lit = 0
    for number, pair in enumerate(pairs):
        named = number % 2
        picture = pasted(images[pair[0]], images[pair[1]])
        name = images[pair[named]].caption
        found = explain(model(), processor(), picture, name, target="similarity", method=method)
        halves = [half.sum() for half in found.grids[0, 0].chunk(2, dim=1)]
        lit += bool(halves[named] > halves[1 - named])
    assert lit >= 90
