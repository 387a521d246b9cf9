# SPDX-License-Identifier: Apache-2.0
"""Two-stage image-text retrieval: select candidates by feature similarity, then re-rank them with the matching head.

Each stage is a function of its own, and the retrieval and matching pipelines call the same ones.

Shapes: I images, S texts, N image tokens, T text tokens, D hidden size, P projection dimension, K pairs to score,
k candidates per row.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from modeling_lavis.models.task_retrieval import trim_common_padding

#: score of a pair that is not re-ranked
NOT_RANKED = -100.0
#: texts that are encoded at once
TEXT_BATCH_SIZE = 256
#: images whose hidden states are on the model's device at once
IMAGE_CHUNK_SIZE = 32


class RetrievalModel(Protocol):
    """What retrieval needs of a model; every head with `score_pairs` has it."""

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
        i2t (`Tensor` of shape `(I, S)`): scores of the k best texts of each image, -100 elsewhere.
        t2i (`Tensor` of shape `(S, I)`): scores of the k best images of each text, -100 elsewhere.
        cosine (`Tensor` of shape `(I, S)`): cosine similarities of all pairs.
    """

    i2t: Tensor
    t2i: Tensor
    cosine: Tensor


class EncodedTexts(NamedTuple):
    """
    Texts after the text encoder.

    Args:
        features (`Tensor` of shape `(S, P)`): normalized features.
        inputs (`dict[str, Tensor]`): `input_ids` and `attention_mask` of shape `(S, T)` and, if the model fuses text
            hidden states, `text_embeds` of shape `(S, T, D)`; what `score_pairs` takes.
    """

    features: Tensor
    inputs: dict[str, Tensor]


class RankedCandidates(NamedTuple):
    """
    Candidates of each row, best first.

    Args:
        indices (`Tensor` of shape `(rows, k)`): columns of the candidates.
        scores (`Tensor` of shape `(rows, k)`): scores that they are ranked by.
        similarities (`Tensor` of shape `(rows, k)`): cosine similarities.
    """

    indices: Tensor
    scores: Tensor
    similarities: Tensor


def encode_texts(model: RetrievalModel, texts: Mapping[str, Tensor], batch_size: int = TEXT_BATCH_SIZE) -> EncodedTexts:
    """
    Encode texts in batches, each text once.

    Args:
        model: a retrieval head.
        texts (mapping with `input_ids` and `attention_mask` of shape `(S, T)`): texts on the model's device. Columns
            that are padding in every row are removed.
        batch_size (`int`, *optional*, defaults to 256): texts that are encoded at once.

    Returns:
        [`EncodedTexts`].
    """
    input_ids, attention_mask = trim_common_padding(texts["input_ids"], texts["attention_mask"])
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    features, hidden_states = [], []
    for ids, mask in zip(input_ids.split(batch_size), attention_mask.split(batch_size), strict=True):
        text_embeds = model.encode_texts(ids, mask)
        features.append(model.project_texts(text_embeds))
        if model.fuses_text_states:
            hidden_states.append(text_embeds)
    if hidden_states:
        inputs["text_embeds"] = torch.cat(hidden_states)
    return EncodedTexts(torch.cat(features), inputs)


def select_candidates(similarity: Tensor, k: int) -> Tensor:
    """
    Columns of the k best similarities of each row, or of all columns if there are fewer.

    The first of equal columns ranks first, so that the candidates do not depend on how the search is divided.

    Args:
        similarity (`Tensor` of shape `(rows, columns)`): cosine similarities.
        k (`int`): number of candidates.

    Returns:
        `Tensor` of shape `(rows, k)`: columns, best first.
    """
    k = min(k, similarity.shape[1])
    # topk orders equal values as it likes, and chooses as it likes among those equal to the last
    columns = similarity.topk(k, dim=1).indices.sort(dim=1).values
    values = similarity.gather(1, columns)
    order = values.argsort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    if k and k < similarity.shape[1]:
        tied = (similarity >= values.amin(dim=1, keepdim=True)).sum(dim=1) > k
        if bool(tied.any()):
            columns[tied] = similarity[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
    return columns


def matching_logits(
    model: RetrievalModel,
    image_embeds: Tensor | Callable[[list[int]], Tensor],
    texts: Mapping[str, Tensor],
    pairs: Tensor,
) -> Tensor:
    """
    Score pairs of an image and a text with the matching head.

    Args:
        model: a retrieval head.
        image_embeds (`Tensor` of shape `(I, N, D)` or `Callable`): hidden states of the images on the model's device,
            or a function that loads them there for a list of at most 32 image rows. Each image is loaded once.
        texts (mapping): texts as in [`EncodedTexts`].
        pairs (`Tensor` of shape `(K, 2)`): image row and text row of each pair.

    Returns:
        `Tensor` of shape `(K, 2)`: logits of "no match" and "match", in the order of `pairs`.
    """
    if isinstance(image_embeds, Tensor):
        return model.score_pairs(image_embeds, texts, pairs).logits
    order = pairs[:, 0].argsort(stable=True)
    images, counts = pairs[order, 0].unique_consecutive(return_counts=True)
    sizes = [int(chunk.sum()) for chunk in counts.split(IMAGE_CHUNK_SIZE)]
    chunks = []
    for rows, selected in zip(images.split(IMAGE_CHUNK_SIZE), order.split(sizes), strict=True):
        chunk_pairs = torch.stack([torch.searchsorted(rows, pairs[selected, 0]), pairs[selected, 1]], dim=1)
        chunks.append(model.score_pairs(image_embeds(rows.tolist()), texts, chunk_pairs).logits)
    logits = torch.cat(chunks)
    return torch.empty_like(logits).index_copy_(0, order, logits)


def combine_scores(similarity: Tensor, logits: Tensor) -> Tensor:
    """Score of each pair: its cosine similarity `(K,)` plus the "match" logit of `(K, 2)` (ALBEF, section 4)."""
    return similarity + logits[..., 1].to(similarity.dtype)


def rank_candidates(
    candidates: Tensor, similarity: Tensor, logits: Tensor | None = None, top_k: int | None = None
) -> RankedCandidates:
    """
    Sort the candidates of each row by score.

    Args:
        candidates (`Tensor` of shape `(rows, k)`): columns of the candidates, from [`select_candidates`].
        similarity (`Tensor` of shape `(rows, columns)`): cosine similarities.
        logits (`Tensor` of shape `(rows, k, 2)`, *optional*): matching logits of the candidates; without them the
            score is the similarity.
        top_k (`int`, *optional*): number of candidates to return; all by default.

    Returns:
        [`RankedCandidates`].
    """
    return rank_scored_candidates(candidates, similarity.gather(1, candidates), logits, top_k)


def rank_scored_candidates(
    candidates: Tensor, similarities: Tensor, logits: Tensor | None = None, top_k: int | None = None
) -> RankedCandidates:
    """[`rank_candidates`] with the similarities of the candidates alone, `(rows, k)`."""
    scores = similarities if logits is None else combine_scores(similarities, logits)
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]
    return RankedCandidates(candidates.gather(1, order), scores.gather(1, order), similarities.gather(1, order))


