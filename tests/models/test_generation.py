"""Generation by transformers' `generate`: strategies, caches, prompts, and work that is done once per image.

Letters: B images, n beams or sequences per image.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from modeling_lavis.models.generation import as_prompt
from modeling_lavis.models.modeling_base import set_first_token
from tests.models.contract import Case, assert_same_state, shake
from tests.models.contract_training import Rows
from tests.models.lavis_blip_cases import ANSWERING, CAPTIONING, CLS, DEC, PAD, PRETRAINING, SEP, pixels, texts

GENERATORS = pytest.mark.parametrize("case", [CAPTIONING, PRETRAINING, ANSWERING], ids=lambda case: case.name)
STRATEGIES = {
    "greedy": {"do_sample": False},
    "beams": {"num_beams": 3},
    "several": {"num_beams": 4, "num_return_sequences": 2},
    "penalties": {"num_beams": 3, "repetition_penalty": 1.3, "length_penalty": 2.0, "no_repeat_ngram_size": 2},
}


def lively(case: Case, **options: Any) -> Any:
    """A model whose next words depend on image and text, and which ends some of its sentences."""
    model = case.model(**options)
    for _ in range(4):
        shake(model)
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[SEP] += 1.0
    return model


def inputs(case: Case, batch: int = 3) -> dict[str, Tensor]:
    """Pictures and, where they are read, questions."""
    made = {"pixel_values": pixels(batch)}
    return {**made, **texts(batch, padded=False)} if case is ANSWERING else made


def by_hand(model: Any, call: dict[str, Tensor], length: int) -> list[int]:
    """Greedy decoding of one row without cache or `generate`."""
    ids = torch.tensor([[DEC]])
    while ids.shape[1] < length:
        word = model(**call, decoder_input_ids=ids).logits[0, -1].argmax()
        ids = torch.cat([ids, word.view(1, 1)], dim=1)
        if word == SEP:
            break
    return ids[0].tolist()


@GENERATORS
def test_greedy_equals_decoding_by_hand(case: Case) -> None:
    model, call = lively(case), inputs(case)
    found = model.generate(**call, max_length=9, do_sample=False)
    assert found[:, 0].tolist() == [DEC] * 3
    rows = []
    for row in range(3):
        one = {name: value[row : row + 1] for name, value in call.items()}
        rows.append(by_hand(model, one, 9))
        assert found[row, : len(rows[-1])].tolist() == rows[-1]
        assert not found[row, len(rows[-1]) :].any()
    assert len({tuple(row) for row in rows}) > 1, "the pictures make no difference"


@GENERATORS
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_cache_makes_no_difference(case: Case, strategy: str) -> None:
    model, call = lively(case), inputs(case)
    options = {**STRATEGIES[strategy], "max_length": 8}
    expected = model.generate(**call, **options, use_cache=False)
    assert torch.equal(model.generate(**call, **options), expected)


@GENERATORS
def test_static_cache(case: Case) -> None:
    model, call = lively(case), inputs(case)
    expected = model.generate(**call, max_length=8, do_sample=False)
    found = model.generate(**call, max_length=8, do_sample=False, cache_implementation="static", disable_compile=True)
    assert torch.equal(found, expected)


@GENERATORS
def test_rows_and_beams_do_not_mix(case: Case) -> None:
    model, call = lively(case), inputs(case)
    options = {"num_beams": 3, "num_return_sequences": 3, "max_length": 8, "min_length": 8}
    together = model.generate(**call, **options)
    assert together.shape[0] == 9
    for row in range(3):
        one = {name: value[row : row + 1] for name, value in call.items()}
        alone = model.generate(**one, **options)
        assert torch.equal(together[3 * row : 3 * row + 3], alone)
        assert len({tuple(ids) for ids in alone.tolist()}) == 3


@GENERATORS
def test_first_of_several_beams_is_the_best(case: Case) -> None:
    model, call = lively(case), inputs(case)
    one = model.generate(**call, num_beams=4, max_length=8)
    several = model.generate(**call, num_beams=4, num_return_sequences=3, max_length=8)
    width = min(one.shape[1], several.shape[1])
    assert torch.equal(several[::3, :width], one[:, :width])


@GENERATORS
def test_sampling_follows_the_seed(case: Case) -> None:
    model, call = lively(case), inputs(case)
    options = {"do_sample": True, "top_p": 0.9, "num_return_sequences": 4, "max_length": 9, "min_length": 9}
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(model.generate(**call, **options))
    assert found[0].shape[0] == 12
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert len({tuple(ids) for ids in found[0].tolist()}) > 3


@GENERATORS
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}])
def test_images_are_projected_once(case: Case, options: dict[str, Any]) -> None:
    model, call = lively(case), inputs(case)
    towers: list[int] = []
    keys: list[int] = []
    model.vision_model.register_forward_hook(lambda module, args, output: towers.append(output[0].shape[0]))
    for layer in model.text_decoder.bert.encoder.layer:
        layer.crossattention.self.key.register_forward_hook(lambda m, args, output: keys.append(args[0].shape[0]))
    model.generate(**call, **options, max_length=7, min_length=7)
    assert towers == [3]
    assert keys == [3] * len(model.text_decoder.bert.encoder.layer)


@GENERATORS
@pytest.mark.parametrize("strategy", ["beams", "several"])
def test_prompts_run_once_per_image(case: Case, strategy: str) -> None:
    model, call = lively(case), inputs(case)
    rows: list[int] = []
    model.text_decoder.register_forward_hook(lambda module, args, output: rows.append(output[0].shape[0]))
    model.generate(**call, **STRATEGIES[strategy], max_length=5, min_length=5)
    assert rows == [3] + [3 * STRATEGIES[strategy]["num_beams"]] * 3


@pytest.mark.parametrize("case", [CAPTIONING, PRETRAINING], ids=lambda case: case.name)
@pytest.mark.parametrize("strategy", ["greedy", "beams"])
def test_prompts_of_unequal_length(case: Case, strategy: str) -> None:
    model, call = lively(case), inputs(case, 3)
    prompts = torch.tensor([[CLS, 10, 11, 12, SEP], [CLS, 13, SEP, PAD, PAD], [CLS, 14, 15, SEP, PAD]])
    mask = (prompts != PAD).long()
    options = {**STRATEGIES[strategy], "max_new_tokens": 5, "min_new_tokens": 5}
    together = model.generate(**call, input_ids=prompts, attention_mask=mask, **options)
    without_mask = model.generate(**call, input_ids=prompts, **options)
    assert torch.equal(together, without_mask)
    left = torch.tensor([[CLS, 10, 11, 12, SEP], [PAD, PAD, CLS, 13, SEP], [PAD, CLS, 14, 15, SEP]])
    assert torch.equal(model.generate(**call, input_ids=left, **options), together)
    for row, length in enumerate((4, 2, 3)):
        words = prompts[row : row + 1, :length]
        alone = model.generate(call["pixel_values"][row : row + 1], input_ids=words, **options)
        assert alone[0, 0] == DEC and alone[0, 1:length].tolist() == words[0, 1:].tolist()
        assert alone[0, length:].tolist() == together[row, -5:].tolist()


def test_prompts_are_left_as_they_are() -> None:
    model = lively(CAPTIONING)
    prompts = torch.tensor([[CLS, 10, 11, SEP]])
    model.generate(pixels(1), input_ids=prompts, max_new_tokens=3)
    assert prompts.tolist() == [[CLS, 10, 11, SEP]]
    ids, mask = as_prompt(prompts, None, DEC, SEP, PAD)
    assert ids.tolist() == [[DEC, 10, 11]] and mask is None
    empty, _ = as_prompt(torch.tensor([[PAD, PAD], [CLS, SEP]]), None, DEC, SEP, PAD)
    assert empty.tolist() == [[DEC], [DEC]]
    assert set_first_token(prompts, None) is prompts


def test_questions_of_unequal_length() -> None:
    """Answers depend on padding as the original's do, unless the configuration says otherwise."""
    call = {"pixel_values": pixels(3), **texts(3)}
    for attend in (True, False):
        model = lively(ANSWERING, attend_question_padding=attend)
        together = model.generate(**call, max_length=8, min_length=8, num_beams=2)
        alone = model.generate(
            call["pixel_values"][1:2], input_ids=call["input_ids"][1:2, :4], max_length=8, min_length=8, num_beams=2
        )
        if not attend:
            assert torch.equal(together[1:2], alone)
        mask = None if attend else call["attention_mask"]
        states = model.encode_questions(**call)
        scores = model(encoder_outputs=(states,), encoder_attention_mask=mask, decoder_input_ids=together[:, :3]).logits
        step = model.generate(**call, max_length=4, do_sample=False, return_dict_in_generate=True, output_logits=True)
        same = model(encoder_outputs=(states,), encoder_attention_mask=mask, decoder_input_ids=torch.full((3, 1), DEC))
        torch.testing.assert_close(step.logits[0], same.logits[:, -1], atol=1e-5, rtol=1e-4)
        assert scores.shape[:2] == (3, 3)


