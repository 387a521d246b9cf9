# SPDX-License-Identifier: Apache-2.0
"""Vision transformers of images: ViT (ALBEF, BLIP), and CLIP and EVA (BLIP-2).

Shapes: B images, C channels, H and W pixels, P patches, N = P + 1 tokens (class token first), D hidden size, L entries.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder

from .attention import attend, split_heads
from .checkpoint_formats import EVA_KEYS, VIT_KEYS, register_keys
from .configuration_vision import LavisClipVisionConfig, LavisEvaConfig, LavisViTConfig
from .memory import may_overwrite_output, selective_recompute
from .modeling_base import LavisPreTrainedModel
from .transformers_compat import GradientCheckpointingLayer, capture_outputs

# ---- position embeddings at another resolution ----


def sizes_match(sizes: Sequence[int], expected: Sequence[int]) -> bool:
    """
    Whether sizes are those of the position embeddings.

    `False` for sizes that an exported graph leaves open, for which equality would become a condition of the graph:
    it interpolates always, which changes nothing at the size of the weights.
    """
    if torch.compiler.is_exporting() and any(isinstance(size, torch.SymInt) for size in sizes):
        return False
    return tuple(sizes) == tuple(expected)


def interpolate_grid_positions(
    positions: Tensor,
    new_grid: tuple[int, int],
    num_prefix_tokens: int = 1,
    align_corners: bool = False,
    mode: str = "bicubic",
) -> Tensor:
    """
    Resize learned position embeddings of a square grid by interpolation, without antialiasing.

    Args:
        positions (`Tensor` of shape `(1, num_prefix_tokens + P, D)`): position embeddings; those of prefix tokens (the
            class token) come first and are kept.
        new_grid (`tuple[int, int]`): rows and columns of patches.
        num_prefix_tokens (`int`, *optional*, defaults to 1): number of prefix tokens.
        align_corners (`bool`, *optional*, defaults to `False`): `True` for the CLIP encoder of BLIP-2.
        mode (`str`, *optional*, defaults to `"bicubic"`): or `"nearest"`, which ignores `align_corners`.

    Returns:
        `Tensor` of shape `(1, num_prefix_tokens + new_grid[0] * new_grid[1], D)` in the dtype of `positions`; the same
        tensor if the grid fits already.

    Raises:
        ValueError: the position embeddings do not belong to a square grid.
    """
    prefix, grid = positions[:, :num_prefix_tokens], positions[:, num_prefix_tokens:]
    side = math.isqrt(grid.shape[1])
    if side * side != grid.shape[1]:
        raise ValueError(
            f"{positions.shape[1]} position embeddings with {num_prefix_tokens} prefix tokens leave {grid.shape[1]} "
            "patches, which is not a square grid; give the actual number of prefix tokens."
        )
    if sizes_match(new_grid, (side, side)):
        return positions
    image = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    corners = None if mode == "nearest" else align_corners
    image = F.interpolate(image, size=tuple(new_grid), mode=mode, align_corners=corners)
    grid = image.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)  # (1, P, D)
    return torch.cat([prefix, grid], dim=1)


def interpolate_sequence_positions(positions: Tensor, length: int, num_prefix_tokens: int = 0) -> Tensor:
    """
    Resize learned position embeddings of a sequence, of frames for instance, by nearest-neighbor interpolation.

    Args:
        positions (`Tensor` of shape `(1, num_prefix_tokens + L, D)`): position embeddings; those of prefix tokens come
            first and are kept.
        length (`int`): new length without the prefix tokens.
        num_prefix_tokens (`int`, *optional*, defaults to 0): number of prefix tokens.

    Returns:
        `Tensor` of shape `(1, num_prefix_tokens + length, D)`; the same tensor if the length fits already.
    """
    prefix, sequence = positions[:, :num_prefix_tokens], positions[:, num_prefix_tokens:]
    if sizes_match((length,), sequence.shape[1:2]):
        return positions
    sequence = F.interpolate(sequence.transpose(1, 2), size=length, mode="nearest").transpose(1, 2)
    return torch.cat([prefix, sequence], dim=1)


# ---- blocks ----


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016, https://arxiv.org/abs/1603.09382): drops whole rows in training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return hidden_states
        keep = 1.0 - self.rate
        shape = (hidden_states.shape[0],) + (1,) * (hidden_states.ndim - 1)
        mask = torch.empty(shape, dtype=hidden_states.dtype, device=hidden_states.device)
        return hidden_states * mask.bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def add_residual(branch: Tensor, residual: Tensor, inplace: bool) -> Tensor:
    """The sum of a branch and its residual, written into the branch if `inplace`."""
    if inplace and branch.dtype == residual.dtype:
        return branch.add_(residual)
    return residual + branch


class ViTPatchEmbedding(nn.Module):
    """Patch embedding: `(B, C, H, W)` to `(B, P, D)`."""

    def __init__(self, config: LavisViTConfig, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size, bias=bias)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.proj(pixel_values).flatten(2).transpose(1, 2)


class ViTAttention(nn.Module):
    """Self-attention with one fused projection to queries, keys and values."""

    def __init__(self, config: LavisViTConfig) -> None:
        super().__init__()
        self.config = config
        self.is_causal = False
        self.num_heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.proj_drop = nn.Dropout(config.hidden_dropout_prob)

    def project_qkv(self, hidden_states: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, `(B, N, D)` each."""
        return self.qkv(hidden_states).chunk(3, dim=-1)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        query, key, value = self.project_qkv(hidden_states)
        context, weights = attend(
            self,
            query,
            split_heads(key, self.num_heads),
            split_heads(value, self.num_heads),
            None,
            self.num_heads,
            dropout=self.config.attention_probs_dropout_prob,
            **kwargs,
        )
        return self.proj_drop(self.proj(context)), weights


