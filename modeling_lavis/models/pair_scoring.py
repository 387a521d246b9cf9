# SPDX-License-Identifier: Apache-2.0
"""Ordering pairs of images and texts so that all texts of an image share its keys and values.

Letters: K pairs, b images of one chunk, n texts for each of them, m of these that run at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

#: a part of a chunk has at least so many rows, and texts that differ by no more than so many tokens if it can
_LEAST_ROWS, _SLACK = 32, 2


@dataclass
class PairChunk:
    """
    Some images with the same number of texts each.

    Args:
        images (`Tensor` of shape `(b,)`): rows of the images.
        texts (`Tensor` of shape `(b * n,)`): rows of the texts, image by image, the shorter ones of an image first;
            short groups repeat their first text.
        pairs (`Tensor` of shape `(b * n,)`): the pair that each row answers, -1 for repetitions.
    """

    images: Tensor
    texts: Tensor
    pairs: Tensor

    def parts(self, text_lengths: Tensor, max_rows: int) -> "list[PairChunk]":
        """
        The chunk in parts of at most `max_rows` rows and of texts of similar length, for the same images.

        Args:
            text_lengths (`Tensor` of shape `(texts,)`): tokens of each text.
            max_rows (`int`): rows of text that run at once.
        """
        images = self.images.shape[0]
        texts, pairs = self.texts.view(images, -1), self.pairs.view(images, -1)
        longest = text_lengths[texts].amax(dim=0).tolist()
        most, least = max(max_rows // images, 1), -(-_LEAST_ROWS // images)
        starts = [0]
        for place, length in enumerate(longest):
            taken = place - starts[-1]
            grown = taken >= least and len(longest) - place >= least and length > longest[starts[-1]] + _SLACK
            if taken == most or grown:
                starts.append(place)
        return [
            PairChunk(self.images, texts[:, start:end].flatten(), pairs[:, start:end].flatten())
            for start, end in zip(starts, [*starts[1:], len(longest)], strict=True)
        ]


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


def chunk_pairs(pairs: Tensor, text_lengths: Tensor, max_rows: int = 256) -> Iterator[PairChunk]:
    """
    Group pairs by image and hand them out in chunks of at most `max_rows` rows, or of one image with all its texts.

    Texts of an image are sorted by length, and images with a similar number of texts go together, so that little
    padding is run.

    Args:
        pairs (`Tensor` of shape `(K, 2)`): rows of image and text.
        text_lengths (`Tensor` of shape `(texts,)`): tokens of each text.
        max_rows (`int`, *optional*, defaults to 256): rows of text in a chunk.
    """
    lengths = text_lengths[pairs[:, 1]]
    order = torch.argsort(pairs[:, 0] * (int(lengths.max()) + 1 if len(lengths) else 1) + lengths, stable=True)
    images, counts = pairs[order, 0].unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    # image, first place in `order`, number of pairs
    groups: list[tuple[int, int, int]] = list(zip(images.tolist(), starts.tolist(), counts.tolist(), strict=True))
    groups.sort(key=lambda group: group[2])
    while groups:
        size = groups[-1][2]
        # A group joins only if padding it to this size wastes less than a quarter of its rows.
        taken = 1
        while taken < len(groups) and (taken + 1) * size <= max_rows and 4 * groups[-1 - taken][2] > 3 * size:
            taken += 1
        part, groups = groups[-taken:], groups[:-taken]
        first = torch.tensor([group[1] for group in part])[:, None]
        number = torch.tensor([group[2] for group in part])[:, None]
        offsets = torch.arange(size)[None]
        real = offsets < number
        places = (first + torch.where(real, offsets, 0)).flatten().to(order.device)
        chosen = order[places]
        yield PairChunk(
            images=torch.tensor([group[0] for group in part], device=pairs.device),
            texts=pairs[chosen, 1],
            pairs=torch.where(real.flatten().to(order.device), chosen, -1),
        )


__all__ = ["PairChunk", "check_pairs", "chunk_pairs"]
