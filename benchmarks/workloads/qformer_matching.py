# SPDX-License-Identifier: Apache-2.0
"""Matching texts with encoded images: BLIP-2's Q-Former, 4 images x 16 texts.

The image encoder is not part of it: all peers get equal random hidden states.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks import flops, weights
from benchmarks.workloads.base import OURS, Run, Tensors, Workload
from benchmarks.workloads.retrieval import make_texts, padded

PADDED = 35  # length to which the original pads all texts of a similarity matrix


@dataclass(frozen=True)
class Size:
    """Sizes of model and task; texts have `shortest` to `longest` tokens, including [CLS] and [SEP]."""

    images: int = 4
    texts: int = 16
    shortest: int = 8
    longest: int = 17
    image_tokens: int = 257
    vision_hidden_size: int = 1408
    queries: int = 32
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 30523

    @property
    def intermediate_size(self) -> int:
        return 4 * self.hidden_size


def make_states(size: Size) -> torch.Tensor:
    """Normalized hidden states `(images, tokens, hidden_size)` of an image encoder: noise, equal for all peers."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size.images, size.image_tokens, size.vision_hidden_size, generator=generator)


def bert_sizes(size: Size) -> dict[str, Any]:
    """Options of the Q-Former's configuration in all peers."""
    return {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden_size,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.intermediate_size,
        "max_position_embeddings": 512,
    }


def _vision_config(size: Size) -> dict[str, Any]:
    # not used; one small block saves memory
    return {"hidden_size": size.vision_hidden_size, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 14}


FROM_OURS = weights.rename_by([(r"^qformer\.", "Qformer.bert.")])
FROM_TRANSFORMERS = weights.rename_by(
    [
        (r"^qformer\.layernorm\.", "Qformer.bert.embeddings.LayerNorm."),
        (r"^embeddings\.", "Qformer.bert.embeddings."),
        (r"^qformer\.", "Qformer.bert."),
        (r"attention\.attention\.", "attention.self."),
    ]
)


def build_ours(size: Size, dtype: torch.dtype) -> Run:
    from modeling_lavis import LavisBlip2Config, LavisBlip2ForImageTextRetrieval

    config = LavisBlip2Config(
        vision_config={**_vision_config(size), "intermediate_size": 8},
        qformer_config={**bert_sizes(size), "num_query_tokens": size.queries},
    )
    model = LavisBlip2ForImageTextRetrieval(config)
    weights.fill(model, FROM_OURS)
    model = model.to(dtype).eval()
    states = make_states(size).to(dtype)
    texts = padded(make_texts(size), PADDED)
    pairs = torch.cartesian_prod(torch.arange(size.images), torch.arange(size.texts))

    def run() -> Tensors:
        return {"itm": model.score_pairs(states, texts, pairs).logits[:, 1]}

    return run


def build_transformers(size: Size, dtype: torch.dtype) -> Run:
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    config = Blip2Config(
        vision_config={**_vision_config(size), "intermediate_size": 8},
        qformer_config={**bert_sizes(size), "use_qformer_text_input": True},
        num_query_tokens=size.queries,
    )
    model = Blip2ForImageTextRetrieval(config)
    weights.fill(model, FROM_TRANSFORMERS)
    model = model.to(dtype).eval()
    # the forward pass of transformers takes one image per text
    states = make_states(size).to(dtype).repeat_interleave(size.texts, dim=0)
    model.vision_model = _Encoded(states)
    texts = padded(make_texts(size), size.longest)
    inputs = {name: value.repeat(size.images, 1) for name, value in texts.items()}
    pixels = torch.zeros(len(states), 3, 14, 14, dtype=dtype)

    @torch.no_grad()
    def run() -> Tensors:
        output = model(pixel_values=pixels, **inputs, use_image_text_matching_head=True)
        return {"itm": output.logits_per_image[:, 1]}

    return run


class _Encoded(nn.Module):
    """Replaces an image encoder."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, **arguments: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(last_hidden_state=self.states)


def build_lavis(size: Size, dtype: torch.dtype) -> Run:
    from lavis.models.blip2_models.blip2_qformer import Blip2Qformer
    from lavis.models.blip2_models.Qformer import BertLMHeadModel
    from transformers import BertConfig

    config = BertConfig(**bert_sizes(size))
    config.encoder_width = size.vision_hidden_size
    config.add_cross_attention = True
    config.cross_attention_freq = 2
    config.query_length = size.queries
    # the parts of Blip2Qformer that matching uses; its constructor would download weights
    parts = nn.Module()
    parts.Qformer = BertLMHeadModel(config)
    parts.query_tokens = nn.Parameter(torch.zeros(1, size.queries, size.hidden_size))
    parts.itm_head = nn.Linear(size.hidden_size, 2)
    weights.fill(parts, weights.FROM_LAVIS)
    parts = parts.to(dtype).eval()
    states = make_states(size).to(dtype)
    texts = padded(make_texts(size), PADDED)

    @torch.no_grad()
    def run() -> Tensors:
        # as in compute_sim_matrix: one image at a time, repeated for its candidates
        rows = [
            Blip2Qformer.compute_itm(
                parts, states[i].repeat(size.texts, 1, 1), texts["input_ids"], texts["attention_mask"]
            )
            for i in range(size.images)
        ]
        return {"itm": torch.cat(rows)}

    return run


def count_flops(size: Size) -> float:
    """Keys and values once per image; every pair once, the last layer for query tokens only."""
    cross_attention_layers = (size.layers + 1) // 2
    work = (
        size.images
        * cross_attention_layers
        * flops.project_keys_and_values(size.image_tokens, size.vision_hidden_size, size.hidden_size)
    )
    pair = 0.0
    for text in make_texts(size):
        tokens = size.queries + len(text)
        pair += (size.layers - 1) * flops.bert_layer(tokens, tokens, size.hidden_size, size.intermediate_size)
        pair += flops.bert_layer(size.queries, tokens, size.hidden_size, size.intermediate_size)
        # keys and values of the text in the last layer
        pair += flops.linear(len(text), size.hidden_size, 2 * size.hidden_size)
        projections = flops.linear(size.queries, size.hidden_size, 2 * size.hidden_size)
        pair += cross_attention_layers * (
            projections + flops.attention(size.queries, size.image_tokens, size.hidden_size)
        )
    return work + size.images * pair


WORKLOAD = Workload(
    name="qformer_matching",
    summary="BLIP-2, 4 encoded images x 16 texts",
    sizes={
        "full": Size(),
        "tiny": Size(
            images=2, texts=4, image_tokens=5, vision_hidden_size=24, queries=4, hidden_size=32, layers=2, heads=2
        ),
    },
    builders={OURS: build_ours, "transformers": build_transformers, "lavis": build_lavis},
    count_flops=count_flops,
)
