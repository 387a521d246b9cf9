"""Compares the scores of two-stage retrieval, which all architectures with a matching head have.

Shapes: I images or clips, S texts.
"""

from __future__ import annotations

from torch import Tensor, nn

from modeling_lavis.evaluation.engine import RetrievalEngine

from .goldens import GoldenSet
from .ledger import Ledger


def compare_similarity_matrices(
    golden: GoldenSet, ledger: Ledger, model: nn.Module, images: Tensor, texts: dict[str, Tensor]
) -> None:
    """Compare the scores `(I, S)` and `(S, I)` of the engine, which runs in small groups, with the original's."""
    engine = RetrievalEngine(model, k=golden.inputs["k_test"], batch_size=2, text_batch_size=3, progress=False)
    i2t, t2i = engine.run(images, texts).matrices()
    ledger.compare("compute_sim_matrix.score_i2t", i2t)
    ledger.compare("compute_sim_matrix.score_t2i", t2i)
