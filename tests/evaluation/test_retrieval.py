"""Two-stage retrieval against a loop over all pairs, and the functions of each stage.

Shapes: I images, S texts, k candidates per row.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from modeling_lavis.evaluation import retrieval
from modeling_lavis.evaluation.retrieval import (
    NOT_RANKED,
    combine_scores,
    encode_texts,
    matching_logits,
    rank_candidates,
    select_candidates,
    similarity_matrices,
)
from tests.evaluation.collections_of_pairs import (
    ALBEF,
    ALPRO,
    FUSING,
    HEADS,
    IMAGES,
    TEXTS,
    all_pairs,
    images_of,
    padded_texts,
)
from tests.evaluation.row_counter import RowCounter


def best_columns(row: Tensor, k: int) -> list[int]:
    return sorted(range(len(row)), key=lambda column: -float(row[column]))[:k]


@HEADS
@pytest.mark.parametrize("k", [1, 3, 100])
def test_equals_a_loop_over_all_pairs(case: Any, k: int) -> None:
    model, images, inputs = case.model(), images_of(case), padded_texts()
    cosine, logits = all_pairs(case, model, images, inputs)
    i2t, t2i = torch.full((IMAGES, TEXTS), NOT_RANKED), torch.full((TEXTS, IMAGES), NOT_RANKED)
    for image in range(IMAGES):
        for text in best_columns(cosine[image], k):
            i2t[image, text] = cosine[image, text] + logits[image, text]
    for text in range(TEXTS):
        for image in best_columns(cosine[:, text], k):
            t2i[text, image] = cosine[image, text] + logits[image, text]
    matrices = similarity_matrices(model, images, inputs, k, batch_size=2, text_batch_size=3)
    torch.testing.assert_close(matrices.cosine, cosine, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(matrices.i2t, i2t, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(matrices.t2i, t2i, atol=1e-4, rtol=1e-4)
    if k == 100:
        assert bool((matrices.i2t > NOT_RANKED).all())
        torch.testing.assert_close(matrices.t2i, matrices.i2t.T)


@HEADS
def test_batches_and_chunks_do_not_change_the_scores(case: Any) -> None:
    model, images, inputs = case.model(), images_of(case), padded_texts()
    expected = similarity_matrices(model, images, inputs, k=2)
    batches = (images[rows] for rows in (slice(0, 1), slice(1, 4), slice(4, 5)))
    actual = similarity_matrices(model, batches, inputs, k=2, batch_size=2, text_batch_size=2)
    for name, value in vars(expected).items():
        torch.testing.assert_close(vars(actual)[name], value, atol=1e-5, rtol=1e-4)


@FUSING
@pytest.mark.parametrize("k", [2, 10])
def test_images_texts_and_pairs_are_computed_once(case: Any, k: int) -> None:
    model = case.model()
    rows = RowCounter(model)
    matrices = similarity_matrices(model, images_of(case), padded_texts(), k, batch_size=3, text_batch_size=2)
    pairs = int(((matrices.i2t > NOT_RANKED) | (matrices.t2i.T > NOT_RANKED)).sum())
    assert rows.pop_counts() == {"images": IMAGES, "texts": TEXTS, "pairs": pairs}
    assert pairs == IMAGES * TEXTS if k == 10 else pairs < IMAGES * TEXTS


@HEADS
def test_images_are_encoded_and_projected_in_batches(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither all hidden states nor all features of the encoder pass through the model at once."""
    model = case.model()
    sizes: dict[str, list[int]] = {"encode_images": [], "project_images": [], "score_pairs": []}
    for name, rows in sizes.items():
        monkeypatch.setattr(model, name, recording(getattr(model, name), rows))
    similarity_matrices(model, images_of(case), padded_texts(), k=TEXTS, batch_size=3)
    assert sizes == {"encode_images": [3, 2], "project_images": [3, 2], "score_pairs": [3, 2]}


def recording(method: Any, rows: list[int]) -> Any:
    """A method that also records the number of rows of its first argument."""

    def call(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(first))
        return method(first, *args, **kwargs)

    return call


def test_no_gradients_are_recorded() -> None:
    model = ALBEF.model()
    matrices = similarity_matrices(model, images_of(ALBEF), padded_texts(), k=2)
    assert not any(value.requires_grad for value in vars(matrices).values())


