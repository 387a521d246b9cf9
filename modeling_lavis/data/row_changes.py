# SPDX-License-Identifier: Apache-2.0
"""Random changes of training rows that keep label and answer: the image changes, and the words of the texts with it.

A mirrored image has its left on the right; with other color channels, what was red is blue. Texts that say "left" or
"red" have to change in the same way, which a transform of images alone cannot do. Eight views of a square image
(mirrored, upside down, reflected at its diagonal) times six orders of colors make 48 rows of one.

    changes = RowChanges(mirror_probability=0.5, mirror_words={"left": "right"}, color_probability=0.5,
                         color_words={"red": "#ff0000", "green": "#00ff00", "blue": "#0000ff"})
    row = changes({"image": "1.png", "question": "is a red shape left of a circle?", "answer": "yes"})
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageColor
import torch

from modeling_lavis.data.collators import Row, open_row_image
from modeling_lavis.models.image_conversion import apply_exif_orientation

_IMAGE_FIELDS = ("image", "images")
_TEXT_FIELDS = ("question", "sentence", "caption")
_ORDERS = tuple(permutations(range(3)))


class RowChanges:
    """
    Mirror, flip and transpose images and exchange their colors at random, with the words of their texts.

    Words are replaced as whole words, of any case, in the fields `question`, `sentence` and `caption`. Answers and
    labels stay, so changes have to fit them: a data set that asks for colors cannot have its colors permuted.

    Args:
        mirror_probability (`float`, *optional*, defaults to 0.0): probability of a left-right mirrored image (both
            images of a pair, which are not swapped).
        mirror_words (`Mapping[str, str]`, *optional*, defaults to `{}`):
            words or phrases that are exchanged in a mirrored image, each pair once, such as `{"left": "right"}`.
        flip_probability (`float`, *optional*, defaults to 0.0): probability of an image turned upside down.
        flip_words (`Mapping[str, str]`, *optional*, defaults to `{}`):
            words that are exchanged then, such as `{"above": "below"}`.
        transpose_probability (`float`, *optional*, defaults to 0.0):
            probability that rows and columns of an image are exchanged (after the other two), which reflects it at the
            diagonal from the upper left: what was left of something is above it.
        transpose_words (`Mapping[str, str]`, *optional*, defaults to `{}`):
            words that are exchanged then, such as `{"left of": "above", "right of": "below"}`.
        color_probability (`float`, *optional*, defaults to 0.0):
            probability that the color channels are drawn in a new order.
        color_words (`Mapping[str, str]`, *optional*, defaults to `{}`):
            the color of each word, such as `{"red": "#ff0000", "yellow": "#ffff00", "black": "#000000"}`. Only those
            orders are drawn for a row in which all of its colors have a word again; without words, all.
        mix_probability (`float`, *optional*, defaults to 0.0):
            probability that each color channel becomes a random mixture of all three (weights uniform over those with
            the sum 1: white, gray and black stay), so that shape and texture count more than color. For texts that
            name no colors; not with `color_words`.
        palette_probability (`float`, *optional*, defaults to 0.0):
            probability that the colors of `color_words` are exchanged among each other, pixel by pixel, for drawings in
            colors that no order of channels turns into each other. A pixel belongs to the nearest of these colors and
            keeps its difference from it; one that is further than `palette_distance` from all stays.
        palette_distance (`float`, *optional*, defaults to 48.0): largest Euclidean distance, in values up to 255.
        columns (`Mapping[str, str]`, *optional*): columns of the rows by field name, where they differ.
        open_image (`Callable`, *optional*): opens an image as a row has it; by default a path, bytes or an image.

    Raises:
        ValueError: a probability, a color or a pair of words cannot be used.
    """

    def __init__(
        self,
        mirror_probability: float = 0.0,
        mirror_words: Mapping[str, str] | None = None,
        color_probability: float = 0.0,
        color_words: Mapping[str, str] | None = None,
        mix_probability: float = 0.0,
        columns: Mapping[str, str] | None = None,
        open_image: Callable[[Any], Any] | None = None,
        *,
        flip_probability: float = 0.0,
        flip_words: Mapping[str, str] | None = None,
        transpose_probability: float = 0.0,
        transpose_words: Mapping[str, str] | None = None,
        palette_probability: float = 0.0,
        palette_distance: float = 48.0,
    ) -> None:
        for name, value in (
            ("mirror_probability", mirror_probability),
            ("color_probability", color_probability),
            ("mix_probability", mix_probability),
            ("flip_probability", flip_probability),
            ("transpose_probability", transpose_probability),
            ("palette_probability", palette_probability),
        ):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; expected a number from 0 to 1.")
        if mix_probability and color_words:
            raise ValueError("mix_probability gives colors without names; leave out color_words, or mix_probability.")
        if palette_probability and not color_words:
            raise ValueError("palette_probability exchanges the colors of color_words; give these.")
        if palette_distance <= 0:
            raise ValueError(f"palette_distance is {palette_distance}; expected a positive number.")
        self.mirror_probability = mirror_probability
        self.color_probability = color_probability
        self.mix_probability = mix_probability
        self.flip_probability = flip_probability
        self.transpose_probability = transpose_probability
        self.palette_probability = palette_probability
        self.palette_distance = palette_distance
        self.mirror_words = _both_ways("mirror_words", mirror_words)
        self.flip_words = _both_ways("flip_words", flip_words)
        self.transpose_words = _both_ways("transpose_words", transpose_words)
        self.color_words = {word.lower(): _rgb(word, color) for word, color in (color_words or {}).items()}
        self.columns = dict(columns or {})
        self._open = open_image or open_row_image
        names = {color: word for word, color in self.color_words.items()}
        if len(names) < len(self.color_words):
            raise ValueError(f"color_words is {dict(color_words or {})}; expected another color for each word.")
        # words of each order of channels; a color without a word has none
        self._words_of_orders = {
            order: {word: names.get(_permuted(color, order)) for word, color in self.color_words.items()}
            for order in _ORDERS
        }
        self._colored = _any_of(self.color_words)

    def __call__(self, row: Row, generator: torch.Generator | None = None) -> dict[str, Any]:
        """
        Change a row at random.

        Args:
            row (`Mapping[str, Any]`): a row with `image` or `images`, and texts.
            generator (`torch.Generator`, *optional*): source of randomness; defaults to the global one of torch.

        Returns:
            `dict[str, Any]`: the row; with a change, its images are PIL images or arrays.
        """
        mirror, recolor, place, mix = torch.rand(4, generator=generator).tolist()
        orders = self._orders(row) if recolor < self.color_probability else _ORDERS[:1]
        mixture = None
        if mix < self.mix_probability:
            weights = -torch.rand(3, 3, generator=generator).clamp_min(1e-9).log()  # uniform over the simplex
            mixture = (weights / weights.sum(dim=1, keepdim=True)).numpy()
        flip, transpose, exchange = torch.rand(3, generator=generator).tolist()
        palette = None
        if exchange < self.palette_probability:
            words = list(self.color_words)
            order = torch.randperm(len(words), generator=generator).tolist()
            palette = {word: words[index] for word, index in zip(words, order, strict=True)}
        return self.apply(
            row,
            mirror < self.mirror_probability,
            orders[int(place * len(orders))],
            mixture,
            flip=flip < self.flip_probability,
            transpose=transpose < self.transpose_probability,
            palette=palette,
        )

    def apply(
        self,
        row: Row,
        mirror: bool = False,
        channels: Sequence[int] = (0, 1, 2),
        mixture: np.ndarray | None = None,
        *,
        flip: bool = False,
        transpose: bool = False,
        palette: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """
        Apply a certain change.

        Args:
            row (`Mapping[str, Any]`): the row.
            mirror (`bool`, *optional*, defaults to `False`): whether to mirror.
            channels (`Sequence[int]`, *optional*, defaults to `(0, 1, 2)`): the channel that each new one is taken
                from.
            mixture (`np.ndarray` of shape `(3, 3)`, *optional*): weights of the channels in each new one.
            flip (`bool`, *optional*, defaults to `False`): whether to turn upside down.
            transpose (`bool`, *optional*, defaults to `False`): whether to exchange rows and columns.
            palette (`Mapping[str, str]`, *optional*): the word that takes the place of each word of `color_words`, and
                so its color.

        Returns:
            `dict[str, Any]`: the changed row.
        """
        order = (int(channels[0]), int(channels[1]), int(channels[2]))
        exchanged = {word: other for word, other in (palette or {}).items() if word != other}
        changed = dict(row)
        if not (mirror or flip or transpose or exchanged) and order == _ORDERS[0] and mixture is None:
            return changed
        texts: list[Callable[[str], str]] = [
            functools.partial(exchange_words, words=words)
            for is_drawn, words in (
                (mirror, self.mirror_words),
                (flip, self.flip_words),
                (transpose, self.transpose_words),
            )
            if is_drawn and words
        ]
        if order != _ORDERS[0] and self.color_words:
            texts.append(functools.partial(self._recolor, words=self._words_of_orders[order]))
        if exchanged:
            texts.append(functools.partial(self._recolor, words=exchanged))

        def image_of(source: Any) -> Any:
            image = self._open(source)
            return _change_image(image, lambda values: change_values(values, scale=_largest_value(image)))

        def change_values(values: np.ndarray, scale: float) -> np.ndarray:
            if exchanged:
                values = self._exchange_colors(values, exchanged, scale)
            return _change_values(values, mirror, order, mixture, flip, transpose)

        def text_of(text: Any) -> Any:
            if not isinstance(text, str):
                return [text_of(one) for one in text]
            for change in texts:
                text = change(text)
            return text

        for name, change in [
            *((name, image_of) for name in _IMAGE_FIELDS),
            *((name, text_of) for name in _TEXT_FIELDS),
        ]:
            column = self.columns.get(name, name)
            if changed.get(column) is not None:
                value = changed[column]
                is_pair = name == "images"
                changed[column] = [change(one) for one in value] if is_pair else change(value)
        return changed

    def _recolor(self, text: str, words: Mapping[str, str | None]) -> str:
        """A text with other names of colors."""
        return self._colored.sub(lambda found: _like(found[0], words.get(found[0].lower()) or found[0]), text)

    def _exchange_colors(self, values: np.ndarray, words: Mapping[str, str], scale: float) -> np.ndarray:
        """An image `(H, W, 3 or more)` with values up to `scale` in which named colors are others."""
        colors = np.array(list(self.color_words.values()), np.float32)
        others = np.array([self.color_words[words.get(word, word)] for word in self.color_words], np.float32)
        pixels = values[..., :3].astype(np.float32) * (255 / scale)
        distances = np.linalg.norm(pixels[..., None, :] - colors, axis=-1)  # (H, W, colors)
        nearest = distances.argmin(axis=-1)
        near = np.take_along_axis(distances, nearest[..., None], axis=-1) <= self.palette_distance
        moved = np.where(near, pixels + (others - colors)[nearest], pixels).clip(0, 255) * (scale / 255)
        if np.issubdtype(values.dtype, np.integer):
            moved = moved.round()
        return np.concatenate([moved.astype(values.dtype), values[..., 3:]], axis=-1)

    def _orders(self, row: Row) -> list[tuple[int, ...]]:
        """The orders of channels after which every color that the texts of a row name has a word."""
        texts: list[str] = []
        for name in _TEXT_FIELDS:
            value = row.get(self.columns.get(name, name))
            texts += [value] if isinstance(value, str) else list(value if value is not None else ())
        named = (
            {found.lower() for text in texts for found in self._colored.findall(text)} if self.color_words else set()
        )
        return [order for order, words in self._words_of_orders.items() if all(words[word] for word in named)]


class ChangedRows:
    """
    A collator that changes rows first.

    Args:
        collator (`Callable`): the collator.
        changes ([`RowChanges`]): the changes.
    """

    def __init__(self, collator: Any, changes: RowChanges) -> None:
        self.collator = collator
        self.changes = changes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "collator":  # not there yet while a worker unpickles it
            raise AttributeError(name)
        return getattr(self.collator, name)

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Collate changed rows; see [`RowCollator`]."""
        return self.collator([self.changes(row) if isinstance(row, Mapping) else row for row in rows])


