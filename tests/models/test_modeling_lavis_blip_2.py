"""Both stages in the cases that a user meets: one pair alone, other language models, parts that do not fit."""

from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from modeling_lavis import LavisBlip2ForImageTextRetrieval, LavisBlip2ForPreTraining
from tests.models.contract import shake
from tests.models.lavis_blip_2_cases import QUERIES, blip_2_config, one_image, pixels, texts


@pytest.mark.parametrize("objective", ["main", "1.0.2"])
@pytest.mark.parametrize("head", [LavisBlip2ForPreTraining, LavisBlip2ForImageTextRetrieval])
def test_one_pair_alone_learns(head: Any, objective: str) -> None:
    """No process group, no negatives: contrast has nothing to tell apart, the pair still learns that it matches."""
    assert not torch.distributed.is_initialized()
    torch.manual_seed(0)
    model = head(blip_2_config(objective=objective)).train()
    output = model(**one_image(1, padded=False), image_ids=torch.tensor([4]), return_loss=True)
    output.loss.backward()
    assert output.loss_itc.item() == pytest.approx(0, abs=1e-6) and output.loss_itm > 0
    assert output.logits.shape == (1, 2)
    for name, value in model.named_parameters():
        assert value.grad is None or bool(value.grad.isfinite().all()), name
    assert model.itm_head.weight.grad.abs().sum() > 0 and model.query_tokens.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2}])
def test_the_qformer_captions_with_prompts_of_several_lengths(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = LavisBlip2ForPreTraining(blip_2_config()).eval()
    shake(model)
    rows = texts(2)  # the second one is shorter
    for seed in range(3):
        images = pixels(2, seed)
        whole = model.generate(images, **rows, max_new_tokens=5, **options)
        each = len(whole) // 2
        for row in range(2):
            own = {name: value[row : row + 1, : int(rows["attention_mask"][row].sum())] for name, value in rows.items()}
            alone = model.generate(images[row : row + 1], **own, max_new_tokens=5, **options)
            for one, other in zip(whole[row * each : (row + 1) * each].tolist(), alone.tolist(), strict=True):
                assert [word for word in one if word] == [word for word in other if word]


def test_an_image_is_needed_and_has_queries() -> None:
    model = LavisBlip2ForPreTraining(blip_2_config())
    with pytest.raises(ValueError, match="pixel_values is missing"):
        model(**texts(2), return_loss=True)
    with pytest.raises(ValueError, match="input_ids is missing"):
        model(pixel_values=pixels(2), return_loss=True)
    with pytest.raises(ValueError, match="no query_embeds"):
        model.qformer(**texts(1), encoder_hidden_states=torch.zeros(1, 5, 24))
    with pytest.raises(ValueError, match="no encoder_hidden_states"):
        model.qformer(query_embeds=torch.zeros(1, QUERIES, 16))
    with pytest.raises(StrictDataclassClassValidationError, match="num_query_tokens is 0; expected at least 1"):
        blip_2_config({"num_query_tokens": 0})
    with pytest.raises(ValueError, match="2 images and 3 texts"):
        model(pixel_values=pixels(2), **texts(3), return_loss=True)
    with pytest.raises(ValueError, match="45 tokens, but the model has 40 position embeddings"):
        model(pixel_values=pixels(1), input_ids=torch.full((1, 45), 7))


def test_texts_that_come_again_are_read_once_before_the_image() -> None:
    model = LavisBlip2ForImageTextRetrieval(blip_2_config()).eval()
    states, words, index = model.encode_images(pixels(2)), texts(3), torch.tensor([2, 0, 1, 2, 0, 0])
    rows = {name: value[index] for name, value in words.items()}
    expected, output = model.match(states, **rows, queries_only=False)
    seen: list[int] = []
    model.qformer.encoder.layer[0].attention.register_forward_hook(lambda m, args, out: seen.append(out.shape[0]))
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        found, other = model.match(states, **words, text_index=index, queries_only=False)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(other.last_hidden_state, output.last_hidden_state)
    assert seen == [3, 3]
    with pytest.raises(ValueError, match="text_index needs query_embeds and input_ids"):
        model.qformer(**words, text_index=index)