@GENERATORS
def test_recorded_states(case: Case) -> None:
    model, call = lively(case), inputs(case)
    model.set_attn_implementation("eager")
    output = model.generate(
        **call,
        max_length=5,
        min_length=5,
        do_sample=False,
        return_dict_in_generate=True,
        output_hidden_states=True,
        output_attentions=True,
        output_scores=True,
    )
    assert output.sequences.shape[1] == 5 and len(output.scores) == 4
    assert len(output.decoder_hidden_states) == len(output.cross_attentions) == len(output.decoder_attentions) == 4
    assert output.cross_attentions[0][0].shape[:3] == (3, 2, 1)


@GENERATORS
def test_training_inputs_are_ignored(case: Case) -> None:
    model, call = lively(case), inputs(case)
    extra = {"labels": torch.zeros(3, 4, dtype=torch.long), "image_ids": torch.arange(3), "return_loss": True}
    assert torch.equal(model.generate(**call, **extra, max_length=6), model.generate(**call, max_length=6))


@GENERATORS
def test_missing_inputs_are_named(case: Case) -> None:
    model = lively(case)
    with pytest.raises(ValueError, match="pixel_values"):
        model.generate(max_length=5)
    if case is ANSWERING:
        with pytest.raises(ValueError, match="input_ids"):
            model.generate(pixels(2), max_length=5)


