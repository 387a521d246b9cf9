# SPDX-License-Identifier: Apache-2.0
"""TimeSformer, the video tower of ALPRO: a ViT whose blocks attend over time and over space in turn.

Letters: B clips, F frames, C channels, H and W pixels, P patches of a frame, N = P + 1 places (the class token first),
D width, h heads.

States are kept as (B, N, F, D): all frames of one place lie together. Attention over time then reads them as B * N rows
of F tokens, attention over space as B rows of N tokens with F * h heads, and neither moves a number in memory. The
class token is the same for all frames; it is kept once per frame, which costs N / P times the work and saves joining
it with the patches twice in every block.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import attend, split_heads
from .configuration_vision_timesformer import LavisTimesformerConfig
from .position_embeddings import resize_grid_positions, resize_row_positions
from .vision_vit import LavisViTModel, ViTAttention, ViTBlock, add_states, is_eager_inference


@dataclass
class TimesformerOutput(BaseModelOutputWithPooling):
    """
    Output of the video tower.

    Args:
        last_hidden_state (`Tensor` of shape `(B, N, D)`): normalised states, averaged over the frames.
        pooler_output (`Tensor` of shape `(B, D)`): the class token among them.
        hidden_states (tuple of `Tensor`s of shape `(B, N, F, D)`): what enters the blocks and leaves the last.
        attentions (tuple of `Tensor`s of shape `(B, F, h, N, N)`): attention over space.
        temporal_attentions (tuple of `Tensor`s of shape `(B, N, h, F, F)`): attention over time.
    """

    temporal_attentions: tuple[Tensor, ...] | None = None


def is_plain(linear: nn.Module, states: Tensor) -> bool:
    """Whether a map is its weight and bias and nothing else: no adapter, quantisation, offloading or hook."""
    return (
        type(linear) is nn.Linear
        and linear.weight.device == states.device
        and "forward" not in vars(linear)
        and not linear._forward_hooks
        and not linear._forward_pre_hooks
    )


class FoldedMaps:
    """Two linear maps in a row as one, kept until a weight of theirs changes."""

    def __init__(self) -> None:
        self.made_of: tuple[Any, ...] = ()
        self.folded: tuple[Tensor, Tensor] | None = None

    def __call__(self, first: nn.Linear, second: nn.Linear, states: Tensor, shift: Tensor | None = None) -> Tensor:
        parameters = (first.weight, first.bias, second.weight, second.bias)
        made_of = tuple((p.data_ptr(), p._version, p.dtype, p.device) for p in parameters)
        if self.folded is None or made_of != self.made_of:
            # in float32, so that half precision rounds once and not at every step
            w1, b1, w2, b2 = (p.detach().float() for p in parameters)
            self.folded = (w2 @ w1).to(first.weight.dtype), (w2 @ b1 + b2).to(first.weight.dtype)
            self.made_of = made_of
        return map_shifted(states, *self.folded, shift)


def map_shifted(states: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None) -> Tensor:
    """A linear map of the states (..., D), to each of which `shift` (D,) is added before if there is one."""
    return F.linear(states, weight, bias if shift is None else torch.addmv(bias, weight, shift))


def may_fold(first: nn.Module, second: nn.Module, states: Tensor) -> bool:
    """Whether folding two maps is exact and worth it: outside training and tracing, for maps that are nothing else."""
    return (
        is_eager_inference()
        and is_plain(first, states)
        and is_plain(second, states)
        and not any(p.is_inference() for p in (*first.parameters(), *second.parameters()))
    )


class DividedAttention(ViTAttention):
    """
    Attention of the places of a frame to each other, or of the frames of a place.

    Args:
        config ([`LavisTimesformerConfig`]): sizes.
        over_time (`bool`, *optional*, defaults to `False`): frames of a place instead of places of a frame.
    """

    def __init__(self, config: LavisTimesformerConfig, over_time: bool = False) -> None:
        super().__init__(config)
        self.over_time = over_time
        self._folded = FoldedMaps()

    def forward(
        self, hidden_states: Tensor, followed_by: nn.Module | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """States (B, N, F, D) to states of that shape and, for eager attention, weights; `followed_by` is applied."""
        batch, places, frames, width = hidden_states.shape
        shape, heads = (batch, places, frames * width), frames * self.num_heads
        if self.over_time:
            shape, heads = (batch * places, frames, width), self.num_heads
        projected, shift = self._project(hidden_states)
        query, key, value = (states.reshape(shape) for states in projected)
        context, weights = attend(
            self,
            query,
            split_heads(key, heads),
            split_heads(value, heads),
            None,
            heads,
            dropout=self.config.attention_probs_dropout_prob,
            **kwargs,
        )
        context = context.reshape(hidden_states.shape)
        if torch.is_tensor(weights):
            axis = 0 if self.over_time else 1
            weights = weights.unflatten(axis, (batch, places) if self.over_time else (frames, self.num_heads))
        if not self.training and isinstance(followed_by, nn.Linear) and may_fold(self.proj, followed_by, context):
            return self._folded(self.proj, followed_by, context, shift), weights
        if shift is None:
            output = self.proj_drop(self.proj(context))
        else:
            output = map_shifted(context, self.proj.weight, self.proj.bias, shift)
        return output if followed_by is None else followed_by(output), weights

    def _may_move_biases(self, hidden_states: Tensor) -> bool:
        """A CPU writes a bias over the whole output before it multiplies, a tenth of the time of the map."""
        return (
            is_eager_inference()
            and not self.training
            and hidden_states.device.type == "cpu"
            and hidden_states.dtype == torch.float32
            and is_plain(self.proj, hidden_states)
        )

    def _project(self, hidden_states: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """
        Queries, keys and values, and what is to be added to the attended values, if anything.

        In three maps, because a slice of one could not be read as (B, N, F * D). Where it saves time, keys and values
        go without their biases: softmax does not see what all keys have in common, and weights that sum up to one pass
        on what all values have in common.
        """
        if not is_plain(self.qkv, hidden_states):
            return self.qkv(hidden_states).chunk(3, dim=-1), None
        query, key, value = self.qkv.bias.chunk(3)
        biases: tuple[Tensor | None, ...] = (query, key, value)
        shift: Tensor | None = None
        if self._may_move_biases(hidden_states):
            biases, shift = (query, None, None), value
        parts = zip(self.qkv.weight.chunk(3), biases, strict=True)
        return tuple(F.linear(hidden_states, weight, bias) for weight, bias in parts), shift


class TimesformerBlock(ViTBlock):
    """Pre-norm block with attention over time, then over space, then feed-forward, and stochastic depth."""

    attention_class = DividedAttention

    def __init__(self, config: LavisTimesformerConfig, drop_path_rate: float) -> None:
        super().__init__(config, drop_path_rate)
        self.temporal_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.temporal_attn = DividedAttention(config, over_time=True)
        self.temporal_fc = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        hidden_states = add_states(self._over_time(hidden_states, **kwargs), hidden_states)
        hidden_states = add_states(self._over_space(hidden_states, **kwargs), hidden_states)
        return add_states(self.drop_path(self.mlp(self.norm2(hidden_states))), hidden_states)

    @property
    def _drops(self) -> bool:
        return self.training and self.drop_path.rate > 0

    def _over_time(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        states = self.temporal_norm1(hidden_states)
        if self._drops:
            residual = self.temporal_attn(states, **kwargs)[0]
            # parity: each place drops its time apart, and before the map that follows
            residual = self.drop_path(residual.flatten(0, 1)).view_as(residual)
            residual = self.temporal_fc(residual)
        else:
            residual = self.temporal_attn(states, followed_by=self.temporal_fc, **kwargs)[0]
        residual[:, 0] = 0  # the class token has no time
        return residual

    def _over_space(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        residual = self.attn(self.norm1(hidden_states), **kwargs)[0]
        if self._drops:
            batch, _, frames, _ = residual.shape
            # parity: each frame drops its space apart
            residual = residual * self.drop_path(residual.new_ones(batch * frames)).view(batch, 1, frames, 1)
        residual[:, 0] = residual[:, 0].mean(dim=1, keepdim=True)  # one class token for all frames
        return residual


class LavisTimesformerModel(LavisViTModel):
    """
    TimeSformer with divided space-time attention (https://arxiv.org/abs/2102.05095), averaged over the frames.

    Args:
        config ([`LavisTimesformerConfig`]): sizes of the tower.
    """

    config: LavisTimesformerConfig
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    _no_split_modules = ["TimesformerBlock"]
    _can_record_outputs = {
        "hidden_states": TimesformerBlock,
        "attentions": OutputRecorder(DividedAttention, index=1, layer_name="attn"),
        "temporal_attentions": OutputRecorder(DividedAttention, index=1, layer_name="temporal_attn"),
    }
    block_class = TimesformerBlock

    def __init__(self, config: LavisTimesformerConfig) -> None:
        super().__init__(config)
        # Zero to start with, also where a checkpoint lacks it: see _init_weights.
        self.time_embed = nn.Parameter(torch.zeros(1, config.num_frames, config.hidden_size))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TimesformerBlock):
            # A new tower looks at single frames and learns time from there.
            init.zeros_(module.temporal_fc.weight)
            init.zeros_(module.temporal_fc.bias)
        elif module is self and hasattr(self, "time_embed"):
            init.zeros_(self.time_embed)

    def embed(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Patches with class token and positions in space and time: `(B, F, C, H, W)` to `(B, N, F, D)`."""
        config = self.config
        fits = pixel_values.ndim == 5 and pixel_values.shape[2] == config.num_channels
        if not fits or not pixel_values.is_floating_point():
            raise ValueError(
                f"Got pixel_values_videos of shape {tuple(pixel_values.shape)} and {pixel_values.dtype}, expected "
                f"normalised floats (batch, frames, {config.num_channels}, height, width). Let the processor make them "
                "from videos."
            )
        batch, frames, _, height, width = pixel_values.shape
        sides = (config.image_size, config.image_size)
        positions: Tensor = self.pos_embed
        times: Tensor = self.time_embed
        if (frames, height, width) != (config.num_frames, *sides):
            if not interpolate_pos_encoding:
                raise ValueError(
                    f"Got clips of {frames} frames of {height} x {width} pixels, but this model was built for "
                    f"{config.num_frames} frames of {sides[0]} x {sides[1]}. Let the processor make them, or pass "
                    "interpolate_pos_encoding=True."
                )
            if height % config.patch_size or width % config.patch_size or not frames:
                raise ValueError(
                    f"Got clips of {frames} frames of {height} x {width} pixels; there has to be a frame, and both "
                    f"sides have to be multiples of the patch size {config.patch_size}."
                )
            # parity: the original repeats the nearest positions of both
            grid = (height // config.patch_size, width // config.patch_size)
            positions = resize_grid_positions(positions, grid, mode="nearest")
            times = resize_row_positions(times, frames)
        patches = self.patch_embed(pixel_values.flatten(0, 1).to(self.patch_embed.proj.weight.dtype))
        patches = patches.unflatten(0, (batch, frames)).transpose(1, 2)  # (B, P, F, D)
        patches = self.pos_drop(patches + positions[:, 1:, None]) + times[:, None]
        first = self.pos_drop(self.cls_token + positions[:, :1])[:, None]
        return torch.cat([first.expand(batch, 1, frames, -1), patches], dim=1)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values_videos: Tensor | None = None, interpolate_pos_encoding: bool = False, **kwargs: Any
    ) -> TimesformerOutput:
        r"""
        Args:
            pixel_values_videos (`Tensor` of shape `(batch_size, frames, num_channels, height, width)`): clips.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take clips of another size or number of
                frames and interpolate the positions.

        Returns:
            [`TimesformerOutput`].
        """
        if pixel_values_videos is None:
            raise ValueError("The video tower needs pixel_values_videos; the processor makes them from videos.")
        hidden_states = self.embed(pixel_values_videos, interpolate_pos_encoding)
        for block in self.blocks:
            hidden_states = block(hidden_states, **kwargs)
        pooled = self.norm(hidden_states).mean(dim=2)
        return TimesformerOutput(last_hidden_state=pooled, pooler_output=pooled[:, 0])


__all__ = ["LavisTimesformerModel", "TimesformerBlock", "TimesformerOutput"]
