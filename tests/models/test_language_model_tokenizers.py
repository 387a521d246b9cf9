"""BLIP-2 with every kind of tokenizer: training, processor, `generate` and pipeline agree about the first token."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast, pipeline

import modeling_lavis  # noqa: F401  (registers the tasks)
from modeling_lavis.data.collators import CaptioningCollator
from modeling_lavis.models.processing_lavis_blip_2 import find_newline_token
from tests.models.tiny_tokenizers import CAUSAL, KINDS, tiny_model, tiny_processor

IMAGE = Image.fromarray(np.random.RandomState(0).randint(0, 255, (40, 40, 3), dtype=np.uint8))
CAPTION = "two red cats"
GREEDY: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}

CASES = [
    *((kind, True, "") for kind in KINDS),
    *((kind, True, "a photo of ") for kind in ("adds BOS (Llama)", "has BOS (GPT-2)", "has no BOS (Qwen)")),
    *((kind, False, "") for kind in ("has BOS and padding", "has no BOS (Qwen)", "adds both (BART)")),
]


def learn(model: torch.nn.Module, batch: dict[str, Any]) -> None:
    """Train until the captions of a batch are memorized."""
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    for _ in range(80):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.05:
            break
    model.eval()


@pytest.mark.parametrize(("kind", "with_newline", "prompt"), CASES)
def test_a_trained_caption_is_generated_from_its_first_token(kind: str, with_newline: bool, prompt: str) -> None:
    processor = tiny_processor(kind, with_newline, prompt=prompt)
    model = tiny_model(kind, processor)
    batch = CaptioningCollator(processor)([{"image": IMAGE, "caption": CAPTION}])
    learn(model, batch)
    inputs = processor(images=IMAGE, return_tensors="pt")
    assert processor.post_process_captions(model.generate(**inputs, **GREEDY)) == [CAPTION]
    # the batch that it was trained on holds the caption, from which it may not start
    start = 1 if kind not in CAUSAL else inputs["input_ids"].shape[1]
    generated = model.generate(**batch, **GREEDY)
    assert torch.equal(generated, model.generate(**inputs, **GREEDY))
    if kind in CAUSAL:
        assert torch.equal(generated[:, :start], inputs["input_ids"])
    if not prompt:
        generated = model.generate(pixel_values=batch["pixel_values"], **GREEDY)
        assert torch.equal(generated, model.generate(**inputs, **GREEDY))
    captioner = pipeline("image-captioning", model=model, processor=processor, device="cpu")
    for options in ({"num_beams": 1}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}):
        texts = [row["generated_text"] for row in captioner(IMAGE, max_new_tokens=12, **options)]
        assert texts[0] == CAPTION and len(texts) == options.get("num_return_sequences", 1)


@pytest.mark.parametrize("kind", KINDS)
def test_training_starts_as_a_prompt_does(kind: str) -> None:
    processor = tiny_processor(kind)
    for prompt in ("", "a photo of"):
        start = processor.prompt_inputs(prompt, None)["input_ids"][0]
        made = processor.caption_labels(CAPTION, None, prompt=prompt)
        if kind in CAUSAL:
            assert made["input_ids"][0][: len(start)] == start
            assert made["labels"][0].count(-100) == (len(start) if prompt else 0)
        else:
            assert made["input_ids"][0] == start


def test_special_tokens_of_each_kind() -> None:
    firsts = {kind: tiny_processor(kind).prompt_inputs("", None)["input_ids"][0] for kind in CAUSAL}
    for kind, ids in firsts.items():
        bos = tiny_processor(kind).tokenizer.bos_token_id
        assert ids == ([] if "no BOS" in kind else [bos])


def test_a_text_ends_with_eos_if_the_tokenizer_adds_it() -> None:
    processor = tiny_processor("adds BOS and EOS")
    newline, eos = processor.newline_token_id, processor.tokenizer.eos_token_id
    assert processor.caption_labels(CAPTION, None)["input_ids"][0][-2:] == [newline, eos]
    assert eos not in processor.prompt_inputs("a photo of", None)["input_ids"][0]


@pytest.mark.parametrize("kind", ["has BOS (GPT-2)", "has no BOS (Qwen)"])
def test_a_tokenizer_without_newlines(kind: str) -> None:
    processor = tiny_processor(kind, with_newline=False)
    assert processor.newline_token_id is None
    made = processor.caption_labels([CAPTION, "a red dog on a mat"], None)
    assert all(row[-1] == processor.tokenizer.eos_token_id for row in made["input_ids"][1:])
    short = processor.caption_labels("a red dog on a mat", None, max_length=3)
    assert len(short["input_ids"][0]) == 3


def test_tokens_of_a_newline() -> None:
    """The second token of Llama's newline is the newline; some tokenizers have a space in its place."""
    tokens = {"<unk>": 0, "▁": 1, "<0x0A>": 2, "a": 3}
    backend = Tokenizer(models.BPE(tokens, [], byte_fallback=True, unk_token="<unk>"))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    prepend, spaces = normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([prepend, spaces])
    llama = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert llama("\n")["input_ids"] == [1, 2] and find_newline_token(llama) == 2
    backend.normalizer = normalizers.Sequence([normalizers.Replace("\n", " "), prepend, spaces])
    without = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert without("\n")["input_ids"] == [1, 1] and find_newline_token(without) is None


