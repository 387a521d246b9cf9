# SPDX-License-Identifier: Apache-2.0
"""Captioning: BLIP-base at 384 pixels, beam search for 4 images, captions of a fixed length; and `latency`, one image
with greedy decoding.

Minimal and maximal length are equal, so that all peers decode the same number of tokens. The notes give the time of a
decoding step beside its roofline.
"""

import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks import flops, weights
from benchmarks.workloads.base import OURS, Rates, Run, Tensors, Workload

DEC, SEP = 30522, 102
PROMPT = (1037, 3861, 1997)  # "a picture of"


@dataclass(frozen=True)
class Size:
    """Sizes of model and task; lengths are in tokens and include [DEC] and the prompt."""

    images: int = 4
    beams: int = 3
    length: int = 20
    image_size: int = 384
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 30524

    @property
    def intermediate_size(self) -> int:
        return 4 * self.hidden_size


def make_pixels(images: int, image_size: int) -> torch.Tensor:
    """Normal noise `(images, 3, image_size, image_size)`, equal for all peers."""
    return torch.randn(images, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))


class FirstTokenTimer:
    """A logits processor that changes nothing and records the time of its first call."""

    def __init__(self) -> None:
        self.first_call: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.first_call is None:
            scores[:1, :1].cpu()  # synchronizes with the device
            self.first_call = time.perf_counter()
        return scores

    def since(self, start: float) -> float:
        """Seconds from `start` to the first call."""
        assert self.first_call is not None
        return self.first_call - start


def build_ours(size: Size, dtype: torch.dtype) -> Run:
    return _run_ours(our_model(size).to(dtype), size)


def our_model(size: Size) -> Any:
    """This project's model with the weights of all peers."""
    from benchmarks.our_parts import blip_config
    from modeling_lavis import LavisBlipForConditionalGeneration

    model = LavisBlipForConditionalGeneration(blip_config(size))
    weights.fill(model, weights.FROM_OURS)
    return model.eval()


def build_exported(size: Size, format: str, exports: Path) -> Run:
    from modeling_lavis import load_exported

    folder = exports / f"blip-{size.image_size}-{size.hidden_size}-{format}"
    if not folder.exists():  # in a process of its own, whose memory is not measured
        process = get_context("spawn").Process(target=export, args=(size, format, folder))
        process.start()
        process.join()
    return _run_ours(load_exported(folder), size)


def export(size: Size, format: str, folder: Path) -> None:
    """Export this project's model."""
    from benchmarks.workloads.collection import blip_processor  # which imports this file
    from modeling_lavis import export_model

    export_model(our_model(size), folder, format, processor=blip_processor(size))


def _run_ours(model: Any, size: Size) -> Run:
    pixels = make_pixels(size.images, size.image_size).to(model.dtype)
    prompt = torch.tensor([[DEC, *PROMPT]]).repeat(size.images, 1)

    def run() -> Tensors:
        timer = FirstTokenTimer()
        start = time.perf_counter()
        ids = model.generate(
            pixel_values=pixels,
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            num_beams=size.beams,
            max_length=size.length,
            min_length=size.length,
            do_sample=False,
            logits_processor=[timer],
        )
        return {"ids": ids, "seconds_to_first_token": torch.tensor(timer.since(start))}

    return run


def transformers_model(size: Size) -> Any:
    """transformers' model with the weights of all peers."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    text = {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden_size,
        "encoder_hidden_size": size.hidden_size,
        "intermediate_size": size.intermediate_size,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
    }
    vision = {
        "hidden_size": size.hidden_size,
        "intermediate_size": size.intermediate_size,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "image_size": size.image_size,
        "layer_norm_eps": 1e-6,
    }
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    weights.fill(model, weights.FROM_TRANSFORMERS_BLIP)
    return model


def build_transformers(size: Size, dtype: torch.dtype) -> Run:
    model = transformers_model(size).to(dtype).eval()
    pixels = make_pixels(size.images, size.image_size).to(dtype)
    prompt = torch.tensor([[DEC, *PROMPT, SEP]]).repeat(size.images, 1)  # transformers drops the last token

    def run() -> Tensors:
        timer = FirstTokenTimer()
        start = time.perf_counter()
        ids = model.generate(
            pixel_values=pixels,
            input_ids=prompt.clone(),
            attention_mask=torch.ones_like(prompt),
            num_beams=size.beams,
            max_length=size.length,
            min_length=size.length,
            do_sample=False,
            logits_processor=[timer],
        )
        return {"ids": ids, "seconds_to_first_token": torch.tensor(timer.since(start))}

    return run


def lavis_model(size: Size) -> tuple[Any, Any]:
    """LAVIS's model with the weights of all peers, and its tokenizer, which keeps what is decoded."""
    from lavis.models.blip_models.blip_caption import BlipCaption
    from lavis.models.med import XBertLMHeadDecoder

    from benchmarks import lavis_parts

    prompt = "a picture of "
    tokenizer = lavis_parts.PreparedTokenizer(
        {prompt: (101, *PROMPT, SEP)}, bos_token_id=DEC, sep_token_id=SEP, pad_token_id=0
    )
    config = lavis_parts.med_config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden_size,
        encoder_width=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
    )
    encoder = lavis_parts.vision_encoder(
        image_size=size.image_size, hidden_size=size.hidden_size, layers=size.layers, heads=size.heads
    )
    model = lavis_parts.with_tokenizer(BlipCaption, tokenizer)(encoder, XBertLMHeadDecoder(config), prompt=prompt)
    weights.fill(model, weights.FROM_LAVIS)
    return model, tokenizer


