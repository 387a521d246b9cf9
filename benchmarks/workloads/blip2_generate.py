# SPDX-License-Identifier: Apache-2.0
"""Captioning with a large language model: BLIP-2 with EVA-g and OPT-2.7b, greedy, static cache, several batch sizes.

LAVIS's class needs a fork of OPT and downloads weights at construction, so transformers is the only peer. For each
batch size, the notes give the time to the first token, tokens per second, and the time of a step in relation to the
time of reading the weights of the language model once.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks import flops, weights
from benchmarks.workloads.base import OURS, Rates, Run, Tensors, Workload
from benchmarks.workloads.caption import FirstTokenTimer, make_pixels

PROMPT = (102, 1345, 9)  # "a photo of", one token per word


@dataclass(frozen=True)
class Size:
    """Sizes of model and task. `tokens` is the number of new tokens, which all peers generate."""

    images: int = 1
    tokens: int = 32
    image_size: int = 224
    patch: int = 14
    vision_hidden_size: int = 1408
    vision_layers: int = 39
    vision_heads: int = 16
    vision_intermediate_size: int = 6144
    queries: int = 32
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    text_hidden_size: int = 2560
    text_layers: int = 32
    text_heads: int = 32
    vocabulary: int = 50304

    @property
    def text_parameters(self) -> int:
        """Weights that every step reads: layers, and the output projection, which is tied to the embeddings."""
        return self.text_layers * 12 * self.text_hidden_size**2 + self.vocabulary * self.text_hidden_size

    @property
    def image_token(self) -> int:
        """Placeholder of a query token in the prompts of transformers."""
        return self.vocabulary - 1


_VISION = [
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
FROM_TRANSFORMERS = weights.rename_by([*_VISION, *_QFORMER])
_NORM = ("norm", "LayerNorm", "ln_vision")


def build_ours(size: Size, dtype: torch.dtype, device: torch.device) -> Run:
    from modeling_lavis import LavisBlip2Config, LavisBlip2ForConditionalGeneration

    config = LavisBlip2Config(
        vision_config={**_vision_config(size), "intermediate_size": size.vision_intermediate_size},
        qformer_config={**_qformer_config(size), "num_query_tokens": size.queries},
        text_config=_opt_config(size).to_dict(),
    )
    model = _build_model(LavisBlip2ForConditionalGeneration, config, dtype, device, weights.rename_by([]))
    prompt = torch.tensor([PROMPT], device=device).repeat(size.images, 1)
    return _run(model, prompt, size, dtype, device, prompt_length=len(PROMPT))


def build_transformers(size: Size, dtype: torch.dtype, device: torch.device) -> Run:
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    config = Blip2Config(
        vision_config={**_vision_config(size), "intermediate_size": size.vision_intermediate_size},
        qformer_config={**_qformer_config(size), "encoder_hidden_size": size.vision_hidden_size},
        text_config=_opt_config(size).to_dict(),
        num_query_tokens=size.queries,
        image_token_index=size.image_token,
    )
    model = _build_model(Blip2ForConditionalGeneration, config, dtype, device, FROM_TRANSFORMERS)
    prompt = torch.tensor([(*[size.image_token] * size.queries, *PROMPT)], device=device).repeat(size.images, 1)
    return _run(model, prompt, size, dtype, device, prompt_length=size.queries + len(PROMPT))


def _vision_config(size: Size) -> dict[str, Any]:
    return {
        "hidden_size": size.vision_hidden_size,
        "num_hidden_layers": size.vision_layers,
        "num_attention_heads": size.vision_heads,
        "image_size": size.image_size,
        "patch_size": size.patch,
        "layer_norm_eps": 1e-6,
    }


def _qformer_config(size: Size) -> dict[str, Any]:
    return {
        "vocab_size": 30523,
        "hidden_size": size.hidden_size,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": 4 * size.hidden_size,
        "cross_attention_frequency": 2,
    }


def _opt_config(size: Size) -> Any:
    from transformers import OPTConfig

    return OPTConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.text_hidden_size,
        word_embed_proj_dim=size.text_hidden_size,
        ffn_dim=4 * size.text_hidden_size,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_heads,
    )


def _build_model(
    model_class: Any, config: Any, dtype: torch.dtype, device: torch.device, rename: weights.Rename
) -> Any:
    """Build a model with equal random weights for all peers, with at most one tensor in float32 at a time."""
    from transformers.initialization import no_init_weights

    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            model = model_class(config)
    finally:
        torch.set_default_dtype(default_dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            name = rename(name)
            if name.endswith(("qkv.bias", "q_bias", "v_bias")):
                parameter.zero_()  # one tensor in transformers, two in this package
            elif name.endswith("weight") and any(part in name for part in _NORM):
                parameter.fill_(1)
            else:
                parameter.copy_(weights.draw(name, parameter.shape))
    return model.to(device).eval()


def _run(
    model: nn.Module, prompt: torch.Tensor, size: Size, dtype: torch.dtype, device: torch.device, prompt_length: int
) -> Run:
    pixels = make_pixels(size.images, size.image_size).to(device, dtype)

    def run() -> Tensors:
        timer = FirstTokenTimer()
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
            logits_processor=[timer],
        )
        return {"ids": ids[:, prompt_length:].cpu(), "seconds_to_first_token": torch.tensor(timer.since(start))}

    return run


def count_flops(size: Size) -> float:
    """Image encoder, Q-Former on query tokens, and language model on prompt and new tokens."""
    tokens = (size.image_size // size.patch) ** 2 + 1
    block = flops.linear(tokens, size.vision_hidden_size, 4 * size.vision_hidden_size)
    block += flops.linear(tokens, size.vision_hidden_size, 2 * size.vision_intermediate_size)
    block += flops.attention(tokens, tokens, size.vision_hidden_size)
    work = size.vision_layers * block + flops.linear(tokens - 1, 3 * size.patch**2, size.vision_hidden_size)
    cross_attention_layers = (size.layers + 1) // 2
    work += size.layers * flops.bert_layer(size.queries, size.queries, size.hidden_size, 4 * size.hidden_size)
    work += cross_attention_layers * flops.project_keys_and_values(tokens, size.vision_hidden_size, size.hidden_size)
    work += cross_attention_layers * flops.linear(size.queries, size.hidden_size, 2 * size.hidden_size)
    work += cross_attention_layers * flops.attention(size.queries, tokens, size.hidden_size)
    text_tokens = size.queries + len(PROMPT) + size.tokens - 1
    work += size.text_layers * flops.bert_layer(
        text_tokens, text_tokens / 2, size.text_hidden_size, 4 * size.text_hidden_size
    )
    work += flops.linear(size.tokens, size.text_hidden_size, size.vocabulary)
    return size.images * work


def describe(size: Size, seconds: float, figures: dict[str, float], bytes_per_number: int, rates: Rates) -> str:
    """Time to the first token, tokens per second, and time of a step in relation to reading the weights."""
    first = figures["seconds_to_first_token"]
    step = (seconds - first) / (size.tokens - 1)
    text = f"first token {first:.3f} s, {size.images * size.tokens / seconds:.1f} tokens/s, {1e3 * step:.1f} ms a step"
    if rates.bytes:
        text += f" = {step * rates.bytes / (size.text_parameters * bytes_per_number):.2f} x of reading the weights"
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
            vision_hidden_size=32,
            vision_layers=2,
            vision_heads=2,
            vision_intermediate_size=64,
            queries=4,
            hidden_size=32,
            layers=2,
            heads=2,
            text_hidden_size=32,
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
