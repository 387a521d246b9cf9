"""Contrastive losses against loops over rows, hard negatives of ITM, masked language modeling.

Shapes: B batch size, K candidates (batch, then queue), P projection dimension.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modeling_lavis.models.itm_batching import itm_rows
from modeling_lavis.models.losses import (
    MaskDraws,
    draw_masks,
    draw_negatives,
    in_batch_contrastive_loss,
    mask_tokens,
    match_ids,
    negative_weights,
    queue_contrastive_loss,
)
from tests.models.albef_cases import MASK
from tests.models.contract import clone_state_dict
from tests.models.lavis_blip_cases import CLS, PAD, PRETRAINING, RETRIEVAL, SEP, VOCAB

CASES = pytest.mark.parametrize("case", [RETRIEVAL, PRETRAINING], ids=lambda case: case.name)


def unit(*shape: int, dim: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=dim)


def contrastive_loss_reference(
    rows: Tensor, candidates: Tensor, temperature: float, positives: Tensor, momentum_rows: Tensor | None, alpha: float
) -> float:
    """One direction: features `(B, P)`, candidates `(P, K)`, positives `(B, K)`, momentum features `(B, P)`."""
    total = 0.0
    for row in range(rows.shape[0]):
        scores = [float(rows[row] @ candidates[:, k]) / temperature for k in range(candidates.shape[1])]
        log_sum = torch.tensor(scores, dtype=torch.float64).logsumexp(0).item()
        count = int(positives[row].sum())
        targets = [float(positives[row, k]) / count for k in range(candidates.shape[1])]
        if momentum_rows is not None:
            soft_targets = torch.tensor(
                [float(momentum_rows[row] @ candidates[:, k]) / temperature for k in range(candidates.shape[1])]
            )
            soft_targets = soft_targets.double().softmax(0).tolist()
            targets = [(1 - alpha) * hard + alpha * soft for hard, soft in zip(targets, soft_targets, strict=True)]
        total -= sum(target * (score - log_sum) for target, score in zip(targets, scores, strict=True))
    return total / rows.shape[0]


@pytest.mark.parametrize("alpha", [None, 0.0, 0.4, 1.0])
def test_contrastive_losses_equal_reference(alpha: float | None) -> None:
    image, text = unit(4, 5, dim=1, seed=1), unit(4, 5, dim=1, seed=2)
    image_candidates, text_candidates = unit(5, 9, dim=0, seed=3), unit(5, 9, dim=0, seed=4)
    momentum_features = None if alpha is None else (unit(4, 5, dim=1, seed=5), unit(4, 5, dim=1, seed=6))
    positives = match_ids(torch.tensor([7, 8, 7, 9]), torch.tensor([7, 8, 7, 9, 9, 1, 2, 7, 3]))
    assert positives.sum(1).tolist() == [3, 1, 3, 2]
    temperature = torch.tensor(0.07)
    if momentum_features is None or alpha is None:
        output = in_batch_contrastive_loss(
            image @ text_candidates / temperature, text @ image_candidates / temperature, positives
        )
    else:
        candidates_of = (image_candidates.split([4, 5], dim=1), (text_candidates,))
        output = queue_contrastive_loss(image, text, *candidates_of, temperature, positives, momentum_features, alpha)
    i2t = contrastive_loss_reference(
        image,
        text_candidates,
        0.07,
        positives,
        None if momentum_features is None else momentum_features[0],
        alpha or 0.0,
    )
    t2i = contrastive_loss_reference(
        text,
        image_candidates,
        0.07,
        positives,
        None if momentum_features is None else momentum_features[1],
        alpha or 0.0,
    )
    assert output.loss.item() == pytest.approx((i2t + t2i) / 2, rel=1e-5)
    torch.testing.assert_close(output.sim_i2t_targets.sum(1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(output.sim_i2t, image @ text_candidates / 0.07)


def test_soft_targets_carry_no_gradient() -> None:
    image, text = unit(3, 5, dim=1, seed=1).requires_grad_(), unit(3, 5, dim=1, seed=2).requires_grad_()
    temperature = torch.tensor(0.07, requires_grad=True)
    candidates = unit(5, 6, dim=0, seed=3)
    positives = torch.eye(3, 6, dtype=torch.bool)
    output = queue_contrastive_loss(
        image, text, (candidates,), (candidates,), temperature, positives, (image, text), 0.4
    )
    assert not output.sim_i2t_targets.requires_grad
    output.loss.backward()
    probabilities = (image @ candidates / temperature).softmax(1)
    expected = (probabilities - output.sim_i2t_targets) @ candidates.T / temperature / 3 / 2
    torch.testing.assert_close(image.grad, expected.detach())
    assert temperature.grad is not None and temperature.grad != 0


# ---- hard negatives ----


def test_negative_weights() -> None:
    similarity = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    excluded = torch.tensor([[False, False, True], [True, False, False]])
    weights = negative_weights(similarity, excluded, floor=0.1)
    expected = similarity.softmax(1) + 0.1
    expected[0, 2] = expected[1, 0] = 0
    torch.testing.assert_close(weights, expected)


def test_excluded_rows_are_never_drawn() -> None:
    weights = torch.rand(50, 4)
    weights[:, 1] = 0
    drawn = torch.stack([draw_negatives(weights) for _ in range(40)])
    assert drawn.shape == (40, 50) and not bool((drawn == 1).any())
    assert {0, 2, 3} == set(drawn.flatten().tolist())


def test_draws_depend_on_weights_and_generator() -> None:
    weights = torch.tensor([[0.0, 3.0, 1.0]]).expand(4000, 3)
    drawn = draw_negatives(weights, torch.Generator().manual_seed(0))
    assert 0.72 < (drawn == 1).float().mean() < 0.78
    assert torch.equal(drawn, draw_negatives(weights, torch.Generator().manual_seed(0)))


def test_rows_without_negatives_raise() -> None:
    with pytest.raises(ValueError, match="at least two different images"):
        draw_negatives(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))


def test_itm_rows() -> None:
    images, texts, labels = itm_rows(torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0]))
    assert images.tolist() == [0, 1, 2, 2, 0, 1, 0, 1, 2]
    assert texts.tolist() == [0, 1, 2, 0, 1, 2, 1, 2, 0]
    assert labels.tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]


# ---- masked language modeling ----


def mask_draws(chosen: Tensor, masked: Tensor, replaced: Tensor) -> MaskDraws:
    return MaskDraws(chosen, masked, replaced, torch.full(chosen.shape, 9))


def test_special_tokens_are_not_masked() -> None:
    ids = torch.tensor([[CLS, 10, 11, 12, SEP, PAD]])
    everything = torch.ones_like(ids, dtype=torch.bool)
    nothing = torch.zeros_like(everything)
    masked_ids, labels = mask_tokens(ids, mask_draws(everything, everything, nothing), MASK, PAD, CLS)
    assert masked_ids.tolist() == [[CLS, MASK, MASK, MASK, MASK, PAD]]
    assert labels.tolist() == [[-100, 10, 11, 12, SEP, -100]]
    masked_ids, _ = mask_tokens(ids, mask_draws(everything, nothing, everything), MASK, PAD, CLS)
    assert masked_ids.tolist() == [[CLS, 9, 9, 9, 9, PAD]]
    masked_ids, labels = mask_tokens(ids, mask_draws(everything, nothing, nothing), MASK, PAD, CLS)
    assert torch.equal(masked_ids, ids)
    assert labels.tolist() == [[-100, 10, 11, 12, SEP, -100]]


def test_shares_of_masked_tokens() -> None:
    ids = torch.full((200, 100), 7)
    drawn = draw_masks(ids, 0.15, VOCAB, torch.Generator().manual_seed(0))
    again = draw_masks(ids, 0.15, VOCAB, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.chosen, again.chosen)
    shares = [part.float().mean().item() for part in (drawn.chosen, drawn.masked, drawn.replaced)]
    assert shares == pytest.approx([0.15, 0.8, 0.5], abs=0.02)
    assert 0 <= int(drawn.random_ids.min()) and int(drawn.random_ids.max()) == VOCAB - 1


# ---- losses of heads ----


def training_pass(model: Any, call: dict[str, Any], monkeypatch: Any) -> tuple[Any, list[Tensor]]:
    """A forward pass that records the weights of the negatives and draws the most probable ones."""
    seen: list[Tensor] = []

    def argmax_negatives(weights: Tensor, generator: Any = None) -> Tensor:
        seen.append(weights)
        return weights.argmax(dim=1)

    monkeypatch.setattr(model, "draw_negatives", argmax_negatives)
    return model(**call, output_intermediates=True), seen


@CASES
def test_texts_of_the_same_image_are_no_negatives(case, monkeypatch: Any) -> None:
    model = case.model()
    call = {**case.inputs(4), **case.training(4), "image_ids": torch.tensor([5, 6, 5, 7])}
    _, seen = training_pass(model, call, monkeypatch)
    assert len(seen) == 2
    same = match_ids(call["image_ids"], call["image_ids"])
    for weights in seen:
        assert torch.equal(weights == 0, same)


@CASES
def test_head_losses_equal_reference(case, monkeypatch: Any) -> None:
    """The losses of a head against losses of its features and of pairs that run one by one."""
    model = case.model()
    call = {**case.inputs(4), **case.training(4)}
    if hasattr(model, "idx_queue"):
        call["image_ids"] = torch.tensor([5, 6, 5, 7])
        model.idx_queue[0, :3] = torch.tensor([6, 9, 5])
    output, seen = training_pass(model, call, monkeypatch)
    image = model.get_image_features(call["pixel_values"]).pooler_output
    text = model.get_text_features(call["input_ids"], call["attention_mask"]).pooler_output
    torch.testing.assert_close(output.image_features, image)
    torch.testing.assert_close(output.text_features, text)
    # `case.model()` perturbs the momentum encoders, so their own outputs are needed.
    momentum_states = {name: output.intermediates[name] for name in ("image_embeds_m", "text_embeds_m")}
    image_m = F.normalize(model.vision_proj_m(momentum_states["image_embeds_m"][:, 0]), dim=-1)
    text_m = F.normalize(model.text_proj_m(momentum_states["text_embeds_m"][:, 0]), dim=-1)
    positives = torch.eye(4, 14, dtype=torch.bool)
    if hasattr(model, "idx_queue"):
        positives = match_ids(call["image_ids"], torch.cat([call["image_ids"], model.idx_queue[0]]))
        assert int(positives.sum()) == 4 + 2 + 1 + 2
    candidates_of = [
        torch.cat([features.T, queue], 1)
        for features, queue in ((image_m, model.image_queue), (text_m, model.text_queue))
    ]
    temperature, alpha = model.temp.item(), model.config.alpha
    i2t = contrastive_loss_reference(image, candidates_of[1], temperature, positives, image_m, alpha)
    t2i = contrastive_loss_reference(text, candidates_of[0], temperature, positives, text_m, alpha)
    assert output.loss_itc.item() == pytest.approx((i2t + t2i) / 2, rel=1e-4)
    # ITM: one forward pass per pair
    negative_images, negative_texts = (weights.argmax(1) for weights in seen)
    losses = []
    for images, texts, label in (
        (range(4), range(4), 1),
        (negative_images, range(4), 0),
        (range(4), negative_texts, 0),
    ):
        for i, t in zip(images, texts, strict=True):
            logits = model(
                pixel_values=call["pixel_values"][int(i)][None],
                input_ids=call["input_ids"][int(t)][None],
                attention_mask=call["attention_mask"][int(t)][None],
                match_head="itm",
            ).logits
            losses.append(F.cross_entropy(logits, torch.tensor([label])))
    torch.testing.assert_close(output.loss_itm, torch.stack(losses).mean(), atol=1e-5, rtol=1e-4)


@CASES
def test_padding_does_not_change_the_loss(case) -> None:
    model = case.model()
    call = {**case.inputs(4), **case.training(4)}
    padded = dict(call)
    padded["input_ids"] = F.pad(call["input_ids"], (0, 4))
    padded["attention_mask"] = F.pad(call["attention_mask"], (0, 4))
    losses = []
    for version in (call, padded):
        torch.manual_seed(0)
        losses.append(model(**version).loss)
    torch.testing.assert_close(losses[0], losses[1])


@CASES
def test_in_batch_contrastive_loss_without_momentum(case, monkeypatch: Any) -> None:
    model = case.model(use_momentum=False)
    call = {**case.inputs(4), **case.training(4), "image_ids": torch.tensor([5, 6, 5, 7])}
    before = clone_state_dict(model)
    output, _ = training_pass(model.train(), call, monkeypatch)
    image, text = output.image_features.detach(), output.text_features.detach()
    positives = match_ids(call["image_ids"], call["image_ids"])
    i2t = contrastive_loss_reference(image, text.T, before["temp"].item(), positives, None, 0.0)
    t2i = contrastive_loss_reference(text, image.T, before["temp"].item(), positives, None, 0.0)
    assert output.loss_itc.item() == pytest.approx((i2t + t2i) / 2, rel=1e-4)
    output.loss_itc.backward()
    assert model.vision_proj.weight.grad.any() and model.text_proj.weight.grad.any()
