"""BLIP-2's processor: prompts of causal and encoder-decoder models, labels, placeholders, post-processing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer

from modeling_lavis import LavisBlip2Processor, LavisImageProcessor
from modeling_lavis.models.processing_lavis_blip_2 import qformer_tokenizer
from tests.conversion.golden_sets import GOLDENS, TOKENIZER

IMAGE = Image.new("RGB", (20, 30), (200, 10, 10))


def processor(kind: str | None, **options: Any) -> LavisBlip2Processor:
    folder = {"causal": "blip2_opt", "seq2seq": "blip2_t5"}.get(kind or "")
    tokenizer = AutoTokenizer.from_pretrained(GOLDENS / folder / "llm") if folder else qformer_tokenizer(str(TOKENIZER))
    images = LavisImageProcessor(size={"height": 28, "width": 28})
    return LavisBlip2Processor(images, tokenizer, language_model=kind, **options)


@pytest.mark.parametrize(("kind", "side"), [("causal", "left"), ("seq2seq", "right")])
def test_padding_side_of_prompts(kind: str, side: str) -> None:
    made = processor(kind)(images=[IMAGE] * 2, text=["a photo", "a photo of a red dog"], return_tensors="pt")
    assert made["pixel_values"].shape == (2, 3, 28, 28)
    column = 0 if side == "left" else -1
    assert made["attention_mask"][:, column].tolist() == [0, 1]


def test_default_prompt_for_every_image() -> None:
    made = processor("causal", prompt="a photo of")(images=[IMAGE] * 2, return_tensors="pt")
    again = processor("causal").prompt_inputs(["a photo of"] * 2)
    assert torch.equal(made["input_ids"], again["input_ids"])


@pytest.mark.parametrize("kind", ["causal", "seq2seq", None])
def test_prompts_are_truncated_on_request_only(kind: str | None) -> None:
    run = processor(kind, max_text_length=8)
    prompt = "question what is this thing here on the street short answer"
    whole = run.prompt_inputs(prompt)["input_ids"]
    assert whole.shape[1] > 10
    call = {"text": prompt, "text_format": "prompt", "return_tensors": "pt"}
    assert torch.equal(run(**call)["input_ids"], whole)
    for options in ({"max_length": 6}, {"text_kwargs": {"max_length": 6}}):
        assert run(**call, **options)["input_ids"].shape[1] <= 6
    encoded = processor(None, max_text_length=8)(text=prompt, text_format="encoder", return_tensors="pt")
    assert encoded["input_ids"].shape[1] == 8


def test_question_prompts() -> None:
    run = processor("causal")
    assert run.question_prompts("what is it?") == ["Question: what is it? Short answer:"]
    assert run.question_prompts(["a?"], "Q: {} A:") == ["Q: a? A:"]
    with pytest.raises(ValueError, match="question_template"):
        processor("causal", question_template="no place")


def test_labels_of_a_causal_language_model() -> None:
    run = processor("causal", prompt="a photo of")
    made = run.caption_labels(["a red dog", "a cat on a street"])
    start = len(run.tokenizer("a photo of")["input_ids"])
    for ids, mask, labels in zip(made["input_ids"], made["attention_mask"], made["labels"], strict=True):
        end = int(mask.sum())
        assert (labels[:start] == -100).all() and (labels[end:] == -100).all()
        assert torch.equal(labels[start:end], ids[start:end])
        assert ids[end - 1] == run.newline_token_id


def test_labels_of_an_encoder_decoder_model() -> None:
    made = processor("seq2seq").caption_labels(["red", "two dogs"], prompt=["what color?", "what is there to see?"])
    assert made["labels"].shape == made["decoder_attention_mask"].shape
    assert ((made["labels"] == -100) == (made["decoder_attention_mask"] == 0)).all()
    assert made["input_ids"].shape == made["attention_mask"].shape != made["labels"].shape
    with pytest.raises(ValueError, match="2 prompts do not fit 3 captions"):
        processor("seq2seq").caption_labels(["a", "b", "c"], prompt=["x", "y"])


def test_post_processing_removes_prompt_and_padding() -> None:
    run = processor("causal")
    prompts = run.prompt_inputs(["a photo", "a photo of a dog"])["input_ids"]
    more = torch.tensor(run.tokenizer([" in a park"], add_special_tokens=False)["input_ids"] * 2)
    texts = run.post_process_captions(torch.cat([prompts, more], dim=1), ["a photo", "a photo of a dog"])
    assert texts == ["in a park", "in a park"]


def test_image_placeholders() -> None:
    run = processor("causal", num_query_tokens=3)
    run.tokenizer.add_tokens(["<image>"], special_tokens=True)
    made = run(images=IMAGE, text="a photo of", return_tensors="pt")
    assert made["input_ids"][0, :3].tolist() == [run.image_token_id] * 3 and made["attention_mask"].all()
    assert run.post_process_captions(made["input_ids"], "a photo of") == [""]


def test_qformer_texts() -> None:
    run = processor(None, max_text_length=8)
    made = run(images=IMAGE, text="A Dog!", return_tensors="pt")
    assert made["input_ids"][0, 0] == run.tokenizer.cls_token_id
    assert run.prompt_inputs("a dog")["input_ids"][0, 0] == run.bos_token_id == len(run.tokenizer) - 1
    assert "[ENC]" not in run.tokenizer.get_vocab()


@pytest.mark.parametrize("kind", [None, "causal", "seq2seq"])
def test_save_and_load(kind: str | None, tmp_path: Path) -> None:
    run = processor(kind, prompt="a photo of", max_text_length=20)
    run.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "lavis_blip_2"}))
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, LavisBlip2Processor) and again.language_model == kind and again.prompt == "a photo of"
    assert again.prompt_inputs("a red dog", None) == run.prompt_inputs("a red dog", None)


def test_invalid_language_model_raises() -> None:
    with pytest.raises(ValueError, match="language_model is 'gpt'"):
        processor(None).__class__(LavisImageProcessor(), qformer_tokenizer(str(TOKENIZER)), language_model="gpt")


def test_trailing_spaces_of_post_processed_captions() -> None:
    """parity: the original strips the texts of OPT, not those of T5."""
    for kind, stripped in (("causal", True), ("seq2seq", False)):
        own = processor(kind)
        space = own.tokenizer.convert_tokens_to_ids("Ġ" if kind == "causal" else "▁")
        red = own.tokenizer("red", add_special_tokens=False)["input_ids"]
        (text,) = own.post_process_captions([[*red, space]], "")
        assert text.strip() == "red"
        assert (text == "red") is stripped
