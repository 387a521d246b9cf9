"""The image towers of BLIP-2 against independent implementations: timm's EVA, transformers' CLIP."""

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from modeling_lavis import LavisClipVisionConfig, LavisClipVisionModel, LavisEvaConfig, LavisEvaModel
from tests.models.contract import shake

SIZES = {"image_size": 28, "patch_size": 14, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}


def pixels(side: int = 28) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def eva(**options: object) -> LavisEvaModel:
    torch.manual_seed(0)
    model = LavisEvaModel(LavisEvaConfig(**{**SIZES, "mlp_ratio": 2.5, **options})).eval()
    shake(model)
    return model


def test_eva_equals_timms() -> None:
    timm = pytest.importorskip("timm")
    ours = eva()
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
        for block in theirs.blocks[:3]:  # the last one is left out, as in BLIP-2
            states = block(states)
        torch.testing.assert_close(ours(pixels()).last_hidden_state, states, atol=2e-5, rtol=1e-4)


def test_clip_equals_transformers() -> None:
    torch.manual_seed(0)
    ours = LavisClipVisionModel(LavisClipVisionConfig(**SIZES)).eval()
    shake(ours)
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


def test_keys_have_no_bias() -> None:
    assert {name for name, _ in eva().named_parameters() if "bias" in name and "attn" in name} == {
        f"blocks.{block}.attn.{name}" for block in range(3) for name in ("q_bias", "v_bias", "proj.bias")
    }


@pytest.mark.parametrize("tower", ["eva", "clip"])
def test_other_resolutions_on_request(tower: str) -> None:
    model = eva() if tower == "eva" else LavisClipVisionModel(LavisClipVisionConfig(**SIZES)).eval()
    with pytest.raises(ValueError, match="built for 28"):
        model(pixels(42))
    assert model(pixels(42), interpolate_pos_encoding=True).last_hidden_state.shape == (2, 10, 32)


def test_no_norm_after_the_last_block() -> None:
    output = eva()(pixels(), output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
