"""Beam search by the original's rules, against the same rules written down plainly.

Letters: B images, n beams, T tokens.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.contract import shake
from tests.models.lavis_blip_cases import CAPTIONING, CLS, DEC, PAD, SEP, pixels

Hypothesis = tuple[float, list[int]]


def best_first(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    return sorted(hypotheses, key=lambda one: one[0], reverse=True)


def written_down(model: Any, states: Tensor, prompt: list[int], beams: int, length: int, penalty: float) -> Any:
    """Finished hypotheses with their scores for the states (1, N, D) of one image, best first."""
    going_on: list[Hypothesis] = [(0.0, prompt)]
    finished: list[Hypothesis] = []
    for size in range(len(prompt), length):
        ids = torch.tensor([words for _, words in going_on])
        with torch.no_grad():
            logits = model(encoder_outputs=(states.expand(len(ids), -1, -1),), decoder_input_ids=ids).logits[:, -1]
        steps = logits.log_softmax(dim=-1).tolist()
        candidates = best_first(
            [
                (total + chance, [*words, word])
                for (total, words), row in zip(going_on, steps, strict=True)
                for word, chance in enumerate(row)
            ]
        )[: 2 * beams]
        ended = [(total / size**penalty, words) for total, words in candidates[:beams] if words[-1] == SEP]
        finished = best_first(finished + ended)[:beams]
        going_on = [one for one in candidates if one[1][-1] != SEP][:beams]
        if len(finished) == beams and finished[-1][0] >= candidates[0][0] / size**penalty:
            return finished
    cut_off = [(total / length**penalty, words) for total, words in going_on]
    return best_first(finished + cut_off)[:beams]


def opinionated_model(seed: int) -> Any:
    """One with clear winners, which ends its captions the earlier the greater the seed."""
    torch.manual_seed(seed)
    model = CAPTIONING.model()
    for _ in range(4):
        shake(model)
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[SEP] += seed / 2
    return model


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("beams", [2, 3])
def test_beams_end_where_the_original_ends(beams: int, penalty: float) -> None:
    lengths = set()
    for seed in range(8):
        model = opinionated_model(seed)
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
            wanted = []
            for image in images:
                states = model.encode_images(image[None])
                wanted += written_down(model, states, prompt, beams, length, penalty)
            scores = torch.tensor([score for score, _ in wanted])
            torch.testing.assert_close(found.sequences_scores, scores, atol=1e-4, rtol=1e-4)
            for ids, (_, words) in zip(found.sequences.tolist(), wanted, strict=True):
                assert ids == words + [PAD] * (len(ids) - len(words))
                lengths.add(len(words))
    assert len(lengths) > 2, "nothing ended early"


@pytest.mark.parametrize("penalty", [-1.0, 1.0])
def test_beams_do_not_depend_on_the_prompts_of_other_rows(penalty: float) -> None:
    images, long, short = pixels(2), [CLS, 10, 11, 12, 13, 14, SEP], [CLS, 10, SEP]
    rows = torch.tensor([long, short + [PAD] * 4])
    options = {"num_beams": 3, "length_penalty": penalty, "return_dict_in_generate": True, "output_scores": True}
    for seed in range(6):
        model = opinionated_model(seed)
        both = model.generate(images, input_ids=rows, max_new_tokens=7, **options)
        for row, prompt in enumerate((long, short)):
            alone = model.generate(images[row : row + 1], input_ids=torch.tensor([prompt]), max_new_tokens=7, **options)
            torch.testing.assert_close(both.sequences_scores[row], alone.sequences_scores[0], atol=1e-4, rtol=1e-4)
            assert [id for id in both.sequences[row].tolist() if id != PAD] == [
                id for id in alone.sequences[0].tolist() if id != PAD
            ]
