"""`generate`: decoding strategies, caches, prompts, and computation once per image."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from modeling_lavis.models.generation import as_prompt
from modeling_lavis.models.modeling_base import set_first_token
from tests.models import lavis_blip_2_cases
from tests.models.contract import Case, assert_same_state, perturb
from tests.models.contract_training import BatchDataset
from tests.models.lavis_blip_cases import ANSWERING, CAPTIONING, CLS, DEC, PAD, PRETRAINING, SEP, pixels, texts

GENERATORS = pytest.mark.parametrize("case", [CAPTIONING, PRETRAINING, ANSWERING], ids=lambda case: case.name)
STRATEGIES = {
    "greedy": {"do_sample": False},
    "beams": {"num_beams": 3},
    "several": {"num_beams": 4, "num_return_sequences": 2},
    "penalties": {"num_beams": 3, "repetition_penalty": 1.3, "length_penalty": 2.0, "no_repeat_ngram_size": 2},
}


def perturbed_model(case: Case, **options: Any) -> Any:
    """A model whose next tokens depend on image and text, and which generates some end tokens."""
    model = case.model(**options)
    for _ in range(4):
        perturb(model)
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[SEP] += 1.0
    return model


def inputs(case: Case, batch: int = 3) -> dict[str, Tensor]:
    """Images and, for question answering, questions."""
    made = {"pixel_values": pixels(batch)}
    return {**made, **texts(batch, padded=False)} if case is ANSWERING else made


def greedy_reference(model: Any, call: dict[str, Tensor], length: int) -> list[int]:
    """Greedy decoding of one row without cache and `generate`."""
    ids = torch.tensor([[DEC]])
    while ids.shape[1] < length:
        token = model(**call, decoder_input_ids=ids).logits[0, -1].argmax()
        ids = torch.cat([ids, token.view(1, 1)], dim=1)
        if token == SEP:
            break
    return ids[0].tolist()


@GENERATORS
def test_greedy_equals_reference(case: Case) -> None:
    model, call = perturbed_model(case), inputs(case)
    found = model.generate(**call, max_length=9, do_sample=False)
    assert found[:, 0].tolist() == [DEC] * 3
    rows = []
    for row in range(3):
        one = {name: value[row : row + 1] for name, value in call.items()}
        rows.append(greedy_reference(model, one, 9))
        assert found[row, : len(rows[-1])].tolist() == rows[-1]
        assert not found[row, len(rows[-1]) :].any()
    assert len({tuple(row) for row in rows}) > 1, "the output does not depend on the image"


@GENERATORS
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_cache_does_not_change_outputs(case: Case, strategy: str) -> None:
    model, call = perturbed_model(case), inputs(case)
    options = {**STRATEGIES[strategy], "max_length": 8}
    expected = model.generate(**call, **options, use_cache=False)
    assert torch.equal(model.generate(**call, **options), expected)


@GENERATORS
def test_static_cache(case: Case) -> None:
    model, call = perturbed_model(case), inputs(case)
    expected = model.generate(**call, max_length=8, do_sample=False)
    found = model.generate(**call, max_length=8, do_sample=False, cache_implementation="static", disable_compile=True)
    assert torch.equal(found, expected)


@GENERATORS
def test_rows_are_independent(case: Case) -> None:
    model, call = perturbed_model(case), inputs(case)
    options = {"num_beams": 3, "num_return_sequences": 3, "max_length": 8, "min_length": 8}
    together = model.generate(**call, **options)
    assert together.shape[0] == 9
    for row in range(3):
        one = {name: value[row : row + 1] for name, value in call.items()}
        alone = model.generate(**one, **options)
        assert torch.equal(together[3 * row : 3 * row + 3], alone)
        assert len({tuple(ids) for ids in alone.tolist()}) == 3


@GENERATORS
def test_first_returned_sequence_is_the_best(case: Case) -> None:
    model, call = perturbed_model(case), inputs(case)
    one = model.generate(**call, num_beams=4, max_length=8)
    several = model.generate(**call, num_beams=4, num_return_sequences=3, max_length=8)
    length = min(one.shape[1], several.shape[1])
    assert torch.equal(several[::3, :length], one[:, :length])


@GENERATORS
def test_sampling_depends_on_the_seed_only(case: Case) -> None:
    model, call = perturbed_model(case), inputs(case)
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
def test_images_are_encoded_and_projected_once(case: Case, options: dict[str, Any]) -> None:
    model, call = perturbed_model(case), inputs(case)
    encoded_rows: list[int] = []
    key_rows: list[int] = []
    model.vision_model.register_forward_hook(lambda module, args, output: encoded_rows.append(output[0].shape[0]))
    for layer in model.text_decoder.bert.encoder.layer:
        layer.crossattention.self.key.register_forward_hook(lambda m, args, output: key_rows.append(args[0].shape[0]))
    model.generate(**call, **options, max_length=7, min_length=7)
    assert encoded_rows == [3]
    assert key_rows == [3] * len(model.text_decoder.bert.encoder.layer)


@GENERATORS
@pytest.mark.parametrize("strategy", ["beams", "several"])
def test_prefill_once_per_image(case: Case, strategy: str) -> None:
    model, call = perturbed_model(case), inputs(case)
    rows: list[int] = []
    model.text_decoder.register_forward_hook(lambda module, args, output: rows.append(output[0].shape[0]))
    model.generate(**call, **STRATEGIES[strategy], max_length=5, min_length=5)
    assert rows == [3] + [3 * STRATEGIES[strategy]["num_beams"]] * 3


@pytest.mark.parametrize("case", [CAPTIONING, PRETRAINING], ids=lambda case: case.name)
@pytest.mark.parametrize("strategy", ["greedy", "beams"])
def test_padded_prompts_equal_single_prompts(case: Case, strategy: str) -> None:
    model, call = perturbed_model(case), inputs(case, 3)
    prompts = torch.tensor([[CLS, 10, 11, 12, SEP], [CLS, 13, SEP, PAD, PAD], [CLS, 14, 15, SEP, PAD]])
    mask = (prompts != PAD).long()
    options = {**STRATEGIES[strategy], "max_new_tokens": 5, "min_new_tokens": 5}
    together = model.generate(**call, input_ids=prompts, attention_mask=mask, **options)
    without_mask = model.generate(**call, input_ids=prompts, **options)
    assert torch.equal(together, without_mask)
    left = torch.tensor([[CLS, 10, 11, 12, SEP], [PAD, PAD, CLS, 13, SEP], [PAD, CLS, 14, 15, SEP]])
    assert torch.equal(model.generate(**call, input_ids=left, **options), together)
    for row, length in enumerate((4, 2, 3)):
        tokens = prompts[row : row + 1, :length]
        alone = model.generate(call["pixel_values"][row : row + 1], input_ids=tokens, **options)
        assert alone[0, 0] == DEC and alone[0, 1:length].tolist() == tokens[0, 1:].tolist()
        assert alone[0, length:].tolist() == together[row, -5:].tolist()


def test_end_tokens_within_prompts_end_nothing() -> None:
    model = perturbed_model(CAPTIONING)
    prompt = torch.tensor([[CLS, 7, 8, 9, SEP], [CLS, 7, 8, SEP, PAD]])
    call = {"pixel_values": pixels(2), "input_ids": prompt, "attention_mask": (prompt != PAD).long()}
    expected = model.generate(**call, max_new_tokens=6)
    found = model.generate(**call, max_new_tokens=6, eos_token_id=[SEP, 8])
    assert found[:, :4].tolist() == [[DEC, 7, 8, 9], [PAD, DEC, 7, 8]] and not (found[:, 4:] == PAD).all()
    for row, other in zip(found[:, 4:].tolist(), expected[:, 4:].tolist(), strict=True):
        length = next((place for place, token in enumerate(other) if token in (SEP, 8)), len(other) - 1) + 1
        assert row[:length] == other[:length] and set(row[length:]) <= {PAD}


def test_without_end_token_nothing_is_padded() -> None:
    model = perturbed_model(CAPTIONING)
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[SEP] += 100.0
    assert model.generate(pixel_values=pixels(1), max_new_tokens=4)[0].tolist() == [DEC, SEP]
    model.generation_config.eos_token_id = None
    assert model.generate(pixel_values=pixels(1), max_new_tokens=4)[0].tolist() == [DEC, *[SEP] * 4]


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("case", [CAPTIONING, PRETRAINING, lavis_blip_2_cases.PRETRAINING], ids=lambda case: case.name)
def test_several_prompts_for_each_image(case: Case, images: int, num_beams: int) -> None:
    model = case.model()
    prompts = torch.tensor(
        [[CLS, 7, 8, 9, SEP], [CLS, 7, 8, SEP, PAD], [CLS, 10, SEP, PAD, PAD], [CLS, 11, 12, 9, SEP]]
    )
    call: dict[str, Any] = {"attention_mask": (prompts != PAD).long(), "max_new_tokens": 4, "num_beams": num_beams}
    found = model.generate(pixel_values=pixels(images), input_ids=prompts, **call)
    single = pixels(images).repeat_interleave(4 // images, dim=0)
    assert torch.equal(found, model.generate(pixel_values=single, input_ids=prompts, **call))
    with pytest.raises(ValueError, match="Got 3 prompts for 2 images"):
        model.generate(pixel_values=pixels(2), input_ids=prompts[:3])


def test_training_on_left_padded_captions() -> None:
    """The loss and the logits of captions do not depend on the side of their padding."""
    model = perturbed_model(CAPTIONING)
    right = texts(2)
    count = int(right["attention_mask"][1].sum())
    left = {name: value.clone() for name, value in right.items()}
    for name, value in left.items():
        value[1] = torch.cat([right[name][1, count:], right[name][1, :count]])
    outputs = []
    for batch in (right, left):
        ignored = (batch["attention_mask"] == 0) | (batch["input_ids"] == CLS)
        outputs.append(model(pixel_values=pixels(2), **batch, labels=batch["input_ids"].masked_fill(ignored, -100)))
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss)
    torch.testing.assert_close(outputs[0].logits[1, :count], outputs[1].logits[1, -count:])


def test_prompts_are_not_modified() -> None:
    model = perturbed_model(CAPTIONING)
    prompts = torch.tensor([[CLS, 10, 11, SEP]])
    model.generate(pixels(1), input_ids=prompts, max_new_tokens=3)
    assert prompts.tolist() == [[CLS, 10, 11, SEP]]
    ids, mask = as_prompt(prompts, None, DEC, SEP, PAD)
    assert ids.tolist() == [[DEC, 10, 11]] and mask is None
    empty, _ = as_prompt(torch.tensor([[PAD, PAD], [CLS, SEP]]), None, DEC, SEP, PAD)
    assert empty.tolist() == [[DEC], [DEC]]
    assert set_first_token(prompts, None) is prompts


def test_attend_question_padding() -> None:
    """parity: by default, answers depend on the padding of questions."""
    call = {"pixel_values": pixels(3), **texts(3)}
    for attend in (True, False):
        model = perturbed_model(ANSWERING, attend_question_padding=attend)
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
def test_output_hidden_states_attentions_and_scores(case: Case) -> None:
    model, call = perturbed_model(case), inputs(case)
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
    model, call = perturbed_model(case), inputs(case)
    extra = {"labels": torch.zeros(3, 4, dtype=torch.long), "image_ids": torch.arange(3), "return_loss": True}
    assert torch.equal(model.generate(**call, **extra, max_length=6), model.generate(**call, max_length=6))


@GENERATORS
def test_missing_inputs_raise(case: Case) -> None:
    model = perturbed_model(case)
    with pytest.raises(ValueError, match="pixel_values"):
        model.generate(max_length=5)
    if case is ANSWERING:
        with pytest.raises(ValueError, match="input_ids"):
            model.generate(pixels(2), max_length=5)


@GENERATORS
def test_interpolate_pos_encoding(case: Case) -> None:
    model, call = perturbed_model(case), inputs(case)
    call["pixel_values"] = torch.randn(3, 3, 48, 48)
    assert model.generate(**call, interpolate_pos_encoding=True, max_length=5).shape[0] == 3
    with pytest.raises(ValueError, match="interpolate_pos_encoding"):
        model.generate(**call, max_length=5)


@GENERATORS
def test_saved_generation_config(case: Case, tmp_path: Path) -> None:
    model, call = perturbed_model(case), inputs(case)
    expected = model.generate(**call, num_beams=3, max_length=8)
    model.generation_config.update(num_beams=3, max_length=8)
    model.save_pretrained(tmp_path)
    again = case.model_class.from_pretrained(tmp_path)
    assert_same_state(again, model)
    assert torch.equal(again.generate(**call), expected)


@GENERATORS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision(case: Case, dtype: torch.dtype) -> None:
    model, call = perturbed_model(case).to(dtype), inputs(case)
    assert model.generate(**call, num_beams=2, max_length=6).shape[0] == 3


class PaddingInfo:
    """The attribute of a processing class that Seq2SeqTrainer needs."""

    pad_token_id = PAD


@pytest.mark.parametrize("case", [CAPTIONING, ANSWERING], ids=lambda case: case.name)
def test_seq2seq_trainer_with_predict_with_generate(case: Case, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    model = perturbed_model(case)
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
        eval_dataset=BatchDataset(batches),
    )
    result = trainer.predict(BatchDataset(batches))
    assert result.metrics["test_loss"] > 0
    assert result.predictions.shape[0] == 6 and not result.predictions[:, 7:].any()  # filled up with padding
    call = {name: value for name, value in batches[0].items() if name not in case.training(3)}
    if case is CAPTIONING:  # the prompt consists of the tokens that are not labels
        call["input_ids"], call["attention_mask"] = call["input_ids"][:, :2], call["attention_mask"][:, :2]
    wanted = model.generate(**call, num_beams=2, max_length=7)
    width = min(wanted.shape[1], result.predictions.shape[1])
    assert torch.equal(torch.as_tensor(result.predictions[:3, :width]), wanted[:, :width])