@torch.no_grad()
def similarity_matrices(
    model: RetrievalModel,
    pixel_values: Tensor | Iterable[Tensor],
    texts: Mapping[str, Tensor],
    k: int,
    batch_size: int = 32,
    text_batch_size: int = TEXT_BATCH_SIZE,
) -> SimilarityMatrices:
    """
    Rank the texts of each image and the images of each text (ALBEF, section 4, https://arxiv.org/abs/2107.07651). The
    score of a candidate is its cosine similarity plus its matching logit.

    Dense matrices of what [`RetrievalEngine`] finds, for collections whose hidden states fit into memory. Each image
    and each text is encoded once. A pair that is a candidate in both directions is scored once, and all texts of an
    image share its keys and values.

    Args:
        model: a retrieval head.
        pixel_values (`Tensor` of shape `(I, num_channels, height, width)`, or an iterable of batches of it): images on
            the model's device; clips with a dimension of frames for video heads.
        texts (mapping with `input_ids` and `attention_mask` of shape `(S, T)`): texts on the model's device.
        k (`int`): candidates per image and per text; all if there are fewer.
        batch_size (`int`, *optional*, defaults to 32): images that are encoded at once, if `pixel_values` is a tensor,
            and images whose texts are matched at once.
        text_batch_size (`int`, *optional*, defaults to 256): texts that are encoded at once.

    Returns:
        [`SimilarityMatrices`].

    Raises:
        ValueError: If `k` is less than 1, or there are no images.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected at least one candidate per row.")
    # The engine uses the functions of this file.
    from modeling_lavis.evaluation.encoders import StatesEncoder, required
    from modeling_lavis.evaluation.engine import RetrievalEngine

    batches = pixel_values.split(batch_size) if isinstance(pixel_values, Tensor) else pixel_values
    states = _Rows([row for batch in batches for row in model.encode_images(batch).cpu()])
    if not len(states):
        raise ValueError("pixel_values has no images; expected a tensor or an iterable of batches that is not used up.")
    encoder = StatesEncoder(model)
    engine = RetrievalEngine(encoder, k, batch_size, text_batch_size, memory_budget=sys.maxsize, progress=False)
    result = engine.run(states, texts)
    image_features, text_features = (
        required(features).to(encoder.device) for features in (result.image_features, result.text_features)
    )
    i2t, t2i = (scores.to(encoder.device) for scores in result.matrices())
    cosine = [encoder.compare(part, text_features) for part in image_features.split(IMAGE_CHUNK_SIZE)]
    return SimilarityMatrices(i2t=i2t, t2i=t2i, cosine=torch.cat(cosine))


class _Rows:
    """Rows of equal shapes that are stacked when they are loaded."""

    def __init__(self, rows: list[Tensor]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: list[int]) -> Tensor:
        return torch.stack([self._rows[row] for row in rows])


__all__ = [
    "IMAGE_CHUNK_SIZE",
    "NOT_RANKED",
    "TEXT_BATCH_SIZE",
    "EncodedTexts",
    "RankedCandidates",
    "RetrievalModel",
    "SimilarityMatrices",
    "combine_scores",
    "encode_texts",
    "matching_logits",
    "rank_candidates",
    "rank_scored_candidates",
    "select_candidates",
    "similarity_matrices",
]