def test_empty_prompts_of_no_tokens() -> None:
    """Ids of shape (B, 0) are integers, and text follows the query tokens immediately."""
    processor = tiny_processor("has no BOS (Qwen)")
    model = tiny_model("has no BOS (Qwen)", processor).eval()
    inputs = processor(images=[IMAGE, IMAGE], return_tensors="pt")
    assert inputs["input_ids"].shape == (2, 0) and inputs["input_ids"].dtype == torch.int64
    assert processor.prompt_inputs("", "np")["input_ids"].dtype == np.int64
    generated = model.generate(**inputs, **GREEDY)
    first = model(**inputs).logits[:, -1].argmax(-1)
    assert torch.equal(generated[:, 0], first)
    floats = model.generate(pixel_values=inputs["pixel_values"], input_ids=torch.tensor([[], []]), **GREEDY)
    assert torch.equal(floats, generated)
    lengths = [model.generate(**inputs, max_length=4, min_length=4, num_beams=beams).shape[1] for beams in (1, 3)]
    assert lengths == [4, 4]


@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize("beams", [1, 3])
def test_empty_prompts_beside_others(beams: int, original: bool) -> None:
    processor = tiny_processor("has no BOS (Qwen)")
    model = tiny_model("has no BOS (Qwen)", processor).eval()
    model.config.original_beam_scores = original
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": beams}
    prompts = ["", "a photo of", ""]
    together = model.generate(**processor(images=[IMAGE] * 3, text=prompts, return_tensors="pt"), **options)
    for row, prompt in enumerate(prompts):
        alone = model.generate(**processor(images=IMAGE, text=prompt, return_tensors="pt"), **options)
        assert together[row, -4:].tolist() == alone[0, -4:].tolist()


def test_configurations_that_name_a_bos_token_which_the_tokenizer_lacks() -> None:
    processor = tiny_processor("has no BOS (Qwen)")
    model = tiny_model("has no BOS (Qwen)", processor).eval()
    expected = model.generate(**processor(images=IMAGE, return_tensors="pt"), **GREEDY)
    model.config.text_config.bos_token_id = 5
    pixel_values = processor(images=IMAGE, return_tensors="pt")["pixel_values"]
    assert torch.equal(model.generate(pixel_values=pixel_values, **GREEDY), expected)


def test_spaces_at_the_end_of_a_prompt() -> None:
    """They would be a token of their own, which is not in the captions of training."""
    plain, spaced = (tiny_processor("has BOS (GPT-2)", prompt=prompt) for prompt in ("a photo of", "a photo of "))
    assert spaced.prompt_inputs(return_tensors=None) == plain.prompt_inputs(return_tensors=None)
    assert spaced.caption_labels(CAPTION, None) == plain.caption_labels(CAPTION, None)
    given = plain.caption_labels(CAPTION, None, prompt="a photo of  ")
    assert given == plain.caption_labels(CAPTION, None)


def test_punctuation_and_newline_as_one_token() -> None:
    processor = tiny_processor("has BOS (GPT-2)")
    processor.tokenizer.add_tokens(["?\n"])
    (row,) = processor.caption_labels("what is this?", None, cleaning=None)["input_ids"]
    assert row[-1] == processor.newline_token_id
    assert processor.tokenizer.decode(row, skip_special_tokens=True) == "what is this?\n"


def test_text_after_a_newline_is_no_part_of_a_caption() -> None:
    processor = tiny_processor("has BOS (GPT-2)")
    ids = processor.tokenizer("two cats\n a red dog")["input_ids"]
    assert processor.post_process_captions([ids], "") == ["two cats"]


@pytest.mark.parametrize("kind", ["adds BOS (Llama)", "adds EOS (T5)"])
def test_placeholders_are_not_learned(kind: str) -> None:
    plain, placed = tiny_processor(kind), tiny_processor(kind, num_query_tokens=4)
    with pytest.raises(ValueError, match="no token '<image>'"):
        placed.prompt_inputs("a photo of")
    placed.tokenizer.add_tokens(["<image>"], special_tokens=True)
    for prompt in ("", "a photo of"):
        expected = plain.caption_labels(CAPTION, prompt=prompt)["labels"]
        found = placed.caption_labels(CAPTION, prompt=prompt)
        assert (found["input_ids"][:, :4] == placed.image_token_id).all()
        if kind in CAUSAL:
            assert (found["labels"][:, :4] == -100).all()
            assert torch.equal(found["labels"][:, 4:], expected)
        else:
            assert torch.equal(found["labels"], expected)


@pytest.mark.parametrize("kind", ["has BOS (GPT-2)", "adds EOS (T5)"])
def test_the_pipeline_ranks_a_list_of_answers(kind: str) -> None:
    """A memorized answer comes first, and the scores are those of the model."""
    processor = tiny_processor(kind)
    model = tiny_model(kind, processor)
    questions, answers = ["what is this?", "is it a dog?"], ["no", "yes", "two red cats"]
    prompts = processor.question_prompts(questions)
    batch = processor.caption_labels(["two red cats", "yes"], prompt=prompts, cleaning=None)
    images = [IMAGE, IMAGE]
    learn(model, {**processor(images=images, return_tensors="pt"), **batch})
    answerer = pipeline("image-question-answering", model=model, processor=processor, device="cpu")
    ranked = answerer(images, question=questions, answers=answers, top_k=2, batch_size=2)
    assert [row[0]["answer"] for row in ranked] == ["two red cats", "yes"]
    assert [[entry["score"] for entry in row] for row in ranked] == [
        pytest.approx([entry["score"] for entry in answerer(IMAGE, question=question, answers=answers)[:2]], abs=1e-4)
        for question in questions
    ]
    mean = answerer(IMAGE, question=questions[0], answers=answers, length_normalization="mean", num_candidates=1)
    tokens = processor.answer_candidates(["two red cats"])["answer_input_ids"]
    assert mean == [
        {"answer": "two red cats", "score": pytest.approx(ranked[0][0]["score"] / tokens.numel(), abs=1e-4)}
    ]
