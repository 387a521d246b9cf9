# SPDX-License-Identifier: Apache-2.0
"""Batches of image-text matching: pairs with hard negatives in training, and selected pairs grouped by image.

Shapes: B pairs of this process, n of them with negatives, K pairs, b images of a chunk, r text rows that run together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache


def itm_rows(
    negative_images: Tensor, negative_texts: Tensor, rows: Tensor | None = None, batch: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Rows of a matching batch: B positive pairs, then each text with its negative image, then each image with its
    negative text (ALBEF, section 3.2).

    Args:
        negative_images (`Tensor` of shape `(n,)`): image row for each text.
        negative_texts (`Tensor` of shape `(n,)`): text row for each image.
        rows (`Tensor` of shape `(n,)`, *optional*): pairs that have negatives; all B by default.
        batch (`int`, *optional*): B, if `rows` are given.

    Returns:
        Image rows, text rows and labels, 1 for the positives; all `(B + 2 * n,)`.
    """
    own = torch.arange(batch or negative_images.shape[0], device=negative_images.device)
    rows = own if rows is None else rows
    images = torch.cat([own, negative_images, rows])
    texts = torch.cat([own, rows, negative_texts])
    labels = torch.cat([torch.ones_like(own), torch.zeros_like(rows), torch.zeros_like(rows)])
    return images, texts, labels


def check_pairs(pairs: Tensor, num_images: int, num_texts: int) -> Tensor:
    """Return the pairs as int64 `(K, 2)`; `ValueError` for another shape or rows that do not exist."""
    pairs = torch.as_tensor(pairs, dtype=torch.long)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(
            f"Got pairs of shape {tuple(pairs.shape)}, expected (pairs, 2): an image row and a text row each."
        )
    if pairs.numel():
        limits = torch.tensor([num_images, num_texts], device=pairs.device)
        if bool((pairs < 0).any()) or bool((pairs >= limits).any()):
            raise ValueError(
                f"A pair names a row that does not exist; there are {num_images} images and {num_texts} texts, counted "
                "from 0."
            )
    return pairs


@dataclass
class TextBatch:
    """
    Texts of similar length that are matched with the images of one chunk in one pass.

    Args:
        texts (`Tensor` of shape `(r,)`): text rows.
        image_index (`Tensor` of shape `(r,)`): image of each row, counted within the chunk.
        pairs (`Tensor` of shape `(r,)`): the pair that each row scores.
    """

    texts: Tensor
    image_index: Tensor
    pairs: Tensor


@dataclass
class ImageChunk:
    """
    Images, and all texts that they are matched with.

    Args:
        images (`Tensor` of shape `(b,)`): image rows.
        batches (list of [`TextBatch`]): the texts, from short to long.
    """

    images: Tensor
    batches: list[TextBatch]


def iter_image_chunks(
    pairs: Tensor,
    text_lengths: Tensor,
    max_rows: int = 256,
    max_images: int = 8,
    batch_rows: int | None = None,
) -> Iterator[ImageChunk]:
    """
    Group pairs by image, and the texts of several images by length, so that little padding is computed.

    Args:
        pairs (`Tensor` of shape `(K, 2)`): image and text rows.
        text_lengths (`Tensor` of shape `(texts,)`): number of tokens of each text.
        max_rows (`int`, *optional*, defaults to 256): texts of a chunk, unless a single image has more.
        max_images (`int`, *optional*, defaults to 8): images of a chunk with more than one text batch, whose keys and
            values are cached from batch to batch.
        batch_rows (`int`, *optional*): rows of a text batch; a quarter of `max_rows` by default.
    """
    batch_rows = max(max_rows // 4, 1) if batch_rows is None else batch_rows
    order = pairs[:, 0].argsort(stable=True)
    images, counts = pairs[order, 0].unique_consecutive(return_counts=True)
    all_counts = counts.tolist()
    first, start = 0, 0
    while first < len(all_counts):
        last, rows = first + 1, all_counts[first]
        while last < len(all_counts):
            more = rows + all_counts[last]
            if more > max_rows or (last - first >= max_images and more > batch_rows):
                break
            last, rows = last + 1, more
        selected = order[start : start + rows]
        index = torch.arange(last - first, device=pairs.device).repeat_interleave(counts[first:last])
        by_length = text_lengths[pairs[selected, 1]].argsort(stable=True)
        selected, index = selected[by_length], index[by_length]
        number = -(-rows // batch_rows)
        yield ImageChunk(
            images=images[first:last],
            batches=[
                TextBatch(pairs[part, 1], part_index, part)
                for part, part_index in zip(selected.tensor_split(number), index.tensor_split(number), strict=True)
            ],
        )
        first, start = last, start + rows


class _NoCache(Cache):
    """Key/value cache that keeps nothing, for texts that run once."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


def cross_attention_cache() -> EncoderDecoderCache:
    """A cache that keeps the cross-attention keys and values of images, and nothing of the texts."""
    return EncoderDecoderCache(_NoCache(), DynamicCache())


__all__ = ["ImageChunk", "TextBatch", "check_pairs", "cross_attention_cache", "iter_image_chunks", "itm_rows"]
