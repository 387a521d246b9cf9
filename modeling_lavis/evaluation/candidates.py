# SPDX-License-Identifier: Apache-2.0
"""First stage of retrieval: the most similar texts of every image and images of every text.

The exact search computes each block of similarities once, for both directions, and keeps the best of each row, so that
memory does not grow with the product of the collections. Equal similarities rank by their columns, hence the result
depends neither on the blocks nor on the processes that share them.

Shapes: I images, S texts, Q features per image, P projection dimension, k candidates per row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from modeling_lavis.evaluation.retrieval import select_candidates
from modeling_lavis.import_utils import require
from modeling_lavis.models.distributed import gather, rank, world_size

#: rows of a block of similarities: images, and texts
IMAGE_ROWS, TEXT_ROWS = 512, 4096
#: similarities of single features that a comparison may hold at once, for images with several features
_MAX_COMPARED = 2**24

Compare = Callable[[Tensor, Tensor], Tensor]


class Ranking(NamedTuple):
    """
    The best columns of each row, from high to low similarity, the first of equal ones first.

    Args:
        indices (`Tensor` of shape `(rows, k)`): columns.
        similarities (`Tensor` of shape `(rows, k)`): cosine similarities.
    """

    indices: Tensor
    similarities: Tensor


class Candidates(NamedTuple):
    """
    Candidates in both directions.

    Args:
        i2t ([`Ranking`] of I rows): texts of each image.
        t2i ([`Ranking`] of S rows): images of each text.
    """

    i2t: Ranking
    t2i: Ranking


def merge(rankings: list[Ranking], k: int) -> Ranking:
    """The k best columns of rankings of the same rows, whose columns are different."""
    indices = torch.cat([ranking.indices for ranking in rankings], dim=1)
    similarities = torch.cat([ranking.similarities for ranking in rankings], dim=1)
    indices, order = indices.sort(dim=1)
    similarities = similarities.gather(1, order)
    best = select_candidates(similarities, k)
    return Ranking(indices.gather(1, best), similarities.gather(1, best))


def exact_candidates(compare: Compare, image_features: Tensor, text_features: Tensor, k: int) -> Candidates:
    """
    Compare all images with all texts.

    Args:
        compare (`Callable`): function from image and text features to cosine similarities.
        image_features (`Tensor` of shape `(I, P)` or `(I, Q, P)`): normalized features.
        text_features (`Tensor` of shape `(S, P)`): normalized features.
        k (`int`): candidates of each row; all if there are fewer. With several processes, every process has to call
            this function with the same features; they share the work.
    """
    num_images, num_texts = len(image_features), len(text_features)
    starts = range(0, num_images, IMAGE_ROWS)[rank() :: world_size()]
    i2t: list[Ranking] = []
    device = text_features.device
    empty = Ranking(torch.empty(0, 0, dtype=torch.long, device=device), text_features.new_empty(0, 0))
    t2i = [empty] * len(range(0, num_texts, TEXT_ROWS))
    for start in starts:
        images = image_features[start : start + IMAGE_ROWS]
        found: list[Ranking] = []
        for block, first in enumerate(range(0, num_texts, TEXT_ROWS)):
            similarity = _compare(compare, images, text_features[first : first + TEXT_ROWS])
            found = [merge([*found, _best(similarity, k, first)], k)]
            column = _best(similarity.T, k, start)
            t2i[block] = column if t2i[block] is empty else merge([t2i[block], column], k)
        i2t += found
    return Candidates(_gather_rows(i2t, num_images, min(k, num_texts), device), _merge_processes(t2i, k))


def _compare(compare: Compare, images: Tensor, texts: Tensor) -> Tensor:
    """Similarities of a block, with few images at once if they have several features."""
    if images.ndim == 2:
        return compare(images, texts).float()
    rows = max(_MAX_COMPARED // (images.shape[1] * len(texts)), 1)
    return torch.cat([compare(part, texts) for part in images.split(rows)]).float()


def _best(similarity: Tensor, k: int, first: int) -> Ranking:
    indices = select_candidates(similarity, k)
    return Ranking(indices + first, similarity.gather(1, indices))


def _gather_rows(parts: list[Ranking], rows: int, k: int, device: torch.device) -> Ranking:
    """Rows of all processes, whose blocks alternate, in order."""
    indices = torch.cat([part.indices for part in parts]) if parts else torch.empty(0, k, dtype=torch.long)
    similarities = torch.cat([part.similarities for part in parts]) if parts else torch.empty(0, k)
    if world_size() == 1:
        return Ranking(indices, similarities)
    blocks = torch.arange(rows).split(IMAGE_ROWS)
    owned = [
        [row for block in blocks[number :: world_size()] for row in block.tolist()] for number in range(world_size())
    ]
    counts = tuple(len(own) for own in owned)
    order = torch.tensor([row for own in owned for row in own]).argsort().to(device)
    return Ranking(
        gather(indices.to(device), counts)[order],
        gather(similarities.to(device), counts)[order],
    )


def _merge_processes(parts: list[Ranking], k: int) -> Ranking:
    """The best columns of each row among those that the processes found."""
    if world_size() == 1:
        return Ranking(torch.cat([part.indices for part in parts]), torch.cat([part.similarities for part in parts]))
    found: list[Any] = [None] * world_size()
    own = [tuple(values.cpu() for values in part) for part in parts if len(part.indices)]
    dist.all_gather_object(found, own)
    others = [part for part in found if part]
    merged = [merge([Ranking(*part) for part in block], k) for block in zip(*others)]
    device = parts[0].indices.device
    return Ranking(
        torch.cat([part.indices for part in merged]).to(device),
        torch.cat([part.similarities for part in merged]).to(device),
    )


# ---- FAISS ----


def faiss_candidates(image_features: Tensor, text_features: Tensor, k: int, factory: str = "Flat") -> Candidates:
    """
    Search with FAISS (https://arxiv.org/abs/2401.08281), for collections that are too large for a comparison of all
    pairs. The similarities of what it finds are computed again, because some indexes approximate them.

    Of images with Q features, k times Q features are searched for each text, so that an exact index finds the k best
    images. An approximate index may find fewer than k columns of a row; then the first ones are compared, too.

    Args:
        image_features, text_features, k: as in [`exact_candidates`]; the similarity is the inner product, and that of
            the best feature of an image with several.
        factory (`str`, *optional*, defaults to `"Flat"`): description of the index for FAISS's `index_factory`, such as
            `"HNSW32"` or `"IVF1024,Flat"`.

    Raises:
        ImportError: If FAISS is not installed.
        ValueError: If FAISS refuses the description, or there are too few vectors to train the index.
    """
    count = image_features.shape[1] if image_features.ndim == 3 else 1
    vectors = image_features.reshape(-1, image_features.shape[-1])
    num_images, num_texts = len(image_features), len(text_features)

    own = _share(num_images)
    found = _search(text_features, vectors[own.start * count : own.stop * count], min(k, num_texts), factory)
    rows, columns = _rows_and_columns(own, found.view(len(own), found.shape[1] * count), k, num_texts)
    i2t = _refine(columns, pair_similarities(image_features, text_features, rows, columns), min(k, num_texts))

    own = _share(num_texts)
    found = _search(vectors, text_features[own.start : own.stop], min(k * count, len(vectors)), factory)
    found = found.div(count, rounding_mode="floor")  # -1 stays -1
    rows, columns = _rows_and_columns(own, found, k, num_images)
    t2i = _refine(columns, pair_similarities(image_features, text_features, columns, rows), min(k, num_images))
    return Candidates(_gather_share(i2t, num_images), _gather_share(t2i, num_texts))


def pair_similarities(image_features: Tensor, text_features: Tensor, images: Tensor, texts: Tensor) -> Tensor:
    """
    Inner products of selected pairs; of images with several features that of the best one.

    Args:
        image_features (`Tensor` of shape `(I, P)` or `(I, Q, P)`), text_features (`Tensor` of shape `(S, P)`):
            normalized features.
        images, texts (`Tensor`s of one shape): rows of the pairs.
    """
    several = image_features if image_features.ndim == 3 else image_features[:, None]
    size = max(_MAX_COMPARED // several[:1].numel(), 1)
    parts = zip(images.flatten().split(size), texts.flatten().split(size))
    similarities = [torch.einsum("nqp,np->nq", several[i], text_features[t]).amax(dim=1) for i, t in parts]
    return torch.cat([text_features.new_empty(0), *similarities]).float().view(images.shape)


def _search(features: Tensor, queries: Tensor, k: int, factory: str) -> Tensor:
    """Rows of the k features with the largest inner product with each query; -1 where the index finds fewer."""
    faiss: Any = require("faiss", extra="retrieval", purpose="retrieval with index='faiss'")
    values = features.float().cpu().contiguous().numpy()
    try:
        index = faiss.index_factory(values.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(values)
    except RuntimeError as error:
        raise ValueError(
            f"FAISS refuses the index {factory!r} for {len(values)} vectors: {error} Give a description of its "
            "index_factory after 'faiss:', such as 'faiss:HNSW32', or 'faiss:IVF256,Flat' for many more vectors than "
            "cells."
        ) from error
    index.add(values)
    _, indices = index.search(queries.float().cpu().contiguous().numpy(), k)
    return torch.from_numpy(indices).to(features.device)


def _rows_and_columns(own: range, found: Tensor, k: int, num_columns: int) -> tuple[Tensor, Tensor]:
    """The row of each column found `(rows, n)`, and these in order; where some are missing, the first k are added."""
    if bool((found < 0).any()):
        first = torch.arange(min(k, num_columns), device=found.device)
        found = torch.cat([found.where(found >= 0, 0), first.expand(len(found), -1)], dim=1)
    columns = found.sort(dim=1).values
    return torch.arange(own.start, own.stop, device=found.device)[:, None].expand_as(columns), columns


def _refine(columns: Tensor, similarities: Tensor, k: int) -> Ranking:
    """The k best of the columns of each row, which are in order and may repeat."""
    repeated = torch.zeros_like(columns, dtype=torch.bool)
    repeated[:, 1:] = columns[:, 1:] == columns[:, :-1]
    best = select_candidates(similarities.masked_fill(repeated, -torch.inf), k)
    return Ranking(columns.gather(1, best), similarities.gather(1, best))


def _share(rows: int) -> range:
    """Rows of this process."""
    size = -(-rows // world_size())
    return range(min(rank() * size, rows), min((rank() + 1) * size, rows))


def _gather_share(own: Ranking, rows: int) -> Ranking:
    size = -(-rows // world_size())
    counts = tuple(min((number + 1) * size, rows) - min(number * size, rows) for number in range(world_size()))
    return Ranking(gather(own.indices, counts), gather(own.similarities, counts))


__all__ = ["Candidates", "Ranking", "exact_candidates", "faiss_candidates", "merge", "pair_similarities"]
