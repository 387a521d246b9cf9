"""BLIP-2's second stage: prompts, language models of several architectures, generation, bad input."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.modeling_utils import load_state_dict

from modeling_lavis import LavisBlip2Config, LavisBlip2ForConditionalGeneration, LavisBlip2ForPreTraining
from modeling_lavis.hub.convert import convert
from tests.conversion.golden_sets import GOLDENS
from tests.conversion.test_blip_2 import conversion_arguments
from tests.models.contract import perturb
from tests.models.lavis_blip_2_cases import LANGUAGE_MODELS, QUERIES, blip_2_config, pixels, prompts, second_stage


@pytest.mark.parametrize("kind", ["opt", "llama", "gpt2", "t5", "bart"])
def test_language_models(kind: str) -> None:
    """Gradients, padded prompts against single prompts, several sequences per image."""
    model = second_stage(kind)
    seq2seq, pad = model.config.is_encoder_decoder, LANGUAGE_MODELS[kind]["pad_token_id"]
    made = prompts(2, pad=pad, side="right" if seq2seq else "left")
    call = {"pixel_values": pixels(2), **made}
    labels = made["input_ids"].masked_fill(made["attention_mask"] == 0, -100)
    output = model(**call, labels=labels)
    output.loss.backward()
    assert output.logits.shape[1] == labels.shape[1] + (0 if seq2seq else QUERIES)
    assert model.query_tokens.grad.abs().sum() > 0 and model.language_projection.weight.grad.abs().sum() > 0
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "eos_token_id": 58}
    both = model.generate(**call, **options)
    for row in range(2):
        real = made["attention_mask"][row].bool()
        single = model.generate(
            pixel_values=call["pixel_values"][row : row + 1],
            input_ids=made["input_ids"][row : row + 1, real],
            **options,
        )
        assert torch.equal(single[0, -4:], both[row, -4:]), "padding changed the output"
    several = model.generate(**call, max_new_tokens=4, num_beams=3, num_return_sequences=2)
    assert several.shape[0] == 4
    sampled = model.generate(**call, max_new_tokens=4, do_sample=True, top_p=0.9, num_return_sequences=3)
    assert sampled.shape[0] == 6


@pytest.mark.parametrize("kind", ["opt", "llama", "gpt2", "bart"])
def test_prompts_beyond_the_position_embeddings_raise(kind: str) -> None:
    model = second_stage(kind)
    with pytest.raises(ValueError, match="60 tokens, 64 with the query tokens, .* 40 position"):
        model.generate(pixel_values=pixels(1), input_ids=torch.full((1, 60), 7))


def test_beam_search_rows_are_independent() -> None:
    options = {"num_beams": 4, "max_new_tokens": 6, "return_dict_in_generate": True, "output_scores": True}
    batch = prompts(4, pad=1)  # every second row is shorter
    for seed in range(3):
        model = second_stage("opt").eval()
        model.language_model.lm_head.weight.data[2] += seed * 0.1
        whole = model.generate(pixel_values=pixels(4, seed), **batch, **options)
        for row in range(4):
            own = {
                name: value[row : row + 1, -int(batch["attention_mask"][row].sum()) :] for name, value in batch.items()
            }
            alone = model.generate(pixel_values=pixels(4, seed)[row : row + 1], **own, **options)
            torch.testing.assert_close(whole.sequences_scores[row], alone.sequences_scores[0])
            length = alone.sequences.shape[1] - own["input_ids"].shape[1]
            assert whole.sequences[row, 5 : 5 + length].tolist() == alone.sequences[0, -length:].tolist()


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_lengths_of_the_call_override_the_generation_config(kind: str) -> None:
    model = second_stage(kind)
    model.generation_config.max_new_tokens, model.generation_config.min_new_tokens = 12, 10
    short = model.generate(pixel_values=pixels(1), **prompts(1), max_length=8, min_length=7)
    assert 7 <= short.shape[1] <= 8


def test_relative_positions_have_no_length_limit() -> None:
    ids = second_stage("t5").generate(pixel_values=pixels(1), input_ids=torch.full((1, 600), 7), max_new_tokens=3)
    assert ids.shape[0] == 1


def test_missing_images_and_unknown_image_encoders_raise() -> None:
    model = second_stage("opt")
    with pytest.raises(ValueError, match="pixel_values is missing"):
        model(**prompts(1))
    with pytest.raises(ValueError, match="expected one of lavis_eva, lavis_clip_vision"):
        LavisBlip2Config(vision_config={"model_type": "resnet"})


@pytest.mark.parametrize("decoder_layers", [1, 3])
def test_decoder_and_encoder_of_different_depth(decoder_layers: int) -> None:
    """Greedy generation with a cache equals the argmax of the logits of whole sequences."""
    config = blip_2_config(language_model="t5")
    config.text_config.num_decoder_layers = decoder_layers
    model = LavisBlip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        perturb(model)
    inputs = {"pixel_values": pixels(2), **prompts(2, side="right", pad=0)}
    ids = model.generate(**inputs, num_beams=1, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    logits = model(**inputs, decoder_input_ids=ids[:, :-1]).logits
    logits[..., config.text_config.eos_token_id] = -torch.inf
    assert torch.equal(logits.argmax(-1), ids[:, 1:])
    assert torch.equal(ids, model.generate(**inputs, num_beams=1, max_new_tokens=5, min_new_tokens=5, use_cache=False))


def test_llama_left_padding_and_several_sequences() -> None:
    model = second_stage("llama")
    ids = model.generate(
        pixel_values=pixels(2), **prompts(2, pad=0), max_new_tokens=4, num_return_sequences=2, num_beams=2
    )
    assert ids.shape[0] == 4
    single = model.generate(
        pixel_values=pixels(2)[1:], input_ids=prompts(2)["input_ids"][1:, 2:], max_new_tokens=4, do_sample=False
    )
    both = model.generate(pixel_values=pixels(2), **prompts(2, pad=0), max_new_tokens=4, do_sample=False)
    assert torch.equal(single[0, -4:], both[1, -4:]), "left padding changed the output"


def test_t5_takes_prompts_padded_on_either_side() -> None:
    model = second_stage("t5")
    left, right = prompts(2, side="left", pad=0), prompts(2, side="right", pad=0)
    count = int(left["attention_mask"][1].sum())
    assert count < left["attention_mask"].shape[1], "no row is padded"
    right["input_ids"][1, :count] = left["input_ids"][1, -count:]
    labels = torch.tensor([[5, 6, 1], [7, 8, 1]])
    outputs = [model(pixel_values=pixels(2), labels=labels, **made) for made in (left, right)]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits)
    ids = [model.generate(pixel_values=pixels(2), max_new_tokens=5, **made).tolist() for made in (left, right)]
    assert ids[0] == ids[1]


def test_t5_beams_are_padded_after_any_of_several_end_tokens() -> None:
    model = second_stage("t5")
    call: dict[str, Any] = {"pixel_values": pixels(4), "num_beams": 3, "max_new_tokens": 12}
    first = model.generate(**call)[0, 1:4].tolist()
    for ends in ([34, first[0]], [first[1], 34], [first[2], 1]):
        for row in model.generate(**call, eos_token_id=ends)[:, 1:].tolist():
            length = next((place for place, token in enumerate(row) if token in ends), len(row) - 1) + 1
            assert set(row[length:]) <= {0}, (ends, row)


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_labels_are_checked(kind: str) -> None:
    model, made = second_stage(kind), prompts(2)
    call = {"pixel_values": pixels(2), **made}
    with pytest.raises(ValueError, match="Got the label 999"):
        model(**call, labels=torch.full_like(made["input_ids"], 999))
    expected = model(**call, labels=made["input_ids"]).loss
    assert model(**call, labels=made["input_ids"].int()).loss == expected


def test_invalid_prompts_raise() -> None:
    model = second_stage("opt")
    long = torch.full((1, 60), 7)
    with pytest.raises(ValueError, match="has 40 position embeddings"):
        model.generate(pixel_values=pixels(1), input_ids=long)
    with pytest.raises(
        ValueError,
        match="beyond the 40 position embeddings .* prompt use 34",
    ):
        model.generate(pixel_values=pixels(1), input_ids=long[:, :30], max_new_tokens=20, min_new_tokens=20)
    with pytest.raises(ValueError, match="token id 60 .* from 0 to 59"):
        model.generate(pixel_values=pixels(1), input_ids=torch.full((1, 5), 60))
    placeholders = second_stage("opt", image_token_id=58)
    with pytest.raises(ValueError, match="needs 4 image placeholders .id 58.*found .3."):
        placeholders.generate(pixel_values=pixels(1), input_ids=torch.tensor([[58, 58, 58, 7]]))
    with pytest.raises(ValueError, match="Got 3 prompts for 2 images"):
        model.generate(pixel_values=pixels(2), **prompts(3))
    with pytest.raises(ValueError, match="generate needs pixel_values"):
        model.generate(**prompts(1))
    first_stage = LavisBlip2ForPreTraining(blip_2_config())
    with pytest.raises(ValueError, match="45 tokens, but the model has 40 position embeddings"):
        first_stage.generate(pixel_values=pixels(1), input_ids=long[:, :45])
    with pytest.raises(ValueError, match="no query_embeds"):
        first_stage.qformer(input_ids=torch.tensor([[2, 5, 3]]), encoder_hidden_states=torch.zeros(1, 5, 24))
    with pytest.raises(ValueError, match="have size 9"):
        first_stage.query_images(torch.zeros(1, 5, 9))


def test_missing_language_model_raises() -> None:
    with pytest.raises(ValueError, match="no language model"):
        LavisBlip2ForConditionalGeneration(blip_2_config())


def test_converted_flan_t5_has_an_untied_head_and_exact_gelu(tmp_path: Path) -> None:
    """transformers would tie the head to the embeddings; parity: the original runs T5 with the exact GELU."""
    convert(**conversion_arguments("blip2_t5", tmp_path / "out"))
    model = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float32)
    language_model = model.language_model
    assert language_model.config.dense_act_fn == "gelu"
    (weights,) = (load_state_dict(file) for file in (GOLDENS / "blip2_t5" / "llm").glob("*model.*"))
    head, embeddings = weights["lm_head.weight"].float(), weights["shared.weight"].float()
    assert not torch.equal(head, embeddings)
    assert torch.equal(language_model.lm_head.weight, head) and torch.equal(language_model.shared.weight, embeddings)
    model.save_pretrained(tmp_path / "again")
    again = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / "again", dtype=torch.float32)
    assert torch.equal(again.language_model.lm_head.weight, head), "the head was tied when saving"
    assert again.language_model.config.dense_act_fn == "gelu"


@pytest.mark.parametrize("kind", ["opt", "llama", "gpt2"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_padding_on_the_right_and_pad_tokens_without_a_mask(kind: str, options: dict[str, Any]) -> None:
    """The text continues after the last token of each prompt, wherever the padding is and whichever side masks it."""
    model = second_stage(kind)
    pad = model.config.text_config.pad_token_id
    left, right = prompts(3, side="left", pad=pad), prompts(3, side="right", pad=pad)
    for row in (1,):  # the same tokens on both sides
        right["input_ids"][row, :3] = left["input_ids"][row, 2:]
    pixel_values = pixels(3)
    expected = model.generate(pixel_values=pixel_values, **left, max_new_tokens=5, **options)
    for call in (right, {"input_ids": right["input_ids"]}, {"input_ids": left["input_ids"]}):
        actual = model.generate(pixel_values=pixel_values, **call, max_new_tokens=5, **options)
        assert actual.tolist() == expected.tolist()
    logits = model(pixel_values=pixel_values, **left).logits
    torch.testing.assert_close(model(pixel_values=pixel_values, input_ids=left["input_ids"]).logits, logits)


def test_a_pad_token_that_is_the_last_token_of_texts_is_a_token_without_a_mask() -> None:
    """As in GPT-2, where one token has both roles."""
    model = second_stage("gpt2")
    model.config.text_config.pad_token_id = model.config.text_config.eos_token_id
    ids = torch.tensor([[2, 7, 8], [9, 10, 2]])
    expected = model(pixel_values=pixels(2), input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(model(pixel_values=pixels(2), input_ids=ids).logits, expected)
