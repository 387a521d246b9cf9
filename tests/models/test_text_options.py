"""Options of the tokenizer in processors of images and texts: lengths, padding, truncation, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_lavis import AlbefProcessor, LavisBlip2Processor, LavisBlipProcessor, LavisImageProcessor
from modeling_lavis.models.processing_lavis_blip_2 import qformer_tokenizer
from modeling_lavis.models.tokenization_lavis import bert_tokenizer, blip_tokenizer
from tests.models.tiny_tokenizers import KINDS, tiny_processor

IMAGE = Image.new("RGB", (20, 30), (200, 10, 10))
TOKENIZER = Path(__file__).parents[1] / "goldens" / "tokenizer"
LONG = "a photo of two cats on a mat and a red dog on a mat in the house"


def blip(**options: Any) -> LavisBlipProcessor:
    return LavisBlipProcessor(LavisImageProcessor(size=32), blip_tokenizer(TOKENIZER), **options)


def qformer(**options: Any) -> LavisBlip2Processor:
    return LavisBlip2Processor(LavisImageProcessor(size=32), qformer_tokenizer(TOKENIZER), **options)


PROMPTED: dict[str, Callable[..., Any]] = {
    "BLIP": blip,
    "Q-Former": qformer,
    **{kind: (lambda kind=kind, **options: tiny_processor(kind, **options)) for kind in KINDS},
}
each_processor = pytest.mark.parametrize("make", PROMPTED.values(), ids=PROMPTED)


def lengths(processor: Any, **options: Any) -> set[int]:
    """Numbers of tokens of a prompt and of a caption, by all ways to make them."""
    call = processor(images=IMAGE, text="a photo of", text_format="prompt", return_tensors="pt", **options)
    prompt, caption = processor.prompt_inputs("a photo of", **options), processor.caption_labels("two cats", **options)
    tensors = [call["input_ids"], prompt["input_ids"], caption["input_ids"], caption["labels"]]
    return {tensor.shape[1] for tensor in tensors}


@each_processor
def test_padding_to_the_maximum_length(make: Callable[..., Any]) -> None:
    processor = make(max_text_length=20)
    assert lengths(processor, padding="max_length", max_length=30) == {30}
    assert lengths(processor, padding="max_length") == {20}, "its own length"
    unlimited = make(max_text_length=None)
    unlimited.tokenizer.model_max_length = 25
    assert lengths(unlimited, padding="max_length") == {25}, "the limit of the tokenizer"
    assert lengths(processor, padding="max_length", max_length=30, pad_to_multiple_of=8) == {32}
    with_options = make(max_text_length=20)
    with_options.tokenizer.init_kwargs.update(padding="max_length", max_length=40)
    for options in ({}, {"padding": "max_length"}):
        call = with_options(text="a photo of", text_format="prompt", return_tensors="pt", **options)
        assert call["input_ids"].shape == (1, 40), "the tokenizer's length"


@each_processor
def test_padding_does_not_truncate_a_prompt(make: Callable[..., Any]) -> None:
    processor = make(max_text_length=6)
    whole = processor.prompt_inputs(LONG)["input_ids"]
    assert whole.shape[1] > 12
    for options in ({"padding": "max_length"}, {"padding": "max_length", "truncation": True}):
        assert torch.equal(processor.prompt_inputs(LONG, **options)["input_ids"], whole)
        call = processor(text=LONG, text_format="prompt", return_tensors="pt", **options)
        assert torch.equal(call["input_ids"], whole)
    assert processor.prompt_inputs(LONG, max_length=7)["input_ids"].shape[1] <= 7
    assert torch.equal(processor.prompt_inputs(LONG, max_length=7, truncation=False)["input_ids"], whole)


@each_processor
def test_truncation_of_captions(make: Callable[..., Any]) -> None:
    processor = make(max_text_length=9)
    assert processor.caption_labels(LONG)["labels"].shape[1] == 9
    assert processor.caption_labels(LONG, max_length=7)["labels"].shape[1] == 7
    whole = processor.caption_labels(LONG, truncation=False)["labels"]
    assert whole.shape[1] > 12
    assert torch.equal(processor.caption_labels(LONG, max_length=None)["labels"], whole)
    if getattr(processor, "language_model", None) != "seq2seq":
        expected = processor.caption_labels(LONG, None)
        processor.tokenizer.truncation_side = "left"
        assert processor.caption_labels(LONG, None) == expected, "the prompt and the beginning stay"
        cut = processor.prompt_inputs(LONG, None, max_length=7)["input_ids"][0]
        assert cut[1:] == processor.prompt_inputs(LONG, None)["input_ids"][0][-len(cut) + 1 :]


@each_processor
def test_side_of_padding(make: Callable[..., Any]) -> None:
    processor = make()
    seq2seq = getattr(processor, "language_model", None) == "seq2seq"
    texts = ["a photo", LONG]
    for side in ("left", "right"):
        own = processor.prompt_inputs(texts, padding_side=side)
        assert own["attention_mask"][0, 0 if side == "left" else -1] == 0
        call = processor(text=texts, text_format="prompt", return_tensors="pt", padding_side=side)
        assert torch.equal(call["input_ids"], own["input_ids"])
        processor.tokenizer.padding_side = processor.tokenizer.init_kwargs["padding_side"] = side
        default = processor(text=texts, text_format="prompt", return_tensors="pt")
        assert default["attention_mask"][0, -1 if seq2seq else 0] == 0, "text follows the right end of a prompt"
    left, right = (processor.caption_labels(texts, padding_side=side) for side in ("left", "right"))
    for name in ("labels", "input_ids"):
        for one, other in zip(left[name], right[name], strict=True):
            shift = next(n for n in range(len(one)) if torch.equal(one.roll(-n), other))
            assert torch.equal(one.roll(-shift), other)
    assert (left["labels"][0, :3] == -100).all() and (right["labels"][0, -3:] == -100).all()


@pytest.mark.parametrize("make", [blip, qformer], ids=["BLIP", "Q-Former"])
def test_texts_for_encoders_are_padded_on_the_right(make: Callable[..., Any]) -> None:
    processor, texts = make(), ["a photo", LONG]
    expected = processor(text=texts, text_format="encoder", padding=True, return_tensors="pt")
    processor.tokenizer.padding_side = processor.tokenizer.init_kwargs["padding_side"] = "left"
    found = processor(text=texts, text_format="encoder", padding=True, return_tensors="pt")
    assert torch.equal(found["input_ids"], expected["input_ids"]) and found["attention_mask"][0, -1] == 0
    for options in ({"padding_side": "left"}, {"text_kwargs": {"padding_side": "left"}}):
        with pytest.raises(ValueError, match="padding_side is 'left', but encoders read the first token"):
            processor(text=texts, text_format="encoder", **options)


@each_processor
@pytest.mark.parametrize("method", ["prompt_inputs", "caption_labels"])
def test_refused_options(make: Callable[..., Any], method: str) -> None:
    call = getattr(make(), method)
    for options, error, message in (
        ({"max_lenght": 3}, TypeError, "'max_lenght'. Did you mean 'max_length'"),
        ({"anything": None}, TypeError, "'anything'"),
        ({"add_special_tokens": False}, TypeError, "need their special tokens"),
        ({"stride": 2}, TypeError, "stride=2, which it does not support"),
        ({"return_offsets_mapping": True}, TypeError, "call its tokenizer instead"),
        ({"max_length": 0}, ValueError, "max_length is 0; expected a positive int"),
        ({"max_length": "9"}, ValueError, "max_length is '9'"),
        ({"padding": "longst"}, ValueError, "padding is 'longst'"),
        ({"padding_side": "top"}, ValueError, "padding_side is 'top'"),
    ):
        with pytest.raises(error, match=message):
            call(["a dog"], **options)
    assert "attention_mask" not in call(["a dog"], return_attention_mask=False)
    assert call(["a dog", "a cat"], "np")["input_ids"].dtype == np.int64


def test_unknown_options_of_questions() -> None:
    for processor in (qformer(), tiny_processor("has BOS (GPT-2)"), tiny_processor("adds EOS (T5)")):
        with pytest.raises(TypeError, match="'max_lenght'"):
            processor.question_inputs("what is it?", max_lenght=3)
    with pytest.raises(TypeError, match="'paddding'"):
        blip()(text="a dog", text_kwargs={"paddding": True})
    with pytest.raises(TypeError, match="text_kwargs is 5; expected a dict"):
        blip()(text="a dog", text_kwargs=5)


@each_processor
def test_rows_of_unequal_length(make: Callable[..., Any]) -> None:
    processor = make()
    rows = processor.prompt_inputs(["a photo", LONG], None, padding=False)["input_ids"]
    assert len(rows[0]) < len(rows[1])
    for call in (processor.prompt_inputs, processor.caption_labels):
        with pytest.raises(ValueError, match="different lengths.*padding=True"):
            call(["a photo", LONG], padding=False)


@each_processor
def test_a_prompt_that_leaves_no_room(make: Callable[..., Any]) -> None:
    processor = make(prompt="a photo of two cats", max_text_length=4)
    if getattr(processor, "language_model", None) == "seq2seq":
        assert (processor.caption_labels("a dog")["labels"] != -100).any()
    else:
        with pytest.raises(ValueError, match="The prompts fill all 4 tokens.*max_length"):
            processor.caption_labels("a dog")


# ---- answers ----


@pytest.mark.parametrize("make", [blip, lambda: AlbefProcessor(LavisImageProcessor(), bert_tokenizer(TOKENIZER))])
def test_answers_are_padded_but_not_truncated(make: Callable[..., Any]) -> None:
    processor = make()
    processor.max_text_length = 6
    for call, name in ((processor.answer_candidates, "answer_input_ids"), (processor.answer_labels, "labels")):
        assert call(["a dog"], padding="max_length")[name].shape == (1, 6)
        whole = call([LONG])[name]
        assert torch.equal(call([LONG], padding="max_length")[name], whole)
        assert call([LONG], max_length=5)[name].shape == (1, 5)
        with pytest.raises(ValueError, match="different lengths"):
            call(["a dog", LONG], padding=False)


@pytest.mark.parametrize("kind", ["has BOS (GPT-2)", "adds EOS (T5)"])
def test_language_models_take_no_answer_labels(kind: str) -> None:
    processor = tiny_processor(kind)
    assert len(processor(images=IMAGE, answers=["yes", "no"])["answer_input_ids"]) == 2
    with pytest.raises(ValueError, match="one answer per question.*caption_labels"):
        processor.answer_labels([["yes", "no"]])
    made = processor.caption_labels(["no"], prompt=processor.question_prompts(["what is this?"]), cleaning=None)
    labels = made["labels"][0][made["labels"][0] != -100]
    assert processor.post_process_answers([labels.tolist()], "") == ["no"]


@pytest.mark.parametrize("kind", ["has BOS (GPT-2)", "adds BOS (Llama)", "adds EOS (T5)"])
def test_tokenizers_of_language_models_need_their_option(kind: str) -> None:
    tokenizer = tiny_processor(kind).tokenizer
    for make in (LavisBlip2Processor, LavisBlipProcessor, AlbefProcessor):
        processor = make(LavisImageProcessor(size=32), tokenizer)
        for method, arguments in ((processor, {"text": "a dog"}), (processor.answer_labels, {"answers": ["a dog"]})):
            with pytest.raises(ValueError, match="has no cls_token, sep_token.*language_model='causal' or 'seq2seq'"):
                method(**arguments)


# ---- prompts ----


def test_prompts_with_pairs_of_images() -> None:
    pairs = [[IMAGE, IMAGE]] * 3
    for processor in (blip(), blip(prompt="a picture of"), qformer(), tiny_processor("adds EOS (T5)")):
        for text in ("a photo of", ["a photo of", "two cats", "a dog"]):
            batch = processor(images=pairs, text=text, text_format="prompt", return_tensors="pt")
            assert batch["pixel_values"].shape[:2] == (3, 2) and batch["input_ids"].shape[0] == 3
        with pytest.raises(ValueError, match="2 texts do not fit 3 pairs"):
            processor(images=pairs, text=["a", "b"], text_format="prompt")


@pytest.mark.parametrize("make", [blip, qformer])
def test_prompts_with_and_without_a_space_at_the_end(make: Callable[..., Any]) -> None:
    spaced, plain = make(prompt="a picture of "), make(prompt="a picture of")
    assert plain.caption_labels("dogs", None) == spaced.caption_labels("dogs", None)
    ids = plain.caption_labels("dogs", None)["input_ids"][0]
    assert plain.post_process_captions([ids]) == ["dogs"]


@each_processor
def test_filled_up_predictions_are_decoded(make: Callable[..., Any]) -> None:
    """A Trainer fills up rows with -100, and its labels have it where the loss ignores tokens."""
    processor = make()
    made = processor.caption_labels(["two cats", "a red dog on a mat"])
    assert processor.post_process_captions(made["labels"], "") == ["two cats", "a red dog on a mat"]
    padded = np.pad(made["labels"].numpy(), ((0, 0), (0, 3)), constant_values=-100)
    assert processor.post_process_answers(padded) == ["two cats", "a red dog on a mat"]
    (text,) = processor.post_process_image_text_to_text(padded[0])
    assert text.strip() == "two cats"
