# SPDX-License-Identifier: Apache-2.0
"""TimeSformer, the video encoder of ALPRO: a ViT whose blocks attend over time and over space in turn.

Shapes: B clips, F frames, C channels, H and W pixels, P patches of a frame, N = P + 1 positions (class token first), D
hidden size, h heads.

Hidden states are laid out as (B, N, F, D), with all frames of a position next to each other. Temporal attention reads
them as B * N rows of F tokens and spatial attention as B rows of N tokens with F * h heads, both without copying. The
class token is the same for all frames; storing it once per frame costs N / P of the work and saves concatenating it
with the patches twice per block.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder

from .attention import attend, split_heads
from .configuration_vision import LavisTimesformerConfig
from .memory import has_hooks, is_eager_inference, may_overwrite_output
from .transformers_compat import capture_outputs
from .vision_vit import (
    LavisViTModel,
    ViTAttention,
    ViTBlock,
    add_residual,
    interpolate_grid_positions,
    interpolate_sequence_positions,
    sizes_match,
)


@dataclass
class TimesformerOutput(BaseModelOutputWithPooling):
    """
    Output of the video encoder.

    Args:
        last_hidden_state (`Tensor` of shape `(B, N, D)`): hidden states after the final layer norm, averaged over the
            frames.
        pooler_output (`Tensor` of shape `(B, D)`): the class token of `last_hidden_state`.
        hidden_states (tuple of `Tensor`s of shape `(B, N, F, D)`): inputs of the blocks, and the output of the last.
        attentions (tuple of `Tensor`s of shape `(B, F, h, N, N)`): spatial attention weights.
        temporal_attentions (tuple of `Tensor`s of shape `(B, N, h, F, F)`): temporal attention weights.
    """

    temporal_attentions: tuple[Tensor, ...] | None = None


def is_plain_linear(linear: nn.Module, hidden_states: Tensor) -> bool:
    """Whether a module is an `nn.Linear` without adapter, quantization, offloading or hooks."""
    return type(linear) is nn.Linear and linear.weight.device == hidden_states.device and not has_hooks(linear)


def linear_with_shift(hidden_states: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None) -> Tensor:
    """A linear layer applied to hidden states `(..., D)`, to which `shift` `(D,)` is added first if given."""
    return F.linear(hidden_states, weight, bias if shift is None else torch.addmv(bias, weight, shift))


def fold_linears(first: nn.Linear, second: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of one linear layer that equals two consecutive ones."""
    # in float32, so that half precision rounds once
    w1, b1, w2, b2 = (p.detach().float() for p in (first.weight, first.bias, second.weight, second.bias))
    return (w2 @ w1).to(first.weight.dtype), (w2 @ b1 + b2).to(first.weight.dtype)


