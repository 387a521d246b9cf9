"""Grad-CAM maps against their definition, and what the function restores.

Shapes: B pairs, T text tokens, H rows and W columns of the patch grid.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from modeling_lavis.interpretability import gradcam
from tests.models.albef_cases import RETRIEVAL as ALBEF
from tests.models.alpro_cases import RETRIEVAL as ALPRO
from tests.models.lavis_blip_2_cases import RETRIEVAL as BLIP_2
from tests.models.lavis_blip_cases import ANSWERING, CAPTIONING, CLS, IMAGE_PAIRS, PAD, PATCH, SEP, SIZE, one_image
from tests.models.lavis_blip_cases import RETRIEVAL as BLIP

#: heads, and a layer with cross-attention below the last one, where all tokens have a gradient
HEADS = pytest.mark.parametrize(("case", "layer"), [(ALBEF, 1), (BLIP, 0)], ids=[ALBEF.name, BLIP.name])
GRID = (SIZE // PATCH, SIZE // PATCH)


def implementations(model: Any) -> dict[str, str]:
    """Attention implementations of the model and its encoders."""
    encoders = {"vision": model.vision_model, "text": model.text_encoder, "model": model}
    return {name: module.config._attn_implementation for name, module in encoders.items()}


def hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def assert_maps_close(actual: Tensor, expected: Tensor) -> None:
    """Compare relative to the largest value, since maps of tiny models are below the usual tolerances."""
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(actual / scale, expected / scale, atol=1e-3, rtol=1e-3)


def maps_by_definition(model: Any, inputs: dict[str, Tensor], layer: int) -> tuple[Tensor, Tensor]:
    """Maps `(B, T, H, W)` from the attention weights that the model returns, and the logits."""
    model.set_attn_implementation("eager")
    output = model(**inputs, match_head="itm", output_attentions=True)
    layers = model.text_encoder.encoder.layer
    cross_attending = [index for index, block in enumerate(layers) if hasattr(block, "crossattention")]
    attention = output.cross_attentions[cross_attending.index(layer)]
    (gradient,) = torch.autograd.grad(output.logits[:, 1].sum(), attention)
    maps = (attention * gradient.relu()).detach()[..., 1:].mean(dim=1).unflatten(-1, GRID)
    return maps, output.logits.detach()


@HEADS
def test_equals_the_definition(case: Any, layer: int) -> None:
    model, inputs = case.model(), one_image(3)
    explained = gradcam(model, **inputs, layer=layer)
    expected, logits = maps_by_definition(model, inputs, layer)
    torch.testing.assert_close(explained.logits, logits, atol=1e-5, rtol=1e-4)
    assert len(explained.maps) == 3 and not explained.logits.requires_grad
    for own, tokens, mask in zip(explained.maps, expected, inputs["attention_mask"], strict=True):
        length = int(mask.sum())
        assert own.shape == (mask.shape[0] + 1, *GRID) and not own.requires_grad
        mean = tokens[1 : length - 1].mean(dim=0, keepdim=True)  # between [CLS] and [SEP]
        assert_maps_close(own[: length + 1], torch.cat([tokens[:1], mean, tokens[1:length]]))
        assert not own[length + 1 :].any()  # padding


@HEADS
def test_missing_attention_mask(case: Any, layer: int) -> None:
    inputs = one_image(2, padded=False)
    expected = gradcam(case.model(), **inputs, layer=layer).maps
    without = gradcam(case.model(), inputs["pixel_values"], inputs["input_ids"], layer=layer).maps
    for own, other in zip(without, expected, strict=True):
        assert_maps_close(own, other)


@HEADS
@pytest.mark.parametrize("grid", [(1, 3), (3, 2), (4, 4)])
def test_grids_of_other_image_sizes(case: Any, layer: int, grid: tuple[int, int]) -> None:
    inputs = one_image(2)
    inputs["pixel_values"] = torch.randn(
        2, 3, grid[0] * PATCH, grid[1] * PATCH, generator=torch.Generator().manual_seed(0)
    )
    explained = gradcam(case.model(), **inputs, layer=layer, interpolate_pos_encoding=True)
    assert [own.shape for own in explained.maps] == [(inputs["input_ids"].shape[1] + 1, *grid)] * 2


@HEADS
def test_patches_that_do_not_form_the_grid(case: Any, layer: int) -> None:
    model = case.model()
    model.set_attn_implementation("sdpa")
    model.config.vision_config.patch_size = PATCH // 2
    with pytest.raises(ValueError, match="4 patches do not form a grid of 4 x 4"):
        gradcam(model, **one_image(2), layer=layer)
    assert implementations(model) == dict.fromkeys(("vision", "text", "model"), "sdpa")


@HEADS
def test_text_without_tokens_between_cls_and_sep(case: Any, layer: int) -> None:
    """The mean is then the map of `[SEP]`."""
    inputs = one_image(4, padded=False)
    inputs["input_ids"], inputs["attention_mask"] = torch.tensor([[CLS, SEP, PAD]] * 4), torch.tensor([[1, 1, 0]] * 4)
    maps = torch.stack(gradcam(case.model(), **inputs, layer=layer).maps)
    assert maps.shape == (4, 4, *GRID)
    assert_maps_close(maps[:, 1], maps[:, 2])


@HEADS
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attention_implementation_is_restored(case: Any, layer: int, implementation: str) -> None:
    model = case.model()
    model.set_attn_implementation(implementation)
    gradcam(model, **one_image(2), layer=layer)
    assert implementations(model) == dict.fromkeys(("vision", "text", "model"), implementation)
    assert hooks(model) == 0


@HEADS
def test_different_implementations_of_the_encoders_are_restored(case: Any, layer: int) -> None:
    model = case.model()
    model.set_attn_implementation({"": "sdpa", "vision_config": "eager", "text_config": "sdpa"})
    before = implementations(model)
    assert before == {"vision": "eager", "text": "sdpa", "model": "sdpa"}
    gradcam(model, **one_image(2), layer=layer)
    assert implementations(model) == before


@HEADS
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 10}, r"Layer 10 has no cross-attention; choose one of the layers \[.*1.*\]"),
        ({"layer": -1}, "Layer -1 has no cross-attention"),
        ({"pixel_values": torch.zeros(2, 3, 48, 48)}, "interpolate_pos_encoding"),
        ({"input_ids": torch.full((2, 6), 10_000)}, "Got the token id 10000"),
    ],
    ids=["layer", "negative layer", "image size", "token id"],
)
def test_model_is_unchanged_after_errors(case: Any, layer: int, options: dict[str, Any], message: str) -> None:
    model = case.model()
    model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match=message):
        gradcam(model, **{**one_image(2), "layer": layer, **options})
    assert implementations(model) == dict.fromkeys(("vision", "text", "model"), "sdpa")
    assert hooks(model) == 0


@HEADS
def test_frozen_parameters(case: Any, layer: int) -> None:
    """Attention of a model without trainable parameters has no gradient; one trainable encoder suffices."""
    model = case.model().requires_grad_(False)
    model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="all parameters that the attention depends on are frozen"):
        gradcam(model, **one_image(2), layer=layer)
    assert implementations(model) == dict.fromkeys(("vision", "text", "model"), "sdpa")
    assert hooks(model) == 0
    model.text_encoder.requires_grad_(True)
    frozen_vision = gradcam(model, **one_image(2), layer=layer).maps
    for own, other in zip(frozen_vision, gradcam(case.model(), **one_image(2), layer=layer).maps, strict=True):
        assert_maps_close(own, other)


@HEADS
def test_gradients_of_parameters_are_not_touched(case: Any, layer: int) -> None:
    model = case.model()
    with torch.no_grad():
        gradcam(model, **one_image(2), layer=layer)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_layers_below_fusion_have_no_cross_attention() -> None:
    model = ALBEF.model()
    fusion_layer = model.config.text_config.fusion_layer
    assert fusion_layer == 1
    with pytest.raises(ValueError, match=r"Layer 0 has no cross-attention; choose one of the layers \[1, 2\]"):
        gradcam(model, **one_image(2), layer=fusion_layer - 1)


@pytest.mark.parametrize("case", [BLIP_2, ALPRO, CAPTIONING, ANSWERING, IMAGE_PAIRS], ids=lambda case: case.name)
def test_models_without_a_matching_head(case: Any) -> None:
    with pytest.raises(ValueError, match=f"{case.name} has no matching head.*ForImageTextRetrieval"):
        gradcam(case.model(), **one_image(2))


def test_inference_mode() -> None:
    model = ALBEF.model()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode.*no_grad"):
        gradcam(model, **one_image(2), layer=1)
    with torch.no_grad():
        explained = gradcam(model, **one_image(2), layer=1)
    assert explained.maps[0].abs().sum() > 0