class ViTMLP(nn.Module):
    """Feed-forward layers of a block."""

    def __init__(self, config: LavisViTConfig) -> None:
        super().__init__()
        intermediate_size: int = config.intermediate_size  # type: ignore[assignment]  # the configuration sets it
        self.fc1 = nn.Linear(config.hidden_size, intermediate_size)
        self.act = ACT2FN[config.hidden_act]
        self.is_gelu = config.hidden_act == "gelu"
        self.fc2 = nn.Linear(intermediate_size, config.hidden_size)
        self.drop = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, save_activations: bool = True) -> Tensor:
        inner = self.fc1(hidden_states)
        inplace = self.is_gelu and may_overwrite_output(self.fc1)
        outer = torch.ops.aten.gelu_(inner) if inplace else self.act(inner)
        with selective_recompute(outer, lambda: self.act(inner), enabled=not save_activations):
            return self.drop(self.fc2(self.drop(outer)))


class ViTBlock(GradientCheckpointingLayer):
    """Pre-norm transformer block with stochastic depth."""

    attention_class: type[ViTAttention] = ViTAttention

    def __init__(self, config: LavisViTConfig, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = self.attention_class(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ViTMLP(config)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        recompute = not self.gradient_checkpointing
        inplace = may_overwrite_output(self.attn, self.mlp, self.drop_path)
        normed, attention_input = self.norm1(hidden_states), hidden_states
        with selective_recompute(normed, lambda: self.norm1(attention_input), enabled=recompute):
            hidden_states = add_residual(self.drop_path(self.attn(normed, **kwargs)[0]), hidden_states, inplace)
        normed, mlp_input = self.norm2(hidden_states), hidden_states
        with selective_recompute(normed, lambda: self.norm2(mlp_input), enabled=recompute):
            branch = self.drop_path(self.mlp(normed, save_activations=not recompute))
            return add_residual(branch, hidden_states, inplace)


class ClipBlock(ViTBlock):
    """Pre-norm block of CLIP."""


class EvaAttention(ViTAttention):
    """Self-attention with biases of queries and values only; a bias of the keys would have no effect in softmax."""

    def __init__(self, config: LavisEvaConfig) -> None:
        super().__init__(config)
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.v_bias = nn.Parameter(torch.zeros(config.hidden_size))

    def project_qkv(self, hidden_states: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values; biases are added outside the linear layer, which works with quantized ones, too."""
        query, key, value = super().project_qkv(hidden_states)
        return query + self.q_bias, key, value + self.v_bias


class EvaBlock(ViTBlock):
    """Pre-norm block of EVA."""

    attention_class = EvaAttention


# ---- models ----


class LavisViTModel(LavisPreTrainedModel):
    """
    Vision transformer (https://arxiv.org/abs/2010.11929) that returns the hidden states of all tokens after a final
    layer norm.

    Args:
        config ([`LavisViTConfig`]): model configuration.
    """

    config: LavisViTConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities: tuple[str, ...] = ("image",)
    _no_split_modules = ["ViTBlock"]
    _can_record_outputs: dict[str, Any] = {
        "hidden_states": ViTBlock,
        "attentions": OutputRecorder(ViTAttention, index=1),
    }

    # what differs between the vision transformers
    block_class: type[ViTBlock] = ViTBlock
    patch_bias = True
    has_pre_norm = False
    has_final_norm = True
    align_position_corners = False

    def __init__(self, config: LavisViTConfig) -> None:
        super().__init__(config)
        self.patch_embed = ViTPatchEmbedding(config, bias=self.patch_bias)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.num_patches + 1, config.hidden_size))
        self.pos_drop = nn.Dropout(config.hidden_dropout_prob)
        depth = config.num_hidden_layers
        rates = [config.drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(self.block_class(config, rate) for rate in rates)
        if self.has_pre_norm:
            self.ln_pre = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if self.has_final_norm:
            self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif module is self:
            init.trunc_normal_(self.cls_token, std=std)
            init.trunc_normal_(self.pos_embed, std=std)
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        return self.patch_embed

    def embed(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Patch embeddings with class token and position embeddings: `(B, C, H, W)` to `(B, N, D)`."""
        config = self.config
        if not isinstance(pixel_values, Tensor):
            raise ValueError(
                f"Got pixel_values of type {type(pixel_values).__name__}; pass a tensor (return_tensors='pt')."
            )
        fits = pixel_values.ndim == 4 and pixel_values.shape[1] == config.num_channels and pixel_values.shape[0] > 0
        if not fits or not pixel_values.is_floating_point():
            raise ValueError(
                f"Got pixel_values of shape {tuple(pixel_values.shape)} and dtype {pixel_values.dtype}, expected "
                f"normalized floats (batch, {config.num_channels}, height, width). The processor makes them from "
                "images."
            )
        height, width = pixel_values.shape[-2:]
        positions: Tensor = self.pos_embed
        if not sizes_match((height, width), (config.image_size, config.image_size)):
            if not interpolate_pos_encoding:
                raise ValueError(
                    f"Got images of {height} x {width} pixels, but this model was built for {config.image_size} x "
                    f"{config.image_size}. Resize them with the processor or pass interpolate_pos_encoding=True."
                )
            if height % config.patch_size or width % config.patch_size:
                raise ValueError(
                    f"Got images of {height} x {width} pixels; height and width have to be multiples of the patch size "
                    f"{config.patch_size}."
                )
            grid = (height // config.patch_size, width // config.patch_size)
            positions = interpolate_grid_positions(positions, grid, align_corners=self.align_position_corners)
        patches = self.patch_embed(pixel_values.to(self.patch_embed.proj.weight.dtype))
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        return self.pos_drop(tokens + positions)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values: Tensor | None = None, interpolate_pos_encoding: bool = False, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            pixel_values (`Tensor` of shape `(batch_size, num_channels, height, width)`): normalized images.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): accept images of another size by
                interpolating the position embeddings.

        Returns:
            [`BaseModelOutputWithPooling`]: `last_hidden_state` of shape `(batch_size, N, D)`, after the final layer
            norm if there is one, and `pooler_output` of shape `(batch_size, D)`, the class token.
        """
        if pixel_values is None:
            raise ValueError("The image encoder needs pixel_values; the processor makes them from images.")
        # generate() passes the attention mask and ids of the text to every encoder
        for name in ("attention_mask", "input_ids"):
            kwargs.pop(name, None)
        hidden_states = self.embed(pixel_values, interpolate_pos_encoding)
        if self.has_pre_norm:
            hidden_states = self.ln_pre(hidden_states)
        for block in self.blocks:
            hidden_states = block(hidden_states, **kwargs)
        if self.has_final_norm:
            hidden_states = self.norm(hidden_states)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states[:, 0])


class LavisClipVisionModel(LavisViTModel):
    """
    Vision transformer of CLIP (https://arxiv.org/abs/2103.00020) that returns the hidden states of its last block, with
    a layer norm before the first block and none after the last.

    Args:
        config ([`LavisClipVisionConfig`]): model configuration.
    """

    config: LavisClipVisionConfig
    _no_split_modules = ["ClipBlock"]
    block_class = ClipBlock
    patch_bias = False
    has_pre_norm = True
    has_final_norm = False
    # parity: the original interpolates the position embeddings of this encoder, and of no other, with aligned corners
    align_position_corners = True


class LavisEvaModel(LavisViTModel):
    """
    Vision transformer of EVA (https://arxiv.org/abs/2211.07636) that returns the hidden states of its last block.

    Args:
        config ([`LavisEvaConfig`]): model configuration.
    """

    config: LavisEvaConfig
    _no_split_modules = ["EvaBlock"]
    block_class = EvaBlock
    has_final_norm = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, EvaAttention):
            init.zeros_(module.q_bias)
            init.zeros_(module.v_bias)


register_keys(LavisViTConfig.model_type, VIT_KEYS)
register_keys(LavisEvaConfig.model_type, EVA_KEYS, split_qkv_bias=True)


__all__ = [
    "DropPath",
    "LavisClipVisionModel",
    "LavisEvaModel",
    "LavisViTModel",
    "ViTAttention",
    "ViTBlock",
    "add_residual",
    "interpolate_grid_positions",
    "interpolate_sequence_positions",
    "sizes_match",
]
