"""Ranking of a closed answer list, against a loop over questions and answers."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modeling_lavis.models import task_question_answering
from tests.models.lavis_blip_cases import ANSWERING, DEC, PAD, SEP, VOCAB, pixels, texts


def answer_list() -> dict[str, Tensor]:
    """Answers of three to five tokens; two of them share their first token."""
    rows = [[10, 11], [10, 12, 13], [14], [15, 16, 17], [18, 19], [20]]
    length = 5
    ids = torch.full((len(rows), length), PAD)
    for number, row in enumerate(rows):
        ids[number, : len(row) + 2] = torch.tensor([DEC, *row, SEP])
    return {"answer_input_ids": ids, "answer_attention_mask": (ids != PAD).long()}


def rank_reference(
    model: Any, call: dict[str, Tensor], answers: dict[str, Tensor], candidates: Tensor
) -> list[list[tuple[float, int]]]:
    """Check that candidates have the most probable first tokens, and rank them by the smoothed loss of all tokens."""
    smoothing = model.config.label_smoothing
    ranked = []
    for row in range(call["input_ids"].shape[0]):
        one = {name: value[row : row + 1] for name, value in call.items()}
        states = model(**one, decoder_input_ids=torch.tensor([[DEC]]))
        first = states.logits[0, 0].softmax(-1)
        probabilities = [float(first[ids[1]]) for ids in answers["answer_input_ids"].tolist()]
        chosen = candidates[row].tolist()
        # compared by probability, because answers with the same first token tie
        best = sorted(probabilities, reverse=True)[: len(chosen)]
        assert sorted((probabilities[number] for number in chosen), reverse=True) == pytest.approx(best, abs=1e-6)
        scores = []
        for number in chosen:
            ids = answers["answer_input_ids"][number]
            ids = ids[ids != PAD]
            logits = model(**one, decoder_input_ids=ids[None]).logits[0]
            total = 0.0
            for position in range(1, len(ids)):
                target = torch.full((VOCAB,), smoothing / VOCAB)
                target[ids[position]] += 1 - smoothing
                total += float(-(target * logits[position - 1].log_softmax(-1)).sum())
            scores.append((-total, number))
        ranked.append(sorted(scores, reverse=True))
    return ranked


@pytest.mark.parametrize("k", [1, 4, 6, 128])
@pytest.mark.parametrize("padded", [True, False])
def test_ranking_equals_reference(k: int, padded: bool) -> None:
    model = ANSWERING.model()
    call, answers = {"pixel_values": pixels(3), **texts(3, padded=padded)}, answer_list()
    with torch.no_grad():
        output = model.rank_answers(**call, **answers, num_candidates=k)
        expected = rank_reference(model, call, answers, output.candidates)
    assert output.candidates.shape == output.scores.shape == (3, min(k, 6))
    for row, ranked in enumerate(expected):
        assert output.best[row] == ranked[0][1]
        torch.testing.assert_close(
            output.scores[row], torch.tensor([score for score, _ in ranked]), atol=1e-4, rtol=1e-4
        )
        assert output.candidates[row].tolist() == [number for _, number in ranked]


def test_scores_equal_the_training_loss() -> None:
    model = ANSWERING.model()
    call, answers = {"pixel_values": pixels(2), **texts(2)}, answer_list()
    output = model.rank_answers(**call, **answers)
    for row in range(2):
        labels = answers["answer_input_ids"][output.best[row]]
        labels = labels.masked_fill(labels == PAD, -100)[None]
        one = {name: value[row : row + 1] for name, value in call.items()}
        torch.testing.assert_close(
            model(**one, labels=labels).loss.detach(), -output.scores[row, 0], atol=1e-4, rtol=1e-4
        )


def test_labels_may_leave_out_the_start_token() -> None:
    model = ANSWERING.model()
    call, labels = {"pixel_values": pixels(2), **texts(2)}, torch.tensor([[DEC, 10, 11, SEP], [DEC, 14, SEP, -100]])
    expected = model(**call, labels=labels).loss
    assert model(**call, labels=labels.masked_fill(labels == DEC, -100)).loss == expected


def test_ids_of_32_bits() -> None:
    model, call, answers = ANSWERING.model(), {"pixel_values": pixels(2), **texts(2)}, answer_list()
    expected = model.rank_answers(**call, **answers, num_candidates=3)
    narrow = {name: value.int() for name, value in {**answers, **texts(2)}.items()}
    found = model.rank_answers(pixel_values=pixels(2), **narrow, num_candidates=3)
    assert torch.equal(found.scores, expected.scores)


def test_label_smoothing_changes_scores() -> None:
    call, answers = {"pixel_values": pixels(2), **texts(2)}, answer_list()
    smooth = ANSWERING.model().rank_answers(**call, **answers)
    plain = ANSWERING.model(label_smoothing=0.0).rank_answers(**call, **answers)
    assert not torch.allclose(smooth.scores, plain.scores)


def test_order_and_padding_of_the_answer_list() -> None:
    model = ANSWERING.model()
    call, answers = {"pixel_values": pixels(2), **texts(2)}, answer_list()
    output = model.rank_answers(**call, **answers)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    shuffled = model.rank_answers(**call, **{name: F.pad(value, (0, 2))[order] for name, value in answers.items()})
    assert torch.equal(order[shuffled.candidates], output.candidates)
    torch.testing.assert_close(shuffled.scores, output.scores)
    answers.pop("answer_attention_mask")
    torch.testing.assert_close(model.rank_answers(**call, **answers).scores, output.scores)


def test_answers_of_one_token_without_end_token() -> None:
    model = ANSWERING.model()
    ids = torch.tensor([[DEC, 10], [DEC, 20]])
    output = model.rank_answers(pixels(2), **texts(2), answer_input_ids=ids)
    assert output.candidates.shape == (2, 2) and bool(output.scores.isfinite().all())


def test_keys_of_a_question_are_projected_once() -> None:
    model = ANSWERING.model()
    rows: list[int] = []
    key = model.text_decoder.bert.encoder.layer[0].crossattention.self.key
    key.register_forward_hook(lambda module, args, output: rows.append(args[0].shape[0]))
    model.rank_answers(pixels(2), **texts(2), **answer_list())
    assert rows == [2]


def test_invalid_answer_lists_raise() -> None:
    model, call = ANSWERING.model(), {"pixel_values": pixels(2), **texts(2)}
    with pytest.raises(ValueError, match="answer_input_ids"):
        model.rank_answers(**call)
    with pytest.raises(ValueError, match="num_candidates is 0"):
        model.rank_answers(**call, **answer_list(), num_candidates=0)
    with pytest.raises(ValueError, match="at least one answer"):
        model.rank_answers(**call, answer_input_ids=torch.empty(0, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="at least one answer"):
        model.rank_answers(**call, answer_input_ids=torch.full((3, 1), DEC))
    with pytest.raises(ValueError, match="1 images and 2 questions"):
        model.rank_answers(pixels(1), **texts(2), **answer_list())


@pytest.mark.parametrize("min_group, max_tokens", [(1, 4096), (2, 4096), (1, 1), (2, 12), (3, 20)])
def test_group_sizes_do_not_change_scores(monkeypatch: pytest.MonkeyPatch, min_group: int, max_tokens: int) -> None:
    model = ANSWERING.model()
    call, answers = {"pixel_values": pixels(2), **texts(2)}, answer_list()
    with torch.no_grad():
        expected = model.rank_answers(**call, **answers, num_candidates=6)
        monkeypatch.setattr(task_question_answering, "_MIN_GROUP", min_group)
        monkeypatch.setattr(task_question_answering, "_MAX_TOKENS", max_tokens)
        output = model.rank_answers(**call, **answers, num_candidates=6)
    assert torch.equal(output.candidates, expected.candidates)
    assert torch.allclose(output.scores, expected.scores, atol=1e-5)


def test_group_sizes() -> None:
    group = task_question_answering._group_sizes
    assert group([3] * 64 + [4] * 21 + [5] * 43, batch=2) == [64, 21, 43]
    assert group([3] * 20 + [4] * 3 + [5] * 20, batch=1) == [20, 23], "a small group joins the next one"
    assert group([3] * 20 + [4] * 3, batch=1) == [23], "a small last group joins the one before"
    assert group([4] * 40, batch=64) == [16, 24], "many questions: smallest groups"
    assert group([4] * 40, batch=4096) == [16, 24]
    assert group([2], batch=1) == [1]
