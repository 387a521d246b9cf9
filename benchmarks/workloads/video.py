# SPDX-License-Identifier: Apache-2.0
"""Video encoding: ALPRO's TimeSformer-B, 8 frames at 224 pixels to hidden states averaged over the frames."""

from dataclasses import dataclass

import torch

from benchmarks import flops, weights
from benchmarks.workloads.base import OURS, Run, Tensors, Workload


@dataclass(frozen=True)
class Size:
    """Sizes of the video encoder and of the videos."""

    clips: int = 2
    frames: int = 8
    image_size: int = 224
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12


FROM_OURS = weights.rename_by([(r"^", "visual_encoder.model.")])
FROM_LAVIS = weights.rename_by([(r"^", "visual_encoder.")])
FROM_TRANSFORMERS = weights.rename_by(
    [
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.time_embeddings$", "time_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^layernorm\.", "norm."),
        (r"^encoder\.layer\.", "blocks."),
        (r"\.temporal_attention\.attention\.qkv\.", ".temporal_attn.qkv."),
        (r"\.temporal_attention\.output\.dense\.", ".temporal_attn.proj."),
        (r"\.attention\.attention\.qkv\.", ".attn.qkv."),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.temporal_layernorm\.", ".temporal_norm1."),
        (r"\.temporal_dense\.", ".temporal_fc."),
        (r"^", "visual_encoder.model."),
    ]
)


def make_clips(size: Size) -> torch.Tensor:
    """Normal noise `(clips, frames, 3, image_size, image_size)`, equal for all peers."""
    shape = (size.clips, size.frames, 3, size.image_size, size.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def build_ours(size: Size, dtype: torch.dtype) -> Run:
    from modeling_lavis import LavisTimesformerConfig, LavisTimesformerModel

    config = LavisTimesformerConfig(
        image_size=size.image_size,
        num_frames=size.frames,
        hidden_size=size.hidden_size,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
    )
    model = LavisTimesformerModel(config)
    weights.fill(model, FROM_OURS)
    model = model.to(dtype).eval()
    clips = make_clips(size).to(dtype)

    @torch.no_grad()
    def run() -> Tensors:
        return {"states": model(clips).last_hidden_state}

    return run


def build_transformers(size: Size, dtype: torch.dtype) -> Run:
    from transformers import TimesformerConfig, TimesformerModel

    config = TimesformerConfig(
        image_size=size.image_size,
        num_frames=size.frames,
        hidden_size=size.hidden_size,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.hidden_size,
    )
    model = TimesformerModel(config)
    weights.fill(model, FROM_TRANSFORMERS)
    model = model.to(dtype).eval()
    clips = make_clips(size).to(dtype)

    @torch.no_grad()
    def run() -> Tensors:
        states = model(clips).last_hidden_state
        patches = states[:, 1:].unflatten(1, (-1, size.frames)).mean(dim=2)  # ALPRO averages over the frames
        return {"states": torch.cat([states[:, :1], patches], dim=1)}

    return run


def build_lavis(size: Size, dtype: torch.dtype) -> Run:
    from lavis.models.timesformer.vit import TimeSformer, VisionTransformer

    model = TimeSformer(image_size=size.image_size, n_frms=size.frames, drop_path_rate=0.0)
    if size.hidden_size != model.model.embed_dim:  # the wrapper supports the full size only
        model.model = VisionTransformer(
            img_size=size.image_size,
            num_classes=0,
            embed_dim=size.hidden_size,
            depth=size.layers,
            num_heads=size.heads,
            qkv_bias=True,
            norm_layer=lambda hidden_size: torch.nn.LayerNorm(hidden_size, eps=1e-6),
            num_frames=size.frames,
        )
        model.model.remove_classifier()
    weights.fill(model, FROM_LAVIS)
    model = model.to(dtype).eval()
    clips = make_clips(size).to(dtype).transpose(1, 2)

    @torch.no_grad()
    def run() -> Tensors:
        return {"states": model.forward_features(clips)}

    return run


def count_flops(size: Size) -> float:
    """Temporal attention with its two output projections folded into one, spatial attention, MLP."""
    patches = (size.image_size // 16) ** 2
    tokens = patches * size.frames
    temporal = flops.linear(tokens, size.hidden_size, 4 * size.hidden_size) + tokens * flops.attention(
        1, size.frames, size.hidden_size
    )
    spatial = flops.linear(tokens + 1, size.hidden_size, 4 * size.hidden_size)
    spatial += size.frames * flops.attention(patches + 1, patches + 1, size.hidden_size)
    mlp = flops.linear(tokens + 1, size.hidden_size, 8 * size.hidden_size)
    embedding = flops.linear(tokens, 3 * 16 * 16, size.hidden_size)
    return size.clips * (embedding + size.layers * (temporal + spatial + mlp))


WORKLOAD = Workload(
    name="video",
    summary="TimeSformer-B, 2 clips of 8 frames, 224 px",
    sizes={
        "full": Size(),
        "tiny": Size(frames=4, image_size=32, hidden_size=32, layers=2, heads=2),
    },
    builders={OURS: build_ours, "transformers": build_transformers, "lavis": build_lavis},
    count_flops=count_flops,
)
