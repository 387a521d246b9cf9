"""BLIP-2's first stage: batches of one, captioning with the Q-Former, invalid inputs, repeated texts."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from modeling_lavis import LavisBlip2ForImageTextRetrieval, LavisBlip2ForPreTraining
from tests.models.contract import perturb
from tests.models.lavis_blip_2_cases import (
    CLS,
    DEC,
    PAD,
    PRETRAINING,
    QUERIES,
    SEP,
    blip_2_config,
    one_image,
    pixels,
    texts,
)


@pytest.mark.parametrize("objective", ["main", "1.0.2"])
@pytest.mark.parametrize("head", [LavisBlip2ForPreTraining, LavisBlip2ForImageTextRetrieval])
def test_batch_of_one_in_training(head: Any, objective: str) -> None:
    """Without negatives, the ITC loss is zero and the ITM loss sees the positive pair."""
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
def test_qformer_generation_rows_are_independent(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = LavisBlip2ForPreTraining(blip_2_config()).eval()
    perturb(model)
    rows = texts(2)  # the second row is shorter
    for seed in range(3):
        images = pixels(2, seed)
        whole = model.generate(images, **rows, max_new_tokens=5, **options)
        num_sequences = len(whole) // 2
        for row in range(2):
            own = {name: value[row : row + 1, : int(rows["attention_mask"][row].sum())] for name, value in rows.items()}
            alone = model.generate(images[row : row + 1], **own, max_new_tokens=5, **options)
            for one, other in zip(
                whole[row * num_sequences : (row + 1) * num_sequences].tolist(), alone.tolist(), strict=True
            ):
                assert [token for token in one if token] == [token for token in other if token]


def test_missing_and_mismatched_inputs_raise() -> None:
    model = LavisBlip2ForPreTraining(blip_2_config())
    with pytest.raises(ValueError, match="pixel_values is missing"):
        model(**texts(2), return_loss=True)
    with pytest.raises(ValueError, match="input_ids is missing"):
        model(pixel_values=pixels(2), return_loss=True)
    with pytest.raises(ValueError, match="no query_embeds"):
        model.qformer(**texts(1), encoder_hidden_states=torch.zeros(1, 5, 24))
    with pytest.raises(ValueError, match="no encoder_hidden_states"):
        model.qformer(query_embeds=torch.zeros(1, QUERIES, 16))
    with pytest.raises(ValueError, match="qformer_config: num_query_tokens is 0; expected at least 1"):
        blip_2_config({"num_query_tokens": 0})
    with pytest.raises(ValueError, match="2 images and 3 texts"):
        model(pixel_values=pixels(2), **texts(3), return_loss=True)
    with pytest.raises(ValueError, match="45 tokens, but the model has 40 position embeddings"):
        model(pixel_values=pixels(1), input_ids=torch.full((1, 45), 7))


def test_repeated_texts_run_once_below_cross_attention() -> None:
    model = LavisBlip2ForImageTextRetrieval(blip_2_config()).eval()
    states, text_inputs, index = model.encode_images(pixels(2)), texts(3), torch.tensor([2, 0, 1, 2, 0, 0])
    rows = {name: value[index] for name, value in text_inputs.items()}
    expected, output = model.match(states, **rows, queries_only=False)
    seen: list[int] = []
    model.qformer.encoder.layer[0].attention.register_forward_hook(lambda m, args, out: seen.append(out.shape[0]))
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        found, other = model.match(states, **text_inputs, text_index=index, queries_only=False)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(other.last_hidden_state, output.last_hidden_state)
    assert seen == [3, 3]
    with pytest.raises(ValueError, match="text_index needs query_embeds and input_ids"):
        model.qformer(**text_inputs, text_index=index)


def test_captions_of_layers_that_cache_nothing() -> None:
    model = PRETRAINING.model()
    ids = torch.tensor([[DEC, 5, 6, 7], [DEC, 8, 9, PAD], [DEC, 5, 6, 9], [DEC, 8, 9, 5]])
    mask = F.pad(ids != PAD, (model.config.num_query_tokens, 0), value=True).long()
    call = {"pixel_values": pixels(2), "decoder_input_ids": ids, "decoder_attention_mask": mask}
    expected = model(**call).logits
    model.gradient_checkpointing_enable()
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    found = model(**call).logits
    torch.testing.assert_close(found[mask[:, -4:] == 1], expected[mask[:, -4:] == 1])
    found.sum().backward()


def test_guidance_of_padded_prompts() -> None:
    model = PRETRAINING.model()
    ids = torch.tensor([[CLS, 7, 8, 9, SEP], [CLS, 7, 8, SEP, PAD]])
    options: dict[str, Any] = {"guidance_scale": 2.0, "max_new_tokens": 3}
    options.update(return_dict_in_generate=True, output_scores=True)
    both = model.generate(pixel_values=pixels(2), input_ids=ids, attention_mask=(ids != PAD).long(), **options)
    alone = model.generate(pixel_values=pixels(2)[1:], input_ids=ids[1:, :4], **options)
    found, (expected,) = both.sequences[1, 1:].tolist(), alone.sequences.tolist()
    # the first text can be longer; the second one is padded to its length
    assert found == expected + [PAD] * (len(found) - len(expected))
    torch.testing.assert_close(both.scores[0][1], alone.scores[0][0])