def test_number_of_candidates_must_be_positive() -> None:
    with pytest.raises(ValueError, match="k is 0; expected at least one candidate per row"):
        similarity_matrices(ALBEF.model(), images_of(ALBEF), padded_texts(), k=0)


def test_empty_iterables_are_refused() -> None:
    with pytest.raises(ValueError, match="pixel_values has no images"):
        similarity_matrices(ALBEF.model(), iter(()), padded_texts(), k=1)


@HEADS
@torch.no_grad()
def test_encode_texts(case: Any) -> None:
    model, inputs = case.model(), padded_texts()
    features, encoded = encode_texts(model, inputs, batch_size=3)
    length = int(inputs["attention_mask"].sum(dim=1).max())
    assert encoded["input_ids"].shape == encoded["attention_mask"].shape == (TEXTS, length)
    expected = model.encode_texts(inputs["input_ids"], inputs["attention_mask"])
    torch.testing.assert_close(features, model.project_texts(expected), atol=1e-5, rtol=1e-4)
    assert ("text_embeds" in encoded) == model.fuses_text_states == (case in (ALBEF, ALPRO))
    if model.fuses_text_states:
        mask = encoded["attention_mask"].bool()
        torch.testing.assert_close(encoded["text_embeds"][mask], expected[:, :length][mask], atol=1e-5, rtol=1e-4)


@HEADS
@pytest.mark.parametrize("chunk_size", [1, 2, 32])
@torch.no_grad()
def test_matching_logits_of_loaded_images(case: Any, chunk_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs in any order, one of them twice, and an image without pairs."""
    monkeypatch.setattr(retrieval, "IMAGE_CHUNK_SIZE", chunk_size)
    model = case.model()
    image_embeds, inputs = model.encode_images(images_of(case)), encode_texts(model, padded_texts()).inputs
    pairs = torch.tensor([[4, 0], [0, 6], [2, 1], [4, 3], [0, 0], [2, 1], [3, 5]])
    loaded: list[list[int]] = []

    def load(rows: list[int]) -> Tensor:
        loaded.append(rows)
        return image_embeds[rows]

    expected = matching_logits(model, image_embeds, inputs, pairs)
    assert expected.shape == (len(pairs), 2)
    torch.testing.assert_close(expected, model.score_pairs(image_embeds, inputs, pairs).logits)
    torch.testing.assert_close(matching_logits(model, load, inputs, pairs), expected, atol=1e-5, rtol=1e-4)
    assert [row for rows in loaded for row in rows] == [0, 2, 3, 4]
    assert all(len(rows) <= chunk_size for rows in loaded)


def test_select_candidates() -> None:
    similarity = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.8]])
    assert select_candidates(similarity, 2).tolist() == [[1, 2], [2, 0]]
    assert select_candidates(similarity, 10).tolist() == [[1, 2, 0], [2, 0, 1]]


@pytest.mark.parametrize("k", [1, 3, 20, 60])
def test_the_first_of_equal_candidates_ranks_first(k: int) -> None:
    similarity = torch.randint(0, 4, (9, 40), generator=torch.Generator().manual_seed(0)).float()
    expected = [sorted(range(40), key=lambda column: (-row[column], column))[:k] for row in similarity.tolist()]
    assert select_candidates(similarity, k).tolist() == expected


def test_rank_candidates() -> None:
    similarity = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.8]])
    candidates = torch.tensor([[1, 2], [2, 0]])
    logits = torch.tensor([[[9.0, 0.0], [0.0, 1.0]], [[0.0, 0.5], [0.0, 1.0]]])
    ranked = rank_candidates(candidates, similarity, logits)
    assert ranked.indices.tolist() == [[2, 1], [2, 0]]  # equal scores keep the order of the candidates
    torch.testing.assert_close(ranked.scores, torch.tensor([[1.5, 0.9], [1.3, 1.3]]))
    torch.testing.assert_close(ranked.similarities, torch.tensor([[0.5, 0.9], [0.8, 0.3]]))
    best = rank_candidates(candidates, similarity, logits, top_k=1)
    assert [values.tolist() for values in best] == [values[:, :1].tolist() for values in ranked]
    without = rank_candidates(candidates, similarity)
    assert without.indices.tolist() == candidates.tolist() and torch.equal(without.scores, without.similarities)


def test_scores_have_the_dtype_of_the_similarity() -> None:
    logits = torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16)
    scores = combine_scores(torch.tensor([0.123456789]), logits)
    assert scores.dtype == torch.float32 and scores.item() == pytest.approx(1.123456789)