@GENERATORS
def test_other_resolution(case: Case) -> None:
    model, call = lively(case), inputs(case)
    call["pixel_values"] = torch.randn(3, 3, 48, 48)
    assert model.generate(**call, interpolate_pos_encoding=True, max_length=5).shape[0] == 3
    with pytest.raises(ValueError, match="interpolate_pos_encoding"):
        model.generate(**call, max_length=5)


@GENERATORS
def test_saved_settings_of_generation(case: Case, tmp_path: Path) -> None:
    model, call = lively(case), inputs(case)
    expected = model.generate(**call, num_beams=3, max_length=8)
    model.generation_config.update(num_beams=3, max_length=8)
    model.save_pretrained(tmp_path)
    again = case.model_class.from_pretrained(tmp_path)
    assert_same_state(again, model)
    assert torch.equal(again.generate(**call), expected)


@GENERATORS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision(case: Case, dtype: torch.dtype) -> None:
    model, call = lively(case).to(dtype), inputs(case)
    assert model.generate(**call, num_beams=2, max_length=6).shape[0] == 3


class Pads:
    """What Seq2SeqTrainer asks its processing class for."""

    pad_token_id = PAD


@pytest.mark.parametrize("case", [CAPTIONING, ANSWERING], ids=lambda case: case.name)
def test_seq2seq_trainer_predicts_by_generating(case: Case, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    model = lively(case)
    batches = [{**case.inputs(3), **case.training(3)} for _ in range(2)]
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=str(tmp_path),
            predict_with_generate=True,
            generation_max_length=7,
            generation_num_beams=2,
            per_device_eval_batch_size=1,
            remove_unused_columns=False,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        data_collator=lambda rows: rows[0],
        eval_dataset=Rows(batches),
    )
    result = trainer.predict(Rows(batches))
    assert result.metrics["test_loss"] > 0
    assert result.predictions.shape[0] == 6 and not result.predictions[:, 7:].any()  # filled up with padding
    call = {name: value for name, value in batches[0].items() if name not in case.training(3)}
    if case is CAPTIONING:  # the prompt consists of the tokens that are no labels
        call["input_ids"], call["attention_mask"] = call["input_ids"][:, :2], call["attention_mask"][:, :2]
    wanted = model.generate(**call, num_beams=2, max_length=7)
    width = min(wanted.shape[1], result.predictions.shape[1])
    assert torch.equal(torch.as_tensor(result.predictions[:3, :width]), wanted[:, :width])
