"""Beam search with the original's rules, against a plain reference implementation."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.contract import perturb
from tests.models.lavis_blip_cases import CAPTIONING, CLS, DEC, PAD, SEP, pixels

Hypothesis = tuple[float, list[int]]


def best_first(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    return sorted(hypotheses, key=lambda one: one[0], reverse=True)


def reference_beam_search(
    model: Any, states: Tensor, prompt: list[int], beams: int, length: int, penalty: float
) -> Any:
    """Best hypotheses with their scores for the hidden states `(1, N, D)` of one image, best first."""
    unfinished: list[Hypothesis] = [(0.0, prompt)]
    finished: list[Hypothesis] = []
    for size in range(len(prompt), length):
        ids = torch.tensor([tokens for _, tokens in unfinished])
        with torch.no_grad():
            logits = model(encoder_outputs=(states.expand(len(ids), -1, -1),), decoder_input_ids=ids).logits[:, -1]
        steps = logits.log_softmax(dim=-1).tolist()
        candidates = best_first(
            [
                (total + log_probability, [*tokens, token])
                for (total, tokens), row in zip(unfinished, steps, strict=True)
                for token, log_probability in enumerate(row)
            ]
        )[: 2 * beams]
        newly_finished = [(total / size**penalty, tokens) for total, tokens in candidates[:beams] if tokens[-1] == SEP]
        finished = best_first(finished + newly_finished)[:beams]
        unfinished = [one for one in candidates if one[1][-1] != SEP][:beams]
        if len(finished) == beams and finished[-1][0] >= candidates[0][0] / size**penalty:
            return finished
    truncated = [(total / length**penalty, tokens) for total, tokens in unfinished]
    return best_first(finished + truncated)[:beams]


def peaked_model(seed: int) -> Any:
    """A model with peaked token distributions; the greater the seed, the earlier captions end."""
    torch.manual_seed(seed)
    model = CAPTIONING.model()
    for _ in range(4):
        perturb(model)
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[SEP] += seed / 2
    return model


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("beams", [2, 3])
def test_beam_search_equals_reference(beams: int, penalty: float) -> None:
    lengths = set()
    for seed in range(8):
        model = peaked_model(seed)
        images, prompt = pixels(2), [DEC, 10]
        for length in (4, 9):
            found = model.generate(
                images,
                input_ids=torch.tensor([[CLS, 10, SEP]]).expand(2, -1),
                num_beams=beams,
                num_return_sequences=beams,
                max_length=length,
                min_length=0,
                length_penalty=penalty,
                return_dict_in_generate=True,
                output_scores=True,
            )
            expected = []
            for image in images:
                states = model.encode_images(image[None])
                expected += reference_beam_search(model, states, prompt, beams, length, penalty)
            scores = torch.tensor([score for score, _ in expected])
            torch.testing.assert_close(found.sequences_scores, scores, atol=1e-4, rtol=1e-4)
            for ids, (_, tokens) in zip(found.sequences.tolist(), expected, strict=True):
                assert ids == tokens + [PAD] * (len(ids) - len(tokens))
                lengths.add(len(tokens))
    assert len(lengths) > 2, "no hypothesis finished before max_length"


@pytest.mark.parametrize("penalty", [-1.0, 1.0])
def test_beam_search_rows_are_independent(penalty: float) -> None:
    images, long_prompt, short_prompt = pixels(2), [CLS, 10, 11, 12, 13, 14, SEP], [CLS, 10, SEP]
    rows = torch.tensor([long_prompt, short_prompt + [PAD] * 4])
    options = {"num_beams": 3, "length_penalty": penalty, "return_dict_in_generate": True, "output_scores": True}
    for seed in range(6):
        model = peaked_model(seed)
        both = model.generate(images, input_ids=rows, max_new_tokens=7, **options)
        for row, prompt in enumerate((long_prompt, short_prompt)):
            alone = model.generate(images[row : row + 1], input_ids=torch.tensor([prompt]), max_new_tokens=7, **options)
            torch.testing.assert_close(both.sequences_scores[row], alone.sequences_scores[0], atol=1e-4, rtol=1e-4)
            assert [id for id in both.sequences[row].tolist() if id != PAD] == [
                id for id in alone.sequences[0].tolist() if id != PAD
            ]