def build_lavis(size: Size, dtype: torch.dtype) -> Run:
    model, tokenizer = lavis_model(size)
    model = model.to(dtype).eval()
    pixels = make_pixels(size.images, size.image_size).to(dtype)

    def run() -> Tensors:
        model.generate({"image": pixels}, num_beams=size.beams, max_length=size.length, min_length=size.length)
        assert tokenizer.decoded is not None
        return {"ids": tokenizer.decoded}

    return run


def count_flops(size: Size) -> float:
    """Image encoder; keys and values and prompt once per image; then one token per beam and step."""
    image_tokens = (size.image_size // 16) ** 2 + 1
    prompt = 1 + len(PROMPT)
    work = flops.vit(size.image_size, size.hidden_size, size.layers)
    work += size.layers * flops.project_keys_and_values(image_tokens, size.hidden_size, size.hidden_size)
    # causal: token t of the prompt attends to t tokens, on average to half of the prompt
    layer = flops.bert_layer(prompt, (prompt + 1) / 2, size.hidden_size, size.intermediate_size, image_tokens)
    work += size.layers * layer + flops.lm_head(1, size.hidden_size, size.vocabulary)
    for position in range(prompt + 1, size.length):
        layer = flops.bert_layer(size.beams, position, size.hidden_size, size.intermediate_size, image_tokens)
        work += size.layers * layer + flops.lm_head(size.beams, size.hidden_size, size.vocabulary)
    return size.images * work


def step_floor(size: Size, bytes_per_number: int, rates: Rates) -> float | None:
    """Seconds of a decoding step at the machine's rates: reading weights, keys and values, or the arithmetic."""
    if not rates.flops or not rates.bytes:
        return None
    image_tokens, rows = (size.image_size // 16) ** 2 + 1, size.images * size.beams
    position = (2 + len(PROMPT) + size.length) / 2  # the mean
    layer = flops.bert_layer(1, position, size.hidden_size, size.intermediate_size, image_tokens)
    work = rows * (size.layers * layer + flops.lm_head(1, size.hidden_size, size.vocabulary))
    # self-attention, query and output of the cross-attention, feed-forward; transform and vocabulary projection
    weights_read = size.layers * (6 * size.hidden_size**2 + 2 * size.hidden_size * size.intermediate_size)
    weights_read += size.hidden_size**2 + size.hidden_size * size.vocabulary
    cached = 2 * size.layers * size.hidden_size * (size.images * image_tokens + rows * position)
    return max(work / rates.flops, bytes_per_number * (weights_read + cached) / rates.bytes)


def describe(size: Size, seconds: float, figures: dict[str, float], bytes_per_number: int, rates: Rates) -> str:
    """Time to the first token, and time of a step in relation to its roofline."""
    if "seconds_to_first_token" not in figures:
        return ""
    first = figures["seconds_to_first_token"]
    step = (seconds - first) / (size.length - 1 - len(PROMPT) - 1)
    text = f"first token {first:.3f} s, {1e3 * step:.1f} ms a step"
    floor = step_floor(size, bytes_per_number, rates)
    return text if floor is None else f"{text} = {step / floor:.2f} x its roofline ({1e3 * floor:.1f} ms)"


_TINY = Size(images=2, length=8, image_size=32, hidden_size=32, layers=2, heads=2)
_BUILDERS = {OURS: build_ours, "transformers": build_transformers, "lavis": build_lavis}

WORKLOAD = Workload(
    name="caption",
    summary="BLIP-base, 384 px, 4 images, 3 beams, 20 tokens",
    sizes={"full": Size(), "tiny": _TINY},
    builders=_BUILDERS,
    count_flops=count_flops,
    exact=frozenset({"ids"}),
    build_exported=build_exported,
    describe=describe,
)

LATENCY = Workload(
    name="latency",
    summary="BLIP-base, 384 px, one image from warm, greedy, 20 tokens",
    sizes={"full": Size(images=1, beams=1), "beams": Size(images=1), "tiny": replace(_TINY, images=1, beams=1)},
    builders=_BUILDERS,
    count_flops=count_flops,
    exact=frozenset({"ids"}),
    build_exported=build_exported,
    describe=describe,
)
