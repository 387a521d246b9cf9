# SPDX-License-Identifier: Apache-2.0
"""What a retrieval ranked, beside its metrics.

Shapes: I images, S texts, k candidates per row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeling_lavis.evaluation.retrieval import RankedCandidates


@dataclass(frozen=True)
class RetrievalRankings:
    """
    Metrics of an evaluation of retrieval, and the candidates that they are computed from.

    Args:
        metrics (`dict[str, float]`): recall, see [`~modeling_lavis.evaluation.retrieval_rows.retrieval_metrics`].
        image_to_text, text_to_image ([`RankedCandidates`] with I and S rows): candidates, best first.
        owners (sequence of `int`): image of each text.
        modality (`str`): `"image"` or `"video"`.
        reranked (`bool`): whether the score of a candidate is the ITM logit plus the cosine, or the cosine alone.
        skipped (`Mapping[int, str]`, *optional*): position of each row that was left out, and the reason.
    """

    metrics: dict[str, float]
    image_to_text: RankedCandidates
    text_to_image: RankedCandidates
    owners: Sequence[int]
    modality: str
    reranked: bool
    skipped: Mapping[int, str] = field(default_factory=dict)

    def places(self) -> tuple[Tensor, Tensor]:
        """
        Places of the first right candidate, from 1, or 0 if there is none among the candidates: of a text of each image
        `(I,)`, and of the image of each text `(S,)`.
        """
        own_images = self.text_to_image.indices == torch.tensor(self.owners)[:, None]
        return _first(self._own_texts()), _first(own_images)

    def scores(self) -> tuple[Tensor, Tensor]:
        """Scores of the candidates of all images: of their own texts, and of other texts."""
        own = self._own_texts()
        return self.image_to_text.scores[own], self.image_to_text.scores[~own]

    def _own_texts(self) -> Tensor:
        """Whether a candidate of an image is one of its texts, `(I, k)`."""
        candidates = self.image_to_text.indices
        return torch.tensor(self.owners)[candidates] == torch.arange(len(candidates))[:, None]


def _first(right: Tensor) -> Tensor:
    """Place of the first true value of each row, from 1; 0 for none."""
    return torch.where(right.any(dim=1), right.int().argmax(dim=1) + 1, 0)


__all__ = ["RetrievalRankings"]
