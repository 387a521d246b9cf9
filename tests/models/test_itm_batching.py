"""Matching scores of image-text pairs against one forward pass per pair."""

import pytest
import torch
from torch import Tensor

from modeling_lavis.models.itm_batching import check_pairs, iter_image_chunks
from tests.models.lavis_blip_2_cases import PRETRAINING as BLIP_2_PRETRAINING
from tests.models.lavis_blip_2_cases import RETRIEVAL as BLIP_2
from tests.models.lavis_blip_cases import PRETRAINING, RETRIEVAL, pixels, texts

CASES = pytest.mark.parametrize(
    "case", [RETRIEVAL, PRETRAINING, BLIP_2, BLIP_2_PRETRAINING], ids=lambda case: case.name
)
PAIRS = torch.tensor([[2, 0], [0, 4], [0, 0], [2, 3], [1, 1], [0, 2], [0, 0], [2, 1]])


def score_one_by_one(model, images: Tensor, text_inputs: dict[str, Tensor], pairs: Tensor) -> Tensor:
    rows = [
        model(
            pixel_values=images[i][None],
            input_ids=text_inputs["input_ids"][t][None],
            attention_mask=text_inputs["attention_mask"][t][None],
            match_head="itm",
        ).logits[0]
        for i, t in pairs.tolist()
    ]
    return torch.stack(rows).detach()


@CASES
@pytest.mark.parametrize("max_rows", [1, 2, 3, 256])
def test_scores_equal_one_pass_per_pair(case, max_rows: int) -> None:
    model = case.model()
    images, text_inputs = pixels(3), texts(5)
    scores = model.score_pairs(images, text_inputs, PAIRS, max_rows=max_rows)
    expected = score_one_by_one(model, images, text_inputs, PAIRS)
    torch.testing.assert_close(scores.logits, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scores.probabilities, expected.softmax(1)[:, 1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scores.logits[2], scores.logits[6])  # the same pair, possibly in another batch
    assert not scores.logits.requires_grad


@CASES
@pytest.mark.parametrize("max_rows", [1, 256])
def test_texts_with_padding_anywhere(case, max_rows: int) -> None:
    model, images, text_inputs = case.model(), pixels(2), texts(2, padded=False)
    text_inputs["attention_mask"][0, 2] = 0
    text_inputs["attention_mask"][1, -2:] = 0
    pairs = torch.tensor([[0, 0], [1, 1], [1, 0]])
    scores = model.score_pairs(images, text_inputs, pairs, max_rows=max_rows)
    expected = score_one_by_one(model, images, text_inputs, pairs)
    torch.testing.assert_close(scores.logits, expected, atol=1e-6, rtol=1e-5)


@CASES
def test_encoded_images_missing_mask_and_lists(case) -> None:
    model = case.model()
    images, text_inputs = pixels(3), texts(5)
    whole = model.score_pairs(images, text_inputs, PAIRS)
    states = model.encode_images(images).detach()
    torch.testing.assert_close(model.score_pairs(states, text_inputs, PAIRS).logits, whole.logits)
    without = {"input_ids": text_inputs["input_ids"]}
    torch.testing.assert_close(model.score_pairs(states, without, PAIRS).logits, whole.logits)
    torch.testing.assert_close(model.score_pairs(states, text_inputs, PAIRS.tolist()).logits, whole.logits)


def test_each_image_is_encoded_and_projected_once() -> None:
    model = RETRIEVAL.model()
    encoded, projected = [], []
    model.vision_model.register_forward_hook(lambda m, args, out: encoded.append(out.last_hidden_state.shape[0]))
    key = model.text_encoder.encoder.layer[0].crossattention.self.key
    key.register_forward_hook(lambda m, args, out: projected.append(args[0].shape[0]))
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(5))
    model.score_pairs(pixels(3), texts(5), pairs)
    assert encoded == [3] and sum(projected) == 3


def test_no_pairs() -> None:
    scores = RETRIEVAL.model().score_pairs(pixels(1), texts(1), torch.empty(0, 2, dtype=torch.long))
    assert scores.logits.shape == (0, 2) and scores.probabilities.shape == (0,)


def test_training_mode_is_kept() -> None:
    model = RETRIEVAL.model().train()
    model.score_pairs(pixels(2), texts(2), torch.tensor([[0, 1]]))
    assert model.training


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (torch.tensor([[3, 0]]), "3 images and 5 texts"),
        (torch.tensor([[0, 5]]), "3 images and 5 texts"),
        (torch.tensor([[-1, 0]]), "3 images and 5 texts"),
        (torch.tensor([0, 1]), r"shape \(2,\), expected \(pairs, 2\)"),
        (torch.zeros(2, 3, dtype=torch.long), r"expected \(pairs, 2\)"),
    ],
)
def test_invalid_pairs_raise(pairs: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_pairs(pairs, 3, 5)
    with pytest.raises(ValueError, match=message):
        RETRIEVAL.model().score_pairs(pixels(3), texts(5), pairs)


@pytest.mark.parametrize(("max_rows", "max_images"), [(1, 8), (8, 1), (12, 3), (100, 8)])
def test_image_chunks_and_their_batches(max_rows: int, max_images: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = torch.stack(
        [torch.randint(0, 6, (40,), generator=generator), torch.randint(0, 9, (40,), generator=generator)], 1
    )
    lengths = torch.randint(3, 12, (9,), generator=generator)
    seen_pairs: list[int] = []
    images: list[int] = []
    for chunk in iter_image_chunks(pairs, lengths, max_rows, max_images):
        images += chunk.images.tolist()
        rows = sum(len(part.texts) for part in chunk.batches)
        assert rows <= max_rows or len(chunk.images) == 1
        assert len(chunk.images) <= max_images or len(chunk.batches) == 1
        previous_length = 0
        for part in chunk.batches:
            assert 0 < len(part.texts) <= max(max_rows // 4, 1)
            assert previous_length <= int(lengths[part.texts].min())
            previous_length = int(lengths[part.texts].max())
            assert torch.equal(pairs[part.pairs], torch.stack([chunk.images[part.image_index], part.texts], 1))
            seen_pairs += part.pairs.tolist()
    assert sorted(seen_pairs) == list(range(40))
    assert images == sorted(set(pairs[:, 0].tolist()))


@CASES
def test_keys_and_values_once_per_image_with_small_batches(case) -> None:
    model = case.model()
    projected: list[int] = []
    multimodal_encoder = model.qformer if hasattr(model, "qformer") else model.text_encoder
    key = multimodal_encoder.encoder.layer[-1].crossattention.self.key
    key.register_forward_hook(lambda m, args, out: projected.append(args[0].shape[0]))
    model.score_pairs(pixels(3), texts(5), PAIRS, max_rows=8)
    assert sum(projected) == 3


@CASES
@pytest.mark.parametrize("max_rows", [256, 40])
def test_many_texts_of_different_lengths(case, max_rows: int) -> None:
    """Two images with fifty texts each, which do not fit into one batch."""
    model = case.model()
    text_inputs = texts(50, length=12)
    kept = torch.arange(12)[None] < torch.randint(3, 12, (50, 1), generator=torch.Generator().manual_seed(0))
    text_inputs["attention_mask"] = kept.long()
    pairs = torch.cartesian_prod(torch.arange(2), torch.arange(50))
    found = model.score_pairs(pixels(2), text_inputs, pairs, max_rows=max_rows).logits
    torch.testing.assert_close(found, score_one_by_one(model, pixels(2), text_inputs, pairs), atol=1e-5, rtol=1e-4)