def exchange_words(text: str, words: Mapping[str, str]) -> str:
    """
    Exchange words of a text, in both directions; other words and the punctuation stay.

    Args:
        text (`str`): the text.
        words (`Mapping[str, str]`): words in lower case by the words that take their place, such as
            `{"left": "right"}`. They are found in any case, and a capital is kept.

    Returns:
        `str`: the text.
    """
    both = {**{other: word for word, other in words.items()}, **words}
    return _any_of(both).sub(lambda found: _like(found[0], both[found[0].lower()]), text) if both else text


def _rgb(word: str, color: str) -> tuple[int, ...]:
    try:
        return PIL.ImageColor.getrgb(color)[:3]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"color_words has {color!r} for {word!r}; expected a color such as '#ff0000'.") from error


def _permuted(values: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    return tuple(values[index] for index in order)


def _any_of(words: Mapping[str, Any]) -> re.Pattern[str]:
    longest_first = sorted(map(re.escape, words), key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(longest_first)})\b", re.IGNORECASE)


def _like(word: str, other: str) -> str:
    """The other word, with a capital if the word has one."""
    return other.capitalize() if word[:1].isupper() else other


def _both_ways(name: str, words: Mapping[str, str] | None) -> dict[str, str]:
    """Pairs of words in both directions, in lower case; `ValueError` for a word in two pairs."""
    pairs = {word.lower(): other.lower() for word, other in (words or {}).items()}
    both = {**pairs, **{other: word for word, other in pairs.items()}}
    if any(both[other] != word for word, other in both.items()):
        raise ValueError(f"{name} is {dict(words or {})}; expected each word in one pair only.")
    return both


