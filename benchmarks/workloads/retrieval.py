# SPDX-License-Identifier: Apache-2.0
"""Two-stage retrieval: ALBEF at 384 pixels, re-ranking of the 16 best candidates of every image and every text.

`rerank` starts from encoded images: encoding of texts, ITC similarities, and ITM scores of the candidates.
"""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks import flops, weights
from benchmarks.workloads.base import OURS, Run, Tensors, Workload
from benchmarks.workloads.caption import make_pixels

CLS, SEP = 101, 102
FIRST_ID, LAST_ID = 1000, 29612  # range of the ids of BERT's vocabulary that are neither special nor unused
PADDED = 35  # length to which the original pads all texts of a similarity matrix


@dataclass(frozen=True)
class Size:
    """Sizes of model and task; texts have `shortest` to `longest` tokens, including [CLS] and [SEP]."""

    images: int = 24
    texts: int = 60
    candidates: int = 16
    shortest: int = 8
    longest: int = 17
    image_size: int = 384
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 30522
    projection_dim: int = 256
    queue: int = 8

    @property
    def intermediate_size(self) -> int:
        return 4 * self.hidden_size

    @property
    def fusion_layer(self) -> int:
        return self.layers // 2


def make_texts(size: Any) -> list[list[int]]:
    """Ids from [CLS] to [SEP] with evenly distributed lengths, similar to those of captions."""
    generator = torch.Generator().manual_seed(4)
    span = size.longest - size.shortest + 1
    lengths = [size.shortest + index % span for index in range(size.texts)]
    return [[CLS, *torch.randint(FIRST_ID, LAST_ID, (n - 2,), generator=generator).tolist(), SEP] for n in lengths]


def padded(rows: list[list[int]], length: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of a fixed length."""
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def build_ours(size: Size, dtype: torch.dtype, encoded: bool = False) -> Run:
    from benchmarks.our_parts import albef_config
    from modeling_lavis import AlbefForImageTextRetrieval
    from modeling_lavis.evaluation.encoders import RetrievalEncoder, StatesEncoder
    from modeling_lavis.evaluation.engine import RetrievalEngine

    model = AlbefForImageTextRetrieval(albef_config(size, use_momentum=False))
    weights.fill(model, weights.FROM_OURS)
    model = model.to(dtype).eval()
    pixels = make_pixels(size.images, size.image_size).to(dtype)
    texts = padded(make_texts(size), PADDED)
    encoder: type[RetrievalEncoder] = RetrievalEncoder
    if encoded:
        encoder = StatesEncoder
        with torch.no_grad():
            pixels = model.encode_images(pixels)
    engine = RetrievalEngine(encoder(model), k=size.candidates, progress=False)

    def run() -> Tensors:
        i2t, t2i = engine.run(pixels, texts).matrices()
        return {"i2t": i2t, "t2i": t2i}

    return run


def build_lavis(size: Size, dtype: torch.dtype, encoded: bool = False) -> Run:
    from lavis.models.albef_models import compute_sim_matrix

    from benchmarks import lavis_parts

    texts = {f"text {index}": ids for index, ids in enumerate(make_texts(size))}
    model = lavis_parts.albef_retrieval(size, texts).to(dtype).eval()
    pixels = make_pixels(size.images, size.image_size).to(dtype)
    if encoded:
        with torch.no_grad():
            states = model.visual_encoder.forward_features(pixels)
        model.visual_encoder.forward_features = lambda images: states
        batches = [{"image": pixels[:1]}]
    else:
        batches = [{"image": part} for part in pixels.split(32)]

    class Loader(list):
        dataset = SimpleNamespace(text=list(texts), image=[None] * size.images)

    def run() -> Tensors:
        i2t, t2i = compute_sim_matrix(model, Loader(batches), k_test=size.candidates)
        return {"i2t": torch.from_numpy(i2t), "t2i": torch.from_numpy(t2i)}

    return run


def count_flops(size: Size, encoded: bool = False) -> float:
    """Image encoder; every text once through the text layers; keys and values once per image; every pair once.

    The number of pairs that both directions share depends on the weights; the expected number of random pairs is used.
    """
    stages = count_stages(size)
    return sum(work for stage, work in stages.items() if stage != "images" or not encoded)


def count_pairs(size: Size) -> float:
    """Expected number of random pairs that one direction or the other wants."""
    missed = (1 - min(size.candidates / size.texts, 1)) * (1 - min(size.candidates / size.images, 1))
    return size.images * size.texts * (1 - missed)


def count_stages(size: Size) -> dict[str, float]:
    """Operations by stage of the engine."""
    image_tokens = (size.image_size // 16) ** 2 + 1
    hidden, inner, fusion = size.hidden_size, size.intermediate_size, size.layers - size.fusion_layer
    lengths = [len(text) for text in make_texts(size)]
    length = sum(lengths) / len(lengths)
    per_pair = fusion * flops.bert_layer(length, length, hidden, inner, image_tokens)
    per_image = fusion * flops.project_keys_and_values(image_tokens, hidden, hidden)
    return {
        "images": size.images * flops.vit(size.image_size, hidden, size.layers),
        "texts": sum(size.fusion_layer * flops.bert_layer(n, n, hidden, inner) for n in lengths),
        "candidates": flops.linear(size.images, size.projection_dim, size.texts),
        "pairs": size.images * per_image + count_pairs(size) * per_pair,
    }


SIZES = {
    "full": Size(),
    "tiny": Size(images=4, texts=6, candidates=3, image_size=32, hidden_size=32, layers=2, heads=2, projection_dim=16),
}
WORKLOAD = Workload(
    name="retrieval",
    summary="ALBEF, 384 px, 24 images x 60 texts, 16 candidates, both directions",
    sizes=SIZES,
    builders={OURS: build_ours, "lavis": build_lavis},
    count_flops=count_flops,
)
RERANK = Workload(
    name="rerank",
    summary="ALBEF, 384 px, 24 encoded images x 60 texts, 16 candidates, both directions",
    sizes=SIZES,
    builders={OURS: partial(build_ours, encoded=True), "lavis": partial(build_lavis, encoded=True)},
    count_flops=partial(count_flops, encoded=True),
)
