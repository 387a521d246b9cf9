# SPDX-License-Identifier: Apache-2.0
"""The result of `explain`.

Shapes: K words, M pictures, H rows and W columns of the patch grid.
"""

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image
from torch import Tensor
from torch.nn import functional as F

from modeling_lavis.files import whole_file


@dataclass
class Explanation:
    """
    Maps of where a model looked, for each word of a text.

    Values are not normalized: those of one explanation can be compared with each other, those of two methods or layers
    cannot.

    Args:
        words (`list[str]`): words of the text; sub-words are joined, special tokens left out.
        grids (`Tensor` of shape `(K, M, H, W)`): a value for each word and patch, at least 0.
        overall (`Tensor` of shape `(M, H, W)`): the mean over the tokens of all words.
        pictures (`list[PIL.Image.Image]`): the M pictures: the image, the two images, or the frames that the model saw.
        score (`float`): the score that is explained.
        score_name (`str`): what the score is.
        target (`str`): what is scored: `"match"`, a class, an answer or a caption, for instance.
        method (`str`): `"gradcam"`, `"relevance"`, `"rollout"` or `"attention"`.
        layer (`int`, *optional*): the layer that the maps are made of; `None` for methods that use all layers.
        queries (`Explanation`, *optional*): for BLIP-2, maps of the query tokens, through which words see the image.
    """

    words: list[str]
    grids: Tensor
    overall: Tensor
    pictures: list[PIL.Image.Image]
    score: float
    score_name: str
    target: str
    method: str
    layer: int | None
    queries: "Explanation | None" = field(default=None, repr=False)

    @property
    def shares(self) -> Tensor:
        """How much of each word's map `(K, M)` is in which picture: which frame, or which of two images."""
        sums = self.grids.sum(dim=(-2, -1))
        total = sums.sum(dim=1, keepdim=True)
        return sums / total.where(total > 0, total.new_ones(()))

    def map(self, word: str | int | None = None, picture: int = 0) -> Tensor:
        """
        A map at the size of its picture, interpolated between the centers of the patches.

        Args:
            word (`str` or `int`, *optional*): a word, the first one if it occurs twice, or its number; by default the
                mean over all.
            picture (`int`, *optional*, defaults to 0): number of the picture.

        Returns:
            `Tensor` of shape `(height, width)`.

        Raises:
            ValueError: there is no such word.
        """
        grid = self.overall if word is None else self.grids[self._number(word)]
        width, height = self.pictures[picture].size
        return F.interpolate(grid[None, None, picture], size=(height, width), mode="bilinear", align_corners=False)[
            0, 0
        ]

    def _number(self, word: str | int) -> int:
        if isinstance(word, int) and -len(self.words) <= word < len(self.words):
            return word
        if isinstance(word, str):
            plain = [own.strip(".,:;!?").casefold() for own in self.words]
            for names, wanted in ((self.words, word), (plain, word.casefold())):
                if wanted in names:
                    return names.index(wanted)
        raise ValueError(f"There is no word {word!r}; expected one of {self.words}, or its number.")

    def peak(self, word: str | int | None = None) -> tuple[int, int, int]:
        """
        The patch with the largest value.

        Args:
            word (`str` or `int`, *optional*): as for [`map`].

        Returns:
            `tuple[int, int, int]`: number of the picture, and x and y of the center of the patch in its pixels.
        """
        grid = self.overall if word is None else self.grids[self._number(word)]
        rows, columns = grid.shape[-2:]
        picture, place = divmod(int(grid.flatten().argmax()), rows * columns)
        width, height = self.pictures[picture].size
        row, column = divmod(place, columns)
        return picture, int((column + 0.5) * width / columns), int((row + 0.5) * height / rows)

    def draw(self, words: Sequence[str | int] | None = None) -> PIL.Image.Image:
        """
        Draw the pictures with their maps, and the words under them. Bright is where the value is largest; each word has
        a scale of its own.

        Args:
            words (`Sequence[str | int]`, *optional*): words or their numbers; all by default.

        Returns:
            `PIL.Image.Image`: the drawing.

        Raises:
            ValueError: there is no such word.
        """
        from modeling_lavis.interpretability.overlay import draw_maps

        numbers = list(range(len(self.words))) if words is None else [self._number(word) for word in words]
        return draw_maps(self, numbers)

    def save(self, path: str | os.PathLike[str], words: Sequence[str | int] | None = None) -> None:
        """
        Write the drawing to a file.

        Args:
            path (`str` or `os.PathLike`): the file, `.png`, `.jpg` or another format of PIL.
            words (`Sequence[str | int]`, *optional*): as for [`draw`].

        Raises:
            ValueError: the suffix is that of no image format, or there is no such word.
        """
        suffix = Path(path).suffix.lower()
        image_format = PIL.Image.registered_extensions().get(suffix)
        if image_format not in PIL.Image.SAVE:
            raise ValueError(f"Cannot write {os.fspath(path)!r}; expected a file name that ends in .png or .jpg.")
        drawing = self.draw(words)
        with whole_file(path) as partial, partial.open("xb") as file:
            drawing.save(file, format=image_format, optimize=True)

    def show(self, words: Sequence[str | int] | None = None) -> None:
        """Show the drawing: in a notebook below the cell, otherwise in the system's image viewer."""
        drawing = self.draw(words)
        shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        if shell is None:
            drawing.show()
            return
        from IPython.display import display  # installed, because it is running

        display(drawing)

    def _repr_png_(self) -> bytes:
        """The drawing, which notebooks show for a value."""
        content = io.BytesIO()
        self.draw().save(content, format="PNG")
        return content.getvalue()


__all__ = ["Explanation"]