def _largest_value(image: Any) -> float:
    """What white has: 255, or 1 in arrays of floats."""
    if isinstance(image, torch.Tensor):
        return 1.0 if image.is_floating_point() else 255.0
    return 1.0 if isinstance(image, np.ndarray) and np.issubdtype(image.dtype, np.floating) else 255.0


def _change_image(image: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """An image of any kind after a change of its values `(H, W, 3)`, or 4 with transparency."""
    if isinstance(image, (np.ndarray, torch.Tensor)):
        places = (-3, -1) if isinstance(image, torch.Tensor) else (-1, -3)  # where channels usually are
        axis = next((axis for axis in places if image.ndim == 3 and image.shape[axis] in (3, 4)), None)
        image = np.asarray(image)
        if axis is None:
            raise ValueError(f"An array of shape {image.shape} is not a color image; row changes need three channels.")
        return np.ascontiguousarray(np.moveaxis(change(np.moveaxis(image, axis, -1)), -1, axis))
    image = apply_exif_orientation(image)
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    values = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    return PIL.Image.fromarray(np.ascontiguousarray(change(values)))


def _change_values(
    values: np.ndarray,
    mirror: bool,
    order: Sequence[int],
    mixture: np.ndarray | None,
    flip: bool,
    transpose: bool,
) -> np.ndarray:
    """The changed values of an image of shape `(H, W, 3)`, or 4 with transparency, of any type."""
    values = values[:, ::-1] if mirror else values
    values = values[::-1] if flip else values
    values = values.swapaxes(0, 1) if transpose else values
    colors = values[..., list(order)]
    if mixture is not None:
        mixed = colors.astype(np.float32) @ np.asarray(mixture, np.float32).T
        colors = (mixed + 0.5 if np.issubdtype(values.dtype, np.integer) else mixed).astype(values.dtype)
    return np.concatenate([colors, values[..., 3:]], axis=-1)


__all__ = ["ChangedRows", "RowChanges", "exchange_words"]
