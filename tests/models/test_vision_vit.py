"""Image encoders: ViT and EVA against timm, CLIP against transformers, and position embeddings at other resolutions."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from modeling_lavis import LavisClipVisionConfig, LavisClipVisionModel, LavisEvaConfig, LavisEvaModel
from modeling_lavis.models.configuration_vision import LavisViTConfig
from modeling_lavis.models.vision_vit import DropPath, LavisViTModel, interpolate_grid_positions
from tests.models.contract import perturb


def tiny_vit(**options: object) -> LavisViTModel:
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


def timm_equivalent(model: LavisViTModel, image_size: int = 32) -> nn.Module:
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


def test_vit_equals_timm() -> None:
    model = tiny_vit()
    pixel_values = torch.randn(2, 3, 32, 32)
    output = model(pixel_values)
    expected = timm_equivalent(model)(pixel_values)
    assert expected.std() > 0.1
    torch.testing.assert_close(output.last_hidden_state, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.pooler_output, expected[:, 0], atol=1e-5, rtol=1e-4)


def test_vit_gradients_equal_timm() -> None:
    model = tiny_vit()
    other = timm_equivalent(model)
    pixel_values = torch.randn(2, 3, 32, 32)
    for made in (lambda: model(pixel_values).last_hidden_state, lambda: other(pixel_values)):
        made().square().mean().backward()
    theirs = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-3)


def test_initialization() -> None:
    model = tiny_vit(initializer_range=0.02)
    for name, value in model.state_dict().items():
        if "norm" in name and name.endswith("weight"):
            assert bool((value == 1).all()), name
        elif name.endswith("bias"):
            assert not value.any(), name
        else:
            assert 0.01 < value.std() < 0.03, name


def test_interpolated_positions_equal_bicubic_interpolation() -> None:
    positions = torch.randn(1, 17, 6)
    resized = interpolate_grid_positions(positions, (6, 3))
    assert torch.equal(resized[:, :1], positions[:, :1])
    grid = positions[0, 1:].T.reshape(6, 4, 4)
    expected_grid = nn.functional.interpolate(grid[None], (6, 3), mode="bicubic", align_corners=False)[0]
    for row in range(6):
        for column in range(3):
            torch.testing.assert_close(resized[0, 1 + row * 3 + column], expected_grid[:, row, column])
    assert interpolate_grid_positions(positions, (4, 4)) is positions
    with pytest.raises(ValueError, match="not a square grid"):
        interpolate_grid_positions(positions[:, 1:], (6, 3))


def test_interpolated_positions_keep_their_dtype() -> None:
    positions = torch.randn(1, 17, 6).bfloat16()
    assert interpolate_grid_positions(positions, (2, 2)).dtype == torch.bfloat16


def test_other_resolution_equals_a_model_of_that_resolution() -> None:
    small = tiny_vit()
    large = tiny_vit(image_size=48)
    state = small.state_dict()
    state["pos_embed"] = interpolate_grid_positions(state["pos_embed"], (6, 6))
    large.load_state_dict(state)
    pixel_values = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(
        small(pixel_values, interpolate_pos_encoding=True).last_hidden_state, large(pixel_values).last_hidden_state
    )
    torch.testing.assert_close(
        timm_equivalent(large, 48)(pixel_values), large(pixel_values).last_hidden_state, atol=1e-5, rtol=1e-4
    )


def test_interpolate_pos_encoding_at_the_trained_resolution() -> None:
    model = tiny_vit()
    pixel_values = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(pixel_values, interpolate_pos_encoding=True)[0], model(pixel_values)[0])


def test_stochastic_depth() -> None:
    drop_path = DropPath(0.25).train()
    torch.manual_seed(0)
    rows = drop_path(torch.ones(2000, 3, 2))
    kept = rows[:, 0, 0] != 0
    assert torch.equal(rows[kept], torch.full((int(kept.sum()), 3, 2), 1 / 0.75))
    assert not rows[~kept].any() and 0.7 < kept.float().mean() < 0.8
    assert torch.equal(drop_path.eval()(rows), rows)
    rates = [block.drop_path.rate for block in tiny_vit(drop_path_rate=0.2).blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_indivisible_sizes_raise() -> None:
    with pytest.raises(StrictDataclassClassValidationError, match="image_size 30 is not a multiple of patch_size 8"):
        tiny_vit(image_size=30)
    with pytest.raises(StrictDataclassClassValidationError, match="hidden_size 24 is not divisible"):
        tiny_vit(num_attention_heads=5)


# ---- EVA and CLIP ----

SIZES = {"image_size": 28, "patch_size": 14, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}


def pixels(side: int = 28) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def tiny_eva(**options: object) -> LavisEvaModel:
    torch.manual_seed(0)
    model = LavisEvaModel(LavisEvaConfig(**{**SIZES, "mlp_ratio": 2.5, **options})).eval()
    perturb(model)
    return model


def test_eva_equals_timm() -> None:
    timm = pytest.importorskip("timm")
    ours = tiny_eva()
    theirs = timm.create_model(
        "eva_giant_patch14_224", img_size=28, embed_dim=32, depth=4, num_heads=2, mlp_ratio=2.5, num_classes=0
    ).eval()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and all(
        name.startswith(("blocks.3.", "norm.", "fc_norm.")) or "k_bias" in name for name in missing
    )
    with torch.no_grad():
        tokens = theirs.patch_embed(pixels())
        states = torch.cat([theirs.cls_token.expand(2, -1, -1), tokens.flatten(1, -2)], dim=1) + theirs.pos_embed
        for block in theirs.blocks[:3]:  # BLIP-2 leaves out the last block
            states = block(states)
        torch.testing.assert_close(ours(pixels()).last_hidden_state, states, atol=2e-5, rtol=1e-4)


def test_clip_equals_transformers() -> None:
    torch.manual_seed(0)
    ours = LavisClipVisionModel(LavisClipVisionConfig(**SIZES)).eval()
    perturb(ours)
    theirs = CLIPVisionModel(CLIPVisionConfig(**{**SIZES, "intermediate_size": 128, "num_hidden_layers": 4})).eval()
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    with torch.no_grad():
        parts = dict(theirs.named_parameters())
        prefix = "vision_model." if any(name.startswith("vision_model.") for name in parts) else ""
        state = ours.state_dict()
        embeddings = f"{prefix}embeddings."
        parts[f"{embeddings}class_embedding"].copy_(state["cls_token"].flatten())
        parts[f"{embeddings}position_embedding.weight"].copy_(state["pos_embed"][0])
        parts[f"{embeddings}patch_embedding.weight"].copy_(state["patch_embed.proj.weight"])
        for kind in ("weight", "bias"):
            parts[f"{prefix}pre_layrnorm.{kind}"].copy_(state[f"ln_pre.{kind}"])
            for block in range(3):
                own, other = f"blocks.{block}", f"{prefix}encoder.layers.{block}"
                for mine, name in names.items():
                    parts[f"{other}.{name}.{kind}"].copy_(state[f"{own}.{mine}.{kind}"])
                parts[f"{other}.self_attn.out_proj.{kind}"].copy_(state[f"{own}.attn.proj.{kind}"])
                for name, part in zip("qkv", state[f"{own}.attn.qkv.{kind}"].chunk(3), strict=True):
                    parts[f"{other}.self_attn.{name}_proj.{kind}"].copy_(part)
        states = theirs(pixels(), output_hidden_states=True).hidden_states[3]
        torch.testing.assert_close(ours(pixels()).last_hidden_state, states, atol=2e-5, rtol=1e-4)


def test_eva_keys_have_no_bias() -> None:
    assert {name for name, _ in tiny_eva().named_parameters() if "bias" in name and "attn" in name} == {
        f"blocks.{block}.attn.{name}" for block in range(3) for name in ("q_bias", "v_bias", "proj.bias")
    }


@pytest.mark.parametrize("name", ["eva", "clip"])
def test_interpolate_pos_encoding(name: str) -> None:
    model = tiny_eva() if name == "eva" else LavisClipVisionModel(LavisClipVisionConfig(**SIZES)).eval()
    with pytest.raises(ValueError, match="built for 28"):
        model(pixels(42))
    assert model(pixels(42), interpolate_pos_encoding=True).last_hidden_state.shape == (2, 10, 32)


def test_eva_has_no_final_norm() -> None:
    output = tiny_eva()(pixels(), output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
