# SPDX-License-Identifier: Apache-2.0
"""Captions by a large language model: BLIP-2 with EVA-g and OPT-2.7b, greedy, static cache, at several batch sizes.

LAVIS's class needs its own fork of transformers' OPT and downloads at construction, so transformers is the peer. The
sizes are batches; each tells the time to the first token, tokens per second, and how far a step is from the time that
reading the language model's weights once would take.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks import flops, weights
from benchmarks.workloads.base import OURS, Run, Tensors, Workload
from benchmarks.workloads.caption import make_pixels

PROMPT = (102, 1345, 9)  # "a photo of", a word piece each


@dataclass(frozen=True)
class Size:
    """Dimensions of model and task. `tokens` are new ones; neither peer may stop earlier."""

    images: int = 1
    tokens: int = 32
    image_size: int = 224
    patch: int = 14
    tower_width: int = 1408
    tower_layers: int = 39
    tower_heads: int = 16
    tower_feed_forward: int = 6144
    queries: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    text_width: int = 2560
    text_layers: int = 32
    text_heads: int = 32
    vocabulary: int = 50304

    @property
    def text_parameters(self) -> int:
        """Weights that every step reads: layers, and the map to the vocabulary, which the embeddings share."""
        return self.text_layers * 12 * self.text_width**2 + self.vocabulary * self.text_width

    @property
    def image_token(self) -> int:
        """Stands for a query in the prompts of transformers' class."""
        return self.vocabulary - 1


_TOWER = [
    (r"^vision_model\.embeddings\.class_embedding$", "vision_model.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding$", "vision_model.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "vision_model.patch_embed.proj."),
    (r"^vision_model\.post_layernorm\.", "ln_vision."),
    (r"^vision_model\.encoder\.layers\.", "vision_model.blocks."),
    (r"(blocks\.\d+)\.layer_norm(\d)\.", r"\1.norm\2."),
    (r"(blocks\.\d+)\.self_attn\.qkv\.", r"\1.attn.qkv."),
    (r"(blocks\.\d+)\.self_attn\.projection\.", r"\1.attn.proj."),
]
_QFORMER = [
    (r"^qformer\.layernorm\.", "qformer.embeddings.LayerNorm."),
    (r"^(qformer\..*attention)\.attention\.", r"\1.self."),
]
FROM_TRANSFORMERS = weights.rename_by([*_TOWER, *_QFORMER])
_NORM = ("norm", "LayerNorm", "ln_vision")


def build_ours(size: Size, dtype: torch.dtype, device: torch.device) -> Run:
    from modeling_lavis import LavisBlip2Config, LavisBlip2ForConditionalGeneration

    config = LavisBlip2Config(
        vision_config={**_tower(size), "intermediate_size": size.tower_feed_forward},
        qformer_config={**_qformer(size), "num_query_tokens": size.queries},
        text_config=_opt(size).to_dict(),
    )
    model = _built(LavisBlip2ForConditionalGeneration, config, dtype, device, weights.rename_by([]))
    prompt = torch.tensor([PROMPT], device=device).repeat(size.images, 1)
    return _run(model, prompt, size, dtype, device, prompt_length=len(PROMPT))


def build_transformers(size: Size, dtype: torch.dtype, device: torch.device) -> Run:
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    config = Blip2Config(
        vision_config={**_tower(size), "intermediate_size": size.tower_feed_forward},
        qformer_config={**_qformer(size), "encoder_hidden_size": size.tower_width},
        text_config=_opt(size).to_dict(),
        num_query_tokens=size.queries,
        image_token_index=size.image_token,
    )
    model = _built(Blip2ForConditionalGeneration, config, dtype, device, FROM_TRANSFORMERS)
    prompt = torch.tensor([(*[size.image_token] * size.queries, *PROMPT)], device=device).repeat(size.images, 1)
    return _run(model, prompt, size, dtype, device, prompt_length=size.queries + len(PROMPT))


def _tower(size: Size) -> dict[str, Any]:
    return {
        "hidden_size": size.tower_width,
        "num_hidden_layers": size.tower_layers,
        "num_attention_heads": size.tower_heads,
        "image_size": size.image_size,
        "patch_size": size.patch,
        "layer_norm_eps": 1e-6,
    }


def _qformer(size: Size) -> dict[str, Any]:
    return {
        "vocab_size": 30523,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": 4 * size.width,
        "cross_attention_frequency": 2,
    }


def _opt(size: Size) -> Any:
    from transformers import OPTConfig

    return OPTConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.text_width,
        word_embed_proj_dim=size.text_width,
        ffn_dim=4 * size.text_width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_heads,
    )


