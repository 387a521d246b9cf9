"""Sanity checks of the methods on the embedded model: maps depend on what was learned, and light what is named.

Adebayo et al., 2018, https://arxiv.org/abs/1810.03292.
"""

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForPreTraining, AutoProcessor

from modeling_lavis import explain
from modeling_lavis.embedded import embedded_images, embedded_model_path

METHODS = ("gradcam", "rollout", "attention")


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


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("part", ["vision_model", "text_encoder"])
def test_randomization_of_an_encoder_changes_maps(method: str, part: str) -> None:
    assert correlation(maps(model(), method), maps(randomized(part), method)) < 0.5


@pytest.mark.slow
def test_only_gradcam_depends_on_the_score() -> None:
    head = randomized("itm_head")
    assert correlation(maps(model(), "gradcam"), maps(head, "gradcam")) < 0.9
    for method in ("rollout", "attention"):
        assert torch.equal(maps(model(), method), maps(head, method))
        assert torch.equal(maps(model(), method), maps(model(), method, target="mismatch"))
