"""The ViT tower against timm's, with copied weights, and its positions at other resolutions."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn

from modeling_lavis.models.configuration_vision import LavisViTConfig
from modeling_lavis.models.vision_vit import DropPath, LavisViTModel, interpolate_grid_positions


def tower(**options: object) -> LavisViTModel:
    torch.manual_seed(0)
    settings = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "initializer_range": 0.2,
        **options,
    }
    return LavisViTModel(LavisViTConfig(**settings)).eval()


def twin_in_timm(model: LavisViTModel, image_size: int = 32) -> nn.Module:
    """timm's vision transformer with the same weights."""
    timm = pytest.importorskip("timm")
    config = model.config
    made = timm.models.vision_transformer.VisionTransformer(
        img_size=image_size,
        patch_size=config.patch_size,
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=config.mlp_ratio,
        qkv_bias=True,
        num_classes=0,
        global_pool="",
    ).eval()
    made.load_state_dict(model.state_dict(), strict=True)
    return made


def test_equals_timm() -> None:
    model = tower()
    pixel_values = torch.randn(2, 3, 32, 32)
    output = model(pixel_values)
    expected = twin_in_timm(model)(pixel_values)
    assert expected.std() > 0.1
    torch.testing.assert_close(output.last_hidden_state, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.pooler_output, expected[:, 0], atol=1e-5, rtol=1e-4)


def test_gradients_equal_timm() -> None:
    model = tower()
    other = twin_in_timm(model)
    pixel_values = torch.randn(2, 3, 32, 32)
    for made in (lambda: model(pixel_values).last_hidden_state, lambda: other(pixel_values)):
        made().square().mean().backward()
    theirs = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-3)


def test_initial_values() -> None:
    model = tower(initializer_range=0.02)
    for name, value in model.state_dict().items():
        if "norm" in name and name.endswith("weight"):
            assert bool((value == 1).all()), name
        elif name.endswith("bias"):
            assert not value.any(), name
        else:
            assert 0.01 < value.std() < 0.03, name


def test_interpolation_equals_bicubic_on_the_grid() -> None:
    positions = torch.randn(1, 17, 6)
    resized = interpolate_grid_positions(positions, (6, 3))
    assert torch.equal(resized[:, :1], positions[:, :1])
    grid = positions[0, 1:].T.reshape(6, 4, 4)
    wanted = nn.functional.interpolate(grid[None], (6, 3), mode="bicubic", align_corners=False)[0]
    for row in range(6):
        for column in range(3):
            torch.testing.assert_close(resized[0, 1 + row * 3 + column], wanted[:, row, column])
    assert interpolate_grid_positions(positions, (4, 4)) is positions
    with pytest.raises(ValueError, match="not a square grid"):
        interpolate_grid_positions(positions[:, 1:], (6, 3))


def test_half_precision_positions_keep_their_dtype() -> None:
    positions = torch.randn(1, 17, 6).bfloat16()
    assert interpolate_grid_positions(positions, (2, 2)).dtype == torch.bfloat16


def test_other_resolution_equals_a_tower_built_for_it() -> None:
    small = tower()
    large = tower(image_size=48)
    state = small.state_dict()
    state["pos_embed"] = interpolate_grid_positions(state["pos_embed"], (6, 6))
    large.load_state_dict(state)
    pixel_values = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(
        small(pixel_values, interpolate_pos_encoding=True).last_hidden_state, large(pixel_values).last_hidden_state
    )
    torch.testing.assert_close(
        twin_in_timm(large, 48)(pixel_values), large(pixel_values).last_hidden_state, atol=1e-5, rtol=1e-4
    )


def test_own_resolution_is_not_changed_by_the_flag() -> None:
    model = tower()
    pixel_values = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(pixel_values, interpolate_pos_encoding=True)[0], model(pixel_values)[0])


def test_stochastic_depth() -> None:
    path = DropPath(0.25).train()
    torch.manual_seed(0)
    rows = path(torch.ones(2000, 3, 2))
    kept = rows[:, 0, 0] != 0
    assert torch.equal(rows[kept], torch.full((int(kept.sum()), 3, 2), 1 / 0.75))
    assert not rows[~kept].any() and 0.7 < kept.float().mean() < 0.8
    assert torch.equal(path.eval()(rows), rows)
    rates = [block.drop_path.rate for block in tower(drop_path_rate=0.2).blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_settings_that_do_not_divide_are_named() -> None:
    with pytest.raises(StrictDataclassClassValidationError, match="image_size 30 is not a multiple of patch_size 8"):
        tower(image_size=30)
    with pytest.raises(StrictDataclassClassValidationError, match="hidden_size 24 is not divisible"):
        tower(num_attention_heads=5)
