"""TimeSformer: equality with transformers, folded linear layers, other sizes, stochastic depth."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TimesformerConfig, TimesformerModel

from benchmarks import weights
from benchmarks.workloads.video import FROM_OURS, FROM_TRANSFORMERS
from modeling_lavis import LavisTimesformerConfig, LavisTimesformerModel
from modeling_lavis.models.vision_timesformer import fold_linears

FRAMES, SIZE, HIDDEN_SIZE = 4, 32, 32


def tiny_timesformer(**options: Any) -> LavisTimesformerModel:
    sizes = {"hidden_size": HIDDEN_SIZE, "num_hidden_layers": 2, "num_attention_heads": 4, "drop_path_rate": 0.0}
    config = LavisTimesformerConfig(**{"image_size": SIZE, "num_frames": FRAMES, **sizes, **options})
    model = LavisTimesformerModel(config).eval()
    weights.fill(model, FROM_OURS)
    return model


def clips(frames: int = FRAMES, height: int = SIZE, width: int = SIZE) -> Tensor:
    return torch.randn(2, frames, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_equals_transformers(implementation: str, with_gradient: bool) -> None:
    theirs = TimesformerModel(
        TimesformerConfig(
            image_size=SIZE,
            num_frames=FRAMES,
            hidden_size=HIDDEN_SIZE,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=4 * HIDDEN_SIZE,
        )
    ).eval()
    weights.fill(theirs, FROM_TRANSFORMERS)
    ours = tiny_timesformer()
    ours.set_attn_implementation(implementation)
    with torch.set_grad_enabled(with_gradient):
        states = theirs(clips()).last_hidden_state
        pooled = torch.cat([states[:, :1], states[:, 1:].unflatten(1, (-1, FRAMES)).mean(2)], dim=1)
        torch.testing.assert_close(ours(clips()).last_hidden_state, pooled, atol=1e-5, rtol=1e-4)


def test_folded_linears_follow_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after writes to `.data`, which change neither the address nor the version of a weight."""
    folds: list[nn.Linear] = []
    monkeypatch.setattr(
        "modeling_lavis.models.vision_timesformer.fold_linears",
        lambda first, second: folds.append(second) or fold_linears(first, second),
    )
    model, many = tiny_timesformer(), torch.cat([clips()] * 4)
    with torch.no_grad():
        model(many)
        assert len(folds) == len(model.blocks)
        for block in model.blocks:
            block.temporal_fc.weight.data.mul_(2)
            block.temporal_attn.proj.bias.data.add_(1)
        folded = model(many).last_hidden_state
    assert len(folds) == 2 * len(model.blocks)
    torch.testing.assert_close(folded, model(many).last_hidden_state.detach(), atol=1e-5, rtol=1e-4)


def test_subclasses_of_linear_are_called() -> None:
    class ShiftedLinear(nn.Linear):
        def forward(self, states: Tensor) -> Tensor:
            return super().forward(states) + 1

    model, plain = tiny_timesformer(), tiny_timesformer()
    for block in model.blocks:
        for parent, name in ((block, "temporal_fc"), (block.attn, "qkv"), (block.temporal_attn, "qkv")):
            old = getattr(parent, name)
            new = ShiftedLinear(old.in_features, old.out_features)
            new.load_state_dict(old.state_dict())
            setattr(parent, name, new)
    for block in plain.blocks:
        for linear in (block.temporal_fc, block.attn.qkv, block.temporal_attn.qkv):
            linear.bias.data += 1
    with torch.no_grad():
        torch.testing.assert_close(model(clips()).last_hidden_state, plain(clips()).last_hidden_state)


def test_hooks_of_linear_layers_are_called() -> None:
    model, seen = tiny_timesformer(), []
    for block in model.blocks:
        for linear in (block.attn.qkv, block.attn.proj, block.temporal_attn.proj, block.temporal_fc):
            linear.register_forward_hook(lambda module, arguments, output: seen.append(module))
    with torch.no_grad():
        found = model(clips()).last_hidden_state
        torch.testing.assert_close(found, tiny_timesformer()(clips()).last_hidden_state, atol=1e-5, rtol=1e-4)
    assert len(seen) == 4 * len(model.blocks)


@pytest.mark.parametrize(("frames", "height", "width"), [(8, 32, 32), (2, 32, 32), (4, 64, 32), (1, 48, 48)])
def test_interpolate_pos_encoding(frames: int, height: int, width: int) -> None:
    model, other = tiny_timesformer(), clips(frames, height, width)
    with pytest.raises(ValueError, match=f"{frames} frames of {height} x {width}"):
        model(other)
    output = model(other, interpolate_pos_encoding=True).last_hidden_state
    assert output.shape == (2, (height // 16) * (width // 16) + 1, HIDDEN_SIZE)


def test_output_depends_on_the_order_of_frames() -> None:
    model = tiny_timesformer()
    backwards = model(clips().flip(1)).last_hidden_state
    assert not torch.allclose(model(clips()).last_hidden_state, backwards, atol=1e-3)


def test_new_model_ignores_the_order_of_frames() -> None:
    torch.manual_seed(0)
    model = LavisTimesformerModel(tiny_timesformer().config).eval()
    assert not model.time_embed.any()
    assert not any(block.temporal_fc.weight.any() or block.temporal_fc.bias.any() for block in model.blocks)
    with torch.no_grad():
        shuffled = model(clips()[:, [2, 0, 3, 1]]).last_hidden_state
        torch.testing.assert_close(model(clips()).last_hidden_state, shuffled, atol=1e-5, rtol=1e-4)


def test_stochastic_depth_of_temporal_and_spatial_attention() -> None:
    model = tiny_timesformer(num_hidden_layers=1, drop_path_rate=0.5).train()
    block = model.blocks[0]
    block.drop_path.rate = 0.5
    states = torch.randn(2, 5, FRAMES, HIDDEN_SIZE)
    block.temporal_fc.bias.data.zero_()
    torch.manual_seed(0)
    over_time = block._attend_over_time(states, inplace=False).detach()
    kept = over_time.abs().sum(-1) > 0  # (B, N, F)
    assert bool((kept.any(-1) == kept.all(-1)).all()) and 0 < kept[:, 1:].float().mean() < 1
    over_space = block._attend_over_space(states, inplace=False).detach()[:, 1:]
    kept = over_space.abs().sum(-1) > 0
    assert bool((kept.any(1) == kept.all(1)).all()) and 0 < kept.float().mean() < 1