class DividedAttention(ViTAttention):
    """
    Attention between the positions of a frame, or between the frames of a position.

    Args:
        config ([`LavisTimesformerConfig`]): model configuration.
        over_time (`bool`, *optional*, defaults to `False`): temporal instead of spatial attention.
    """

    def __init__(self, config: LavisTimesformerConfig, over_time: bool = False) -> None:
        super().__init__(config)
        self.over_time = over_time

    def forward(
        self, hidden_states: Tensor, followed_by: nn.Module | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states `(B, N, F, D)` to the same shape, after `followed_by`, and weights with eager attention."""
        batch, positions, frames, width = hidden_states.shape
        shape, heads = (batch, positions, frames * width), frames * self.num_heads
        if self.over_time:
            shape, heads = (batch * positions, frames, width), self.num_heads
        projected, value_bias = self._project(hidden_states)
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
            weights = weights.unflatten(axis, (batch, positions) if self.over_time else (frames, self.num_heads))
        if isinstance(followed_by, nn.Linear) and self._should_fold(followed_by, context):
            return linear_with_shift(context, *fold_linears(self.proj, followed_by), value_bias), weights
        if value_bias is None:
            output = self.proj_drop(self.proj(context))
        else:
            output = linear_with_shift(context, self.proj.weight, self.proj.bias, value_bias)
        return output if followed_by is None else followed_by(output), weights

    def _should_fold(self, followed_by: nn.Linear, context: Tensor) -> bool:
        """Whether one folded linear layer is exact (inference, no dropout) and cheaper, the folding included."""
        tokens = context.numel() // context.shape[-1]
        return (
            is_eager_inference()
            and not self.training
            and tokens > 2 * context.shape[-1]
            and is_plain_linear(self.proj, context)
            and is_plain_linear(followed_by, context)
        )

    def _project(self, hidden_states: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """
        Queries, keys and values, and the bias of the values if it is still to be added to the attention output.

        Three linear layers, because a slice of one could not be viewed as (B, N, F * D). On a CPU, which writes a bias
        over the whole output before the matrix product (a tenth of the time of the layer), keys and values go without
        their biases: softmax is invariant to what all keys share, and attention weights, which sum to one, pass on what
        all values share.
        """
        if not is_plain_linear(self.qkv, hidden_states):
            return self.qkv(hidden_states).chunk(3, dim=-1), None
        query_bias, key_bias, value_bias = self.qkv.bias.chunk(3)
        biases: tuple[Tensor | None, ...] = (query_bias, key_bias, value_bias)
        moved: Tensor | None = None
        if (
            is_eager_inference()
            and not self.training
            and hidden_states.device.type == "cpu"
            and hidden_states.dtype == torch.float32
            and is_plain_linear(self.proj, hidden_states)
        ):
            biases, moved = (query_bias, None, None), value_bias
        parts = zip(self.qkv.weight.chunk(3), biases, strict=True)
        return tuple(F.linear(hidden_states, weight, bias) for weight, bias in parts), moved


class TimesformerBlock(ViTBlock):
    """Pre-norm block with temporal attention, spatial attention and feed-forward layers, and stochastic depth."""

    attention_class = DividedAttention

    def __init__(self, config: LavisTimesformerConfig, drop_path_rate: float) -> None:
        super().__init__(config, drop_path_rate)
        self.temporal_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.temporal_attn = DividedAttention(config, over_time=True)
        self.temporal_fc = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        inplace = may_overwrite_output(self.temporal_attn, self.temporal_fc, self.attn, self.mlp, self.drop_path)
        hidden_states = add_residual(self._attend_over_time(hidden_states, inplace, **kwargs), hidden_states, inplace)
        hidden_states = add_residual(self._attend_over_space(hidden_states, inplace, **kwargs), hidden_states, inplace)
        return add_residual(self.drop_path(self.mlp(self.norm2(hidden_states))), hidden_states, inplace)

    @property
    def _drops_paths(self) -> bool:
        return self.training and self.drop_path.rate > 0

    def _attend_over_time(self, hidden_states: Tensor, inplace: bool, **kwargs: Any) -> Tensor:
        states = self.temporal_norm1(hidden_states)
        if self._drops_paths:
            residual = self.temporal_attn(states, **kwargs)[0]
            # parity: the original drops the frames of each position independently, before the linear layer
            residual = self.drop_path(residual.flatten(0, 1)).view_as(residual)
            residual = self.temporal_fc(residual)
        elif may_overwrite_output(self.temporal_attn, self.temporal_fc):
            residual = self.temporal_attn(states, followed_by=self.temporal_fc, **kwargs)[0]
        else:  # hooks see the attention's own output, and those of accelerate would move a module among the arguments
            residual = self.temporal_fc(self.temporal_attn(states, **kwargs)[0])
        residual = residual if inplace else residual.clone()
        residual[:, 0] = 0  # the class token has no temporal attention
        return residual

    def _attend_over_space(self, hidden_states: Tensor, inplace: bool, **kwargs: Any) -> Tensor:
        residual = self.attn(self.norm1(hidden_states), **kwargs)[0]
        if self._drops_paths:
            batch, _, frames, _ = residual.shape
            # parity: the original drops the positions of each frame independently
            residual = residual * self.drop_path(residual.new_ones(batch * frames)).view(batch, 1, frames, 1)
        residual = residual if inplace else residual.clone()
        residual[:, 0] = residual[:, 0].mean(dim=1, keepdim=True)  # one class token for all frames
        return residual


class LavisTimesformerModel(LavisViTModel):
    """
    TimeSformer with divided space-time attention (https://arxiv.org/abs/2102.05095), averaged over the frames.

    Args:
        config ([`LavisTimesformerConfig`]): model configuration.
    """

    config: LavisTimesformerConfig
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    _no_split_modules = ["TimesformerBlock"]
    _can_record_outputs = {
        "hidden_states": TimesformerBlock,
        # the dot: early versions of transformers would find "attn" in "temporal_attn", too
        "attentions": OutputRecorder(DividedAttention, index=1, layer_name=".attn"),
        "temporal_attentions": OutputRecorder(DividedAttention, index=1, layer_name="temporal_attn"),
    }
    block_class = TimesformerBlock

    def __init__(self, config: LavisTimesformerConfig) -> None:
        super().__init__(config)
        # zero at the start, also where a checkpoint lacks it: see _init_weights
        self.time_embed = nn.Parameter(torch.zeros(1, config.num_frames, config.hidden_size))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TimesformerBlock):
            # a new encoder starts as an image encoder of single frames
            init.zeros_(module.temporal_fc.weight)
            init.zeros_(module.temporal_fc.bias)
        elif module is self and hasattr(self, "time_embed"):
            init.zeros_(self.time_embed)

    def embed(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Patch embeddings with class token and space and time positions: `(B, F, C, H, W)` to `(B, N, F, D)`."""
        config = self.config
        fits = pixel_values.ndim == 5 and pixel_values.shape[2] == config.num_channels
        if not fits or not pixel_values.is_floating_point():
            raise ValueError(
                f"Got pixel_values_videos of shape {tuple(pixel_values.shape)} and {pixel_values.dtype}, expected "
                f"normalized floats (batch, frames, {config.num_channels}, height, width). The processor makes them "
                "from videos."
            )
        batch, frames, _, height, width = pixel_values.shape
        size = (config.image_size, config.image_size)
        positions: Tensor = self.pos_embed
        times: Tensor = self.time_embed
        if not sizes_match((frames, height, width), (config.num_frames, *size)):
            if not interpolate_pos_encoding:
                raise ValueError(
                    f"Got clips of {frames} frames of {height} x {width} pixels, but this model was built for "
                    f"{config.num_frames} frames of {size[0]} x {size[1]}. Make them with the processor, or pass "
                    "interpolate_pos_encoding=True."
                )
            if height % config.patch_size or width % config.patch_size or not frames:
                raise ValueError(
                    f"Got clips of {frames} frames of {height} x {width} pixels; a clip needs at least one frame, and "
                    f"height and width have to be multiples of the patch size {config.patch_size}."
                )
            # parity: nearest-neighbor interpolation in space and time, as in the original
            grid = (height // config.patch_size, width // config.patch_size)
            positions = interpolate_grid_positions(positions, grid, mode="nearest")
            times = interpolate_sequence_positions(times, frames)
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
            pixel_values_videos (`Tensor` of shape `(batch_size, num_frames, num_channels, height, width)`): normalized
                clips.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): accept clips of another resolution or
                number of frames by interpolating the position embeddings.

        Returns:
            [`TimesformerOutput`].
        """
        if pixel_values_videos is None:
            raise ValueError("The video encoder needs pixel_values_videos; the processor makes them from videos.")
        hidden_states = self.embed(pixel_values_videos, interpolate_pos_encoding)
        for block in self.blocks:
            hidden_states = block(hidden_states, **kwargs)
        pooled = self.norm(hidden_states).mean(dim=2)
        return TimesformerOutput(last_hidden_state=pooled, pooler_output=pooled[:, 0])


def resize_images(model: Any, image_size: int, num_frames: int | None = None) -> None:
    """
    Let a model take images of another size, or clips of another number of frames, by interpolating its learned
    position embeddings; those of its momentum encoder, too.

    Args:
        model (`PreTrainedModel`): a head of this package; changed in-place, with its configuration. Its processor has
            options of its own.
        image_size (`int`): side length of images or frames in pixels, a multiple of the patch size.
        num_frames (`int`, *optional*): number of frames; only for videos.

    Raises:
        ValueError: the size is not a multiple of the patch size, or the model has no encoder of videos.
    """
    for encoder in (module for module in model.modules() if isinstance(module, LavisViTModel)):
        config = encoder.config
        if image_size < 1 or image_size % config.patch_size:
            raise ValueError(
                f"image_size is {image_size}; expected a multiple of the patch size {config.patch_size} of the model."
            )
        side = image_size // config.patch_size
        positions = interpolate_grid_positions(
            encoder.pos_embed.detach(), (side, side), align_corners=encoder.align_position_corners
        )
        _replace(encoder, "pos_embed", positions)
        config.image_size = image_size
        if num_frames is not None:
            if not isinstance(encoder, LavisTimesformerModel):
                raise ValueError(f"num_frames is {num_frames}, but {type(model).__name__} takes images.")
            _replace(encoder, "time_embed", interpolate_sequence_positions(encoder.time_embed.detach(), num_frames))
            encoder.config.num_frames = num_frames
    model.config.vision_config.image_size = image_size
    if num_frames is not None:
        model.config.vision_config.num_frames = num_frames


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    old = module.get_parameter(name)
    if value.shape != old.shape:
        setattr(module, name, nn.Parameter(value.clone(), requires_grad=old.requires_grad))


__all__ = ["LavisTimesformerModel", "TimesformerBlock", "TimesformerOutput", "resize_images"]
