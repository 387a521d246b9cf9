"""Both stages in the cases that a user meets: one pair alone, other language models, parts that do not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM
from transformers.modeling_utils import load_state_dict

from modeling_lavis import (
    LavisBlip2Config,
    LavisBlip2ForConditionalGeneration,
    LavisBlip2ForImageTextRetrieval,
    LavisBlip2ForPreTraining,
    LavisBlip2Model,
)
from modeling_lavis.hub.convert import convert
from tests.conversion.golden_sets import GOLDENS
from tests.conversion.test_blip_2_parts import parts
from tests.models.contract import shake
from tests.models.lavis_blip_2_cases import LANGUAGE_MODELS, QUERIES, blip_2_config, one_image, pixels, prompts, texts
from tests.models.lavis_blip_2_cases import second_stage as with_language_model

# ---- the first stage ----


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
    with pytest.raises(ValueError, match="qformer_config: num_query_tokens is 0; expected at least 1"):
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


# ---- the second stage ----


@pytest.mark.parametrize("kind", ["opt", "llama", "gpt2", "t5", "bart"])
def test_any_language_model(kind: str) -> None:
    """It learns, writes for prompts of unequal length as for each alone, and gives several texts for one picture."""
    model = with_language_model(kind)
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
        assert torch.equal(single[0, -4:], both[row, -4:]), "padding changes nothing"
    several = model.generate(**call, max_new_tokens=4, num_beams=3, num_return_sequences=2)
    assert several.shape[0] == 4
    sampled = model.generate(**call, max_new_tokens=4, do_sample=True, top_p=0.9, num_return_sequences=3)
    assert sampled.shape[0] == 6


@pytest.mark.parametrize("kind", ["opt", "llama", "gpt2", "bart"])
def test_prompts_longer_than_the_positions(kind: str) -> None:
    model = with_language_model(kind)
    with pytest.raises(ValueError, match="60 tokens, 64 with the query tokens, .* 40 position"):
        model.generate(pixel_values=pixels(1), input_ids=torch.full((1, 60), 7))


def test_rows_of_a_batch_with_beams_are_those_of_single_calls() -> None:
    options = {"num_beams": 4, "max_new_tokens": 6, "return_dict_in_generate": True, "output_scores": True}
    batch = prompts(4, pad=1)  # every second one is shorter
    for seed in range(3):
        model = with_language_model("opt").eval()
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
def test_lengths_of_the_call_beat_those_of_the_repository(kind: str) -> None:
    model = with_language_model(kind)
    model.generation_config.max_new_tokens, model.generation_config.min_new_tokens = 12, 10
    short = model.generate(pixel_values=pixels(1), **prompts(1), max_length=8, min_length=7)
    assert 7 <= short.shape[1] <= 8


def test_relative_positions_have_no_end() -> None:
    ids = with_language_model("t5").generate(
        pixel_values=pixels(1), input_ids=torch.full((1, 600), 7), max_new_tokens=3
    )
    assert ids.shape[0] == 1


def test_a_text_without_pictures_is_no_input() -> None:
    model = with_language_model("opt")
    with pytest.raises(ValueError, match="pixel_values is missing"):
        model(**prompts(1))
    with pytest.raises(ValueError, match="expected one of lavis_eva, lavis_clip_vision"):
        LavisBlip2Config(vision_config={"model_type": "resnet"})


def test_parts_of_other_widths_are_named(tmp_path: Path) -> None:
    model = with_language_model("opt")
    LavisBlip2Model(blip_2_config(vision={"hidden_size": 32})).vision_model.save_pretrained(tmp_path / "tower")
    sizes = {**LANGUAGE_MODELS["opt"], "hidden_size": 32, "word_embed_proj_dim": 32}
    del sizes["model_type"]
    OPTForCausalLM(OPTConfig(**sizes)).save_pretrained(tmp_path / "opt")
    for name, folder in (("vision_model", "tower"), ("language_model", "opt")):
        model.save_pretrained(tmp_path / name, frozen_parts={name: str(tmp_path / folder)})
        with pytest.raises(ValueError, match=f"{name} .*{folder}.*does not fit.*trained with"):
            LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / name)


def test_flan_t5_keeps_its_head_and_the_exact_gelu(tmp_path: Path) -> None:
    """transformers would tie the head to the words; the original runs T5 with the exact GELU."""
    convert(**parts("blip2_t5", tmp_path / "out"))
    model = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float32)
    language = model.language_model
    assert language.config.dense_act_fn == "gelu"
    (weights,) = (load_state_dict(file) for file in (GOLDENS / "blip2_t5" / "llm").glob("*model.*"))
    head, words = weights["lm_head.weight"].float(), weights["shared.weight"].float()
    assert not torch.equal(head, words)
    assert torch.equal(language.lm_head.weight, head) and torch.equal(language.shared.weight, words)
    model.save_pretrained(tmp_path / "again")
    again = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / "again", dtype=torch.float32)
    assert torch.equal(again.language_model.lm_head.weight, head), "saving keeps it apart"
    assert again.language_model.config.dense_act_fn == "gelu"
