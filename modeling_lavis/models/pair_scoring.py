# SPDX-License-Identifier: Apache-2.0
"""Ordering pairs of images and texts so that all texts of an image share its keys and values.

Letters: K pairs, b images of one chunk, r rows of text that run together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache


def check_pairs(pairs: Tensor, num_images: int, num_texts: int) -> Tensor:
    """The pairs as int64 (K, 2); `ValueError` for another shape or rows that do not exist."""
    pairs = torch.as_tensor(pairs, dtype=torch.long)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"Got pairs of shape {tuple(pairs.shape)}, expected (pairs, 2): an image and a text row each.")
    if pairs.numel():
        limits = torch.tensor([num_images, num_texts], device=pairs.device)
        if bool((pairs < 0).any()) or bool((pairs >= limits).any()):
            raise ValueError(
                f"Some pair names a row that does not exist; there are {num_images} images and {num_texts} texts, "
                "counted from 0."
            )
    return pairs


@dataclass
class TextPart:
    """
    Texts of about the same length that read the images of one chunk.

    Args:
        texts (`Tensor` of shape `(r,)`): rows of the texts.
        index (`Tensor` of shape `(r,)`): which of the chunk's images each of them reads.
        pairs (`Tensor` of shape `(r,)`): the pair that each row answers.
    """

    texts: Tensor
    index: Tensor
    pairs: Tensor


@dataclass
class ImageChunk:
    """
    Some images and all texts that are to read them.

    Args:
        images (`Tensor` of shape `(b,)`): rows of the images.
        parts (list of [`TextPart`]): the texts, from short to long.
    """

    images: Tensor
    parts: list[TextPart]


def chunk_images(
    pairs: Tensor, text_lengths: Tensor, max_rows: int = 256, max_images: int = 8, part_rows: int | None = None
) -> Iterator[ImageChunk]:
    """
    Group pairs by image, and the texts of some images by length, so that next to no padding is run.

    Args:
        pairs (`Tensor` of shape `(K, 2)`): rows of image and text.
        text_lengths (`Tensor` of shape `(texts,)`): tokens of each text.
        max_rows (`int`, *optional*, defaults to 256): texts of a chunk, unless one image has more.
        max_images (`int`, *optional*, defaults to 8): images of a chunk with more than one part, whose keys and
            values are kept from part to part.
        part_rows (`int`, *optional*): texts of a part; a quarter of `max_rows` by default.
    """
    part_rows = max(max_rows // 4, 1) if part_rows is None else part_rows
    order = pairs[:, 0].argsort(stable=True)
    images, counts = pairs[order, 0].unique_consecutive(return_counts=True)
    all_counts = counts.tolist()
    first, place = 0, 0
    while first < len(all_counts):
        last, rows = first + 1, all_counts[first]
        while last < len(all_counts):
            more = rows + all_counts[last]
            if more > max_rows or (last - first >= max_images and more > part_rows):
                break
            last, rows = last + 1, more
        chosen = order[place : place + rows]
        index = torch.arange(last - first, device=pairs.device).repeat_interleave(counts[first:last])
        by_length = text_lengths[pairs[chosen, 1]].argsort(stable=True)
        chosen, index = chosen[by_length], index[by_length]
        number = -(-rows // part_rows)
        yield ImageChunk(
            images=images[first:last],
            parts=[
                TextPart(pairs[part, 1], own, part)
                for part, own in zip(chosen.tensor_split(number), index.tensor_split(number), strict=True)
            ],
        )
        first, place = last, place + rows


class _NothingKept(Cache):
    """Keys and values of texts, each of which runs once: none are kept."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


def image_cache() -> EncoderDecoderCache:
    """A cache that keeps keys and values of images from one pass to the next, and nothing of the texts."""
    return EncoderDecoderCache(_NothingKept(), DynamicCache())


__all__ = ["ImageChunk", "TextPart", "check_pairs", "chunk_images", "image_cache"]
