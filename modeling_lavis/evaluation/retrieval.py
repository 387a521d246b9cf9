# SPDX-License-Identifier: Apache-2.0
"""Two-stage retrieval: compare everything by cosine, then let the matching head re-rank the best.

Letters: I images, S texts (sentences), k candidates, P width of the common space.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

#: score of what was not re-ranked
NOT_RANKED = -100.0


class RetrievalModel(Protocol):
    """What a model must offer to be searched with."""

    @property
    def fuses_text_states(self) -> bool: ...
    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor: ...
    def project_texts(self, text_embeds: Tensor) -> Tensor: ...
    def encode_images(self, pixel_values: Tensor) -> Tensor: ...
    def project_images(self, image_embeds: Tensor) -> Tensor: ...
    def compare_features(self, image_features: Tensor, text_features: Tensor) -> Tensor: ...
    def score_pairs(self, images: Tensor, texts: Mapping[str, Tensor], pairs: Tensor) -> Any: ...


@dataclass
class SimilarityMatrices:
    """
    Scores for ranking in both directions.

    Args:
        i2t (`Tensor` of shape `(I, S)`): for each image, the scores of its k best texts, -100 elsewhere.
        t2i (`Tensor` of shape `(S, I)`): for each text, the scores of its k best images, -100 elsewhere.
        cosine (`Tensor` of shape `(I, S)`): cosine similarity of all pairs.
    """

    i2t: Tensor
    t2i: Tensor
    cosine: Tensor


def _batches(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


@torch.no_grad()
def similarity_matrices(
    model: RetrievalModel,
    pixel_values: Tensor | Iterable[Tensor],
    texts: Mapping[str, Tensor],
    k: int,
    batch_size: int = 32,
    text_batch_size: int = 256,
) -> SimilarityMatrices:
    """
    Rank all texts for each image and all images for each text (ALBEF, section 4; the score of a candidate is its
    matching logit plus its cosine).

    Every image and every text (padded on the right) is encoded once. The pairs that either direction wants are
    collected first and each is scored once; all texts of an image share its keys and values.

    Args:
        model: a retrieval head.
        pixel_values (`Tensor` of shape `(I, channels, height, width)`, or batches of it): images.
        texts (mapping with `input_ids`, `attention_mask` of shape `(S, T)`): texts.
        k (`int`): candidates that are re-ranked per row; clipped to what there is.
        batch_size (`int`, *optional*, defaults to 32): images that are encoded at once.
        text_batch_size (`int`, *optional*, defaults to 256): texts that are encoded at once.

    Returns:
        [`SimilarityMatrices`].
    """
    if k < 1:
        raise ValueError(f"k is {k}; re-rank at least one candidate per row.")
    if isinstance(pixel_values, Tensor):
        pixel_values = pixel_values.split(batch_size)
    images = torch.cat([model.encode_images(batch) for batch in pixel_values])
    image_features = model.project_images(images)
    longest = max(int(texts["attention_mask"].sum(dim=1).max()), 1)
    texts = {name: texts[name][:, :longest] for name in ("input_ids", "attention_mask")}
    features, text_states = [], []
    for part in _batches(len(texts["input_ids"]), text_batch_size):
        embeds = model.encode_texts(texts["input_ids"][part], texts["attention_mask"][part])
        features.append(model.project_texts(embeds))
        if model.fuses_text_states:
            text_states.append(embeds)
    if text_states:
        texts["text_embeds"] = torch.cat(text_states)
    cosine = model.compare_features(image_features, torch.cat(features))
    num_images, num_texts = cosine.shape
    wanted_i2t = torch.zeros_like(cosine, dtype=torch.bool)
    wanted_t2i = torch.zeros_like(wanted_i2t)
    wanted_i2t.scatter_(1, cosine.topk(min(k, num_texts), dim=1).indices, True)
    wanted_t2i.scatter_(0, cosine.topk(min(k, num_images), dim=0).indices, True)
    pairs = (wanted_i2t | wanted_t2i).nonzero()
    matching = torch.zeros_like(cosine)
    scores = model.score_pairs(images, texts, pairs).logits[:, 1].to(cosine.dtype)
    matching[pairs[:, 0], pairs[:, 1]] = scores
    total = matching + cosine
    return SimilarityMatrices(
        i2t=total.masked_fill(~wanted_i2t, NOT_RANKED),
        t2i=total.masked_fill(~wanted_t2i, NOT_RANKED).T.contiguous(),
        cosine=cosine,
    )


def recall(scores: Tensor, relevant: Sequence[Iterable[int]], ranks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """
    Share of rows with a relevant column among the best, in percent.

    Args:
        scores (`Tensor` of shape `(rows, columns)`): higher is better.
        relevant (sequence of iterables of `int`): the columns that are right for each row.
        ranks (sequence of `int`, *optional*, defaults to `(1, 5, 10)`): how many of the best count.

    Returns:
        `{"R@1": ..., "R@5": ..., "R@10": ..., "R@mean": ...}`.
    """
    if len(relevant) != scores.shape[0]:
        raise ValueError(f"There are {scores.shape[0]} rows of scores, but answers for {len(relevant)} rows.")
    order = scores.argsort(dim=1, descending=True, stable=True)
    place = torch.empty_like(order)
    place.scatter_(1, order, torch.arange(scores.shape[1], device=order.device).expand_as(order))
    best = torch.stack([place[row, list(columns)].min() for row, columns in enumerate(relevant)])
    result = {f"R@{rank}": 100.0 * float((best < rank).float().mean()) for rank in ranks}
    result["R@mean"] = sum(result.values()) / len(ranks)
    return result


__all__ = ["NOT_RANKED", "RetrievalModel", "SimilarityMatrices", "recall", "similarity_matrices"]
