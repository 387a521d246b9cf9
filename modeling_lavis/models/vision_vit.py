# SPDX-License-Identifier: Apache-2.0
"""The ViT image tower of ALBEF and BLIP.

Letters: B images, C channels, H and W pixels, P patches, N = P + 1 tokens (class token first), D width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import attend, split_heads
from .checkpoint_formats import register_transformers_vit_keys
from .configuration_vision_vit import LavisViTConfig
from .modeling_base import LavisPreTrainedModel
from .position_embeddings import resize_grid_positions
from .recompute import recomputed


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016, https://arxiv.org/abs/1603.09382): drops whole rows while training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, states: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return states
        keep = 1.0 - self.rate
        mask = torch.empty((states.shape[0],) + (1,) * (states.ndim - 1), dtype=states.dtype, device=states.device)
        return states * mask.bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def is_eager_inference() -> bool:
    """
    Whether neither gradients nor a compiler look on, so that what nobody will read again can be overwritten (new memory
    costs a CPU as much as the arithmetic) and maps can be rearranged.
    """
    return not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def add_states(branch: Tensor, states: Tensor) -> Tensor:
    """A branch, which is overwritten if it can be, plus the states that it came from."""
    if is_eager_inference() and branch.dtype == states.dtype:
        return branch.add_(states)
    return states + branch


class ViTPatchEmbedding(nn.Module):
    """Cuts images into patches and maps each to a vector: `(B, C, H, W)` to `(B, P, D)`."""

    def __init__(self, config: LavisViTConfig, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size, bias=bias)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.proj(pixel_values).flatten(2).transpose(1, 2)


class ViTAttention(nn.Module):
    """Self-attention with one fused map to queries, keys and values."""

    def __init__(self, config: LavisViTConfig) -> None:
        super().__init__()
        self.config = config
        self.is_causal = False
        self.num_heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.proj_drop = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        query, key, value = self.qkv(hidden_states).chunk(3, dim=-1)
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
    """Feed-forward part of a block."""

    def __init__(self, config: LavisViTConfig) -> None:
        super().__init__()
        hidden = int(config.hidden_size * config.mlp_ratio)
        self.fc1 = nn.Linear(config.hidden_size, hidden)
        self.act = ACT2FN[config.hidden_act]
        self.is_gelu = config.hidden_act == "gelu"
        self.fc2 = nn.Linear(hidden, config.hidden_size)
        self.drop = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, keep_activations: bool = True) -> Tensor:
        inner = self.fc1(hidden_states)
        outer = torch.ops.aten.gelu_(inner) if self.is_gelu and is_eager_inference() else self.act(inner)
        with recomputed(outer, lambda: self.act(inner), enabled=not keep_activations):
            return self.drop(self.fc2(self.drop(outer)))


class ViTBlock(GradientCheckpointingLayer):
    """Pre-norm transformer block with stochastic depth."""

    attention_class: type[nn.Module] = ViTAttention

    def __init__(self, config: LavisViTConfig, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = self.attention_class(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ViTMLP(config)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        lean = not self.gradient_checkpointing
        normed = self.norm1(hidden_states)
        before = hidden_states
        with recomputed(normed, lambda: self.norm1(before), enabled=lean):
            hidden_states = add_states(self.drop_path(self.attn(normed, **kwargs)[0]), hidden_states)
        normed = self.norm2(hidden_states)
        between = hidden_states
        with recomputed(normed, lambda: self.norm2(between), enabled=lean):
            return add_states(self.drop_path(self.mlp(normed, keep_activations=not lean)), hidden_states)


class LavisViTModel(LavisPreTrainedModel):
    """
    Vision transformer (https://arxiv.org/abs/2010.11929) that returns the normalised state of every token.

    Args:
        config ([`LavisViTConfig`]): sizes of the tower.
    """

    config: LavisViTConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ["ViTBlock"]
    _can_record_outputs = {"hidden_states": ViTBlock, "attentions": OutputRecorder(ViTAttention, index=1)}

    # What towers of the same build do otherwise.
    block_class: type[ViTBlock] = ViTBlock
    patch_bias = True
    first_norm = False
    final_norm = True
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
        if self.first_norm:
            self.ln_pre = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if self.final_norm:
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
        """Patches with class token and positions: `(B, C, H, W)` to `(B, N, D)`."""
        config = self.config
        if not isinstance(pixel_values, Tensor):
            raise ValueError(
                f"Got pixel_values as {type(pixel_values).__name__}; give a tensor, with return_tensors='pt'."
            )
        fits = pixel_values.ndim == 4 and pixel_values.shape[1] == config.num_channels and pixel_values.shape[0] > 0
        if not fits or not pixel_values.is_floating_point():
            raise ValueError(
                f"Got pixel_values of shape {tuple(pixel_values.shape)} and dtype {pixel_values.dtype}, expected "
                f"normalised floats (batch, {config.num_channels}, height, width). Let the processor make them from "
                "pictures."
            )
        height, width = pixel_values.shape[-2:]
        positions: Tensor = self.pos_embed
        if (height, width) != (config.image_size, config.image_size):
            if not interpolate_pos_encoding:
                raise ValueError(
                    f"Got images of {height} x {width} pixels, but this model was built for {config.image_size} x "
                    f"{config.image_size}. Resize them with the processor or pass interpolate_pos_encoding=True."
                )
            if height % config.patch_size or width % config.patch_size:
                raise ValueError(
                    f"Got images of {height} x {width} pixels; both sides have to be multiples of the patch size "
                    f"{config.patch_size}."
                )
            grid = (height // config.patch_size, width // config.patch_size)
            positions = resize_grid_positions(positions, grid, align_corners=self.align_position_corners)
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
            pixel_values (`Tensor` of shape `(batch_size, num_channels, height, width)`): normalised images.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size and
                interpolate the positions.

        Returns:
            [`BaseModelOutputWithPooling`]: `last_hidden_state` (batch_size, N, D), after the final norm where there is
            one, and `pooler_output` (batch_size, D), its class token.
        """
        if pixel_values is None:
            raise ValueError("The image tower needs pixel_values; the processor makes them from pictures.")
        # generate() hands the text's masks to every encoder; the tower has no use for them.
        for name in ("attention_mask", "input_ids"):
            kwargs.pop(name, None)
        hidden_states = self.embed(pixel_values, interpolate_pos_encoding)
        if self.first_norm:
            hidden_states = self.ln_pre(hidden_states)
        for block in self.blocks:
            hidden_states = block(hidden_states, **kwargs)
        if self.final_norm:
            hidden_states = self.norm(hidden_states)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states[:, 0])


register_transformers_vit_keys(LavisViTConfig.model_type)


__all__ = ["DropPath", "LavisViTModel", "ViTAttention", "ViTBlock", "add_states", "is_eager_inference"]