def _built(model_class: Any, config: Any, dtype: torch.dtype, device: torch.device, rename: weights.Rename) -> Any:
    """The model with the same random weights for every peer, of which never more than one is held in float32."""
    from transformers.initialization import no_init_weights

    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            model = model_class(config)
    finally:
        torch.set_default_dtype(usual)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            name = rename(name)
            if name.endswith(("qkv.bias", "q_bias", "v_bias")):
                parameter.zero_()  # one tensor here, two there
            elif name.endswith("weight") and any(part in name for part in _NORM):
                parameter.fill_(1)
            else:
                parameter.copy_(weights.draw(name, parameter.shape))
    return model.to(device).eval()


class _FirstToken:
    """A logits processor that changes nothing and notes when it is asked first."""

    def __init__(self) -> None:
        self.seen: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.seen is None:
            scores[:1, :1].cpu()  # waits for the device
            self.seen = time.perf_counter()
        return scores


def _run(
    model: nn.Module, prompt: torch.Tensor, size: Size, dtype: torch.dtype, device: torch.device, prompt_length: int
) -> Run:
    pixels = make_pixels(size.images, size.image_size).to(device, dtype)

    def run() -> Tensors:
        first = _FirstToken()
        start = time.perf_counter()
        ids = model.generate(
            pixel_values=pixels,
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            min_new_tokens=size.tokens,
            max_new_tokens=size.tokens,
            do_sample=False,
            num_beams=1,
            cache_implementation="static",
            logits_processor=[first],
        )
        return {"ids": ids[:, prompt_length:].cpu(), "seconds_to_first_token": torch.tensor(first.seen - start)}

    return run


def count_flops(size: Size) -> float:
    """Tower, Q-Former on its queries, and the language model on prompt and new tokens."""
    tokens = (size.image_size // size.patch) ** 2 + 1
    block = flops.linear(tokens, size.tower_width, 4 * size.tower_width)
    block += flops.linear(tokens, size.tower_width, 2 * size.tower_feed_forward)
    block += flops.attention(tokens, tokens, size.tower_width)
    work = size.tower_layers * block + flops.linear(tokens - 1, 3 * size.patch**2, size.tower_width)
    readers = (size.layers + 1) // 2
    work += size.layers * flops.bert_layer(size.queries, size.queries, size.width, 4 * size.width)
    work += readers * flops.project_keys_and_values(tokens, size.tower_width, size.width)
    work += readers * flops.linear(size.queries, size.width, 2 * size.width)
    work += readers * flops.attention(size.queries, tokens, size.width)
    read = size.queries + len(PROMPT) + size.tokens - 1
    work += size.text_layers * flops.bert_layer(read, read / 2, size.text_width, 4 * size.text_width)
    work += flops.linear(size.tokens, size.text_width, size.vocabulary)
    return size.images * work


def describe(size: Size, seconds: float, figures: dict[str, float], bytes_per_number: int, rate: float | None) -> str:
    """First token, tokens per second, and a step beside the time that reading the weights takes."""
    first = figures["seconds_to_first_token"]
    step = (seconds - first) / (size.tokens - 1)
    text = f"first token {first:.3f} s, {size.images * size.tokens / seconds:.1f} tokens/s, {1e3 * step:.1f} ms a step"
    if rate:
        text += f" = {step * rate / (size.text_parameters * bytes_per_number):.2f} x of reading the weights"
    return text


WORKLOAD = Workload(
    name="blip2_generate",
    summary="BLIP-2 OPT-2.7b, prompt of 3 tokens, 32 new tokens, greedy, static cache",
    sizes={
        "full": Size(),
        "batch8": Size(images=8),
        "batch32": Size(images=32),
        "tiny": Size(
            images=2,
            tokens=4,
            image_size=28,
            tower_width=32,
            tower_layers=2,
            tower_heads=2,
            tower_feed_forward=64,
            queries=4,
            width=32,
            layers=2,
            heads=2,
            text_width=32,
            text_layers=2,
            text_heads=2,
            vocabulary=1400,
        ),
    },
    builders={OURS: build_ours, "transformers": build_transformers},
    count_flops=count_flops,
    exact=frozenset({"ids"}),
    on_device=True,
    describe=describe,
)
