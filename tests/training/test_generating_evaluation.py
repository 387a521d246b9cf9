"""Evaluation by generation: transformers' Seq2SeqTrainer and a plain loader start from image and prompt only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from modeling_lavis import (
    AlbefForQuestionAnswering,
    AlbefProcessor,
    LavisBlip2ForPreTraining,
    LavisBlip2Processor,
    LavisBlipForConditionalGeneration,
    LavisBlipForPreTraining,
    LavisBlipForQuestionAnswering,
    LavisBlipProcessor,
    LavisImageProcessor,
)
from modeling_lavis.data.collators import CaptioningCollator, ImageTextCollator, QuestionAnsweringCollator
from modeling_lavis.models.processing_lavis_blip_2 import qformer_tokenizer
from modeling_lavis.models.tokenization_lavis import bert_tokenizer, blip_tokenizer
from tests.models.albef_cases import albef_config
from tests.models.contract import perturb
from tests.models.lavis_blip_2_cases import blip_2_config
from tests.models.lavis_blip_cases import SIZE, blip_config
from tests.models.tiny_tokenizers import KINDS, tiny_model, tiny_processor

VOCABULARY = {"vocab_size": 602}
ROWS = [
    {"caption": "a red dog", "question": "what is it?", "answer": "dog"},
    {"caption": "two cats on the mat", "question": "what is to be seen?", "answer": "cats"},
    {"caption": "the house", "question": "what?", "answer": "house"},
]
OTHER_ROWS = [
    {**row, "caption": caption, "answer": "no"}
    for row, caption in zip(ROWS, ("in the park", "one more", "a small man and his dog"), strict=True)
]
LENGTH = 14
PROMPT = "a picture of "


def blip(goldens: Path, head: type, prompt: str = "") -> tuple[Any, Any]:
    processor = LavisBlipProcessor(LavisImageProcessor(size=SIZE), blip_tokenizer(goldens / "tokenizer"), prompt=prompt)
    return head(blip_config(VOCABULARY, bos_token_id=600, enc_token_id=601)), processor


def albef(goldens: Path) -> tuple[Any, Any]:
    processor = AlbefProcessor(LavisImageProcessor(size=SIZE), bert_tokenizer(goldens / "tokenizer"))
    return AlbefForQuestionAnswering(albef_config(VOCABULARY)), processor


def qformer(goldens: Path) -> tuple[Any, Any]:
    processor = LavisBlip2Processor(LavisImageProcessor(size=SIZE), qformer_tokenizer(goldens / "tokenizer"))
    return LavisBlip2ForPreTraining(blip_2_config(VOCABULARY, bos_token_id=600)), processor


def language_model(kind: str, prompt: str = "") -> tuple[Any, Any]:
    processor = tiny_processor(kind, prompt=prompt)
    return tiny_model(kind, processor), processor


CASES: dict[str, tuple[Callable[[Path], tuple[Any, Any]], Any]] = {
    "BLIP captioner": (lambda goldens: blip(goldens, LavisBlipForConditionalGeneration), CaptioningCollator),
    "BLIP captioner, prompt": (
        lambda goldens: blip(goldens, LavisBlipForConditionalGeneration, PROMPT),
        CaptioningCollator,
    ),
    "BLIP VQA": (lambda goldens: blip(goldens, LavisBlipForQuestionAnswering), QuestionAnsweringCollator),
    "BLIP pretraining": (lambda goldens: blip(goldens, LavisBlipForPreTraining), ImageTextCollator),
    "ALBEF VQA": (albef, QuestionAnsweringCollator),
    "BLIP-2 stage 1": (qformer, ImageTextCollator),
    **{kind: (lambda goldens, kind=kind: language_model(kind), CaptioningCollator) for kind in KINDS},
    **{
        f"{kind}, prompt": (lambda goldens, kind=kind: language_model(kind, PROMPT), CaptioningCollator)
        for kind in ("adds BOS, which is EOS (OPT)", "has no BOS (Qwen)", "adds EOS (T5)")
    },
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, goldens: Path) -> tuple[Any, Any, Any]:
    """A model that was never trained, its processor and its collator."""
    make, collator = CASES[request.param]
    torch.manual_seed(0)
    model, processor = make(goldens)
    model.eval()
    for _ in range(3):
        perturb(model)
    return model, processor, collator(processor)


def with_images(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    images = np.random.RandomState(0).randint(0, 255, (len(rows), SIZE, SIZE, 3), dtype=np.uint8)
    return [{"image": image, **row} for image, row in zip(images, rows, strict=True)]


def expected_tokens(model: Any, processor: Any, collator: Any, rows: list[dict[str, Any]]) -> torch.Tensor:
    """What `generate` gives without any knowledge of captions and answers."""
    images = [row["image"] for row in rows]
    if isinstance(collator, QuestionAnsweringCollator):
        inputs = processor(images=images, text=[row["question"] for row in rows], return_tensors="pt")
    else:
        inputs = processor(images=images, return_tensors="pt")
    return model.generate(**inputs, max_length=LENGTH, num_beams=2)


def predict(model: Any, processor: Any, collator: Any, rows: list[dict[str, Any]], folder: Path) -> Any:
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(folder),
        predict_with_generate=True,
        generation_max_length=LENGTH,
        generation_num_beams=2,
        # one batch, because answers of BLIP attend to the padding of shorter questions
        per_device_eval_batch_size=3,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    return Seq2SeqTrainer(model, arguments, collator, processing_class=processor).predict(rows)


def test_predictions_do_not_know_the_captions(case: tuple[Any, Any, Any], tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the Trainer needs the extra [train]")
    model, processor, collator = case
    rows, other_rows = with_images(ROWS), with_images(OTHER_ROWS)
    result = predict(model, processor, collator, rows, tmp_path)
    pad, expected = processor.pad_token_id, expected_tokens(model, processor, collator, rows)
    # The Trainer fills up with -100 and with padding, as does generate, for the rows of a batch.
    found = [[token for token in row if token not in (-100, pad)] for row in result.predictions.tolist()]
    assert found == [[token for token in row if token != pad] for row in expected.tolist()]
    other = predict(model, processor, collator, other_rows, tmp_path)
    rest = [[token for token in row if token not in (-100, pad)] for row in other.predictions.tolist()]
    assert rest == found
    if not isinstance(collator, ImageTextCollator):
        assert result.metrics["test_loss"] > 0 and result.metrics["test_loss"] != other.metrics["test_loss"]
        assert found != [[token for token in row if token != -100] for row in result.label_ids.tolist()]
        references = processor.post_process_captions if hasattr(processor, "prompt") else processor.post_process_answers
        assert len(references(result.label_ids)) == len(references(result.predictions)) == len(rows)


def test_batches_of_a_plain_loader(case: tuple[Any, Any, Any]) -> None:
    model, processor, collator = case
    rows = with_images(ROWS)
    (batch,) = DataLoader(rows, batch_size=3, collate_fn=collator)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in batch.items() if isinstance(value, torch.Tensor)}
    found = model.generate(**batch, max_length=LENGTH, num_beams=2)
    assert torch.equal(found, expected_tokens(model, processor, collator, rows))
    assert all(torch.equal(batch[name], value) for name, value in before.items())


def test_captions_that_are_their_own_labels(goldens: Path) -> None:
    """As in transformers' examples: `labels` are the ids themselves, or the decoder's inputs."""
    model, processor = blip(goldens, LavisBlipForConditionalGeneration)
    model.eval()
    pixel_values = torch.randn(2, 3, SIZE, SIZE)
    texts = processor(text=["a red dog", "two cats on the mat"], return_tensors="pt")
    expected = model.generate(pixel_values, max_length=LENGTH)
    for labels in (texts["input_ids"], texts["input_ids"].masked_fill(texts["attention_mask"] == 0, -100)):
        assert torch.equal(model.generate(pixel_values, **texts, labels=labels, max_length=LENGTH), expected)
        decoder = {"decoder_input_ids": texts["input_ids"], "decoder_attention_mask": texts["attention_mask"]}
        assert torch.equal(model.generate(pixel_values, **decoder, labels=labels, max_length=LENGTH), expected)


def test_labels_of_another_text_leave_the_prompt_whole(goldens: Path) -> None:
    """Prompts beside captions, by chance of the same shape."""
    model, processor = blip(goldens, LavisBlipForConditionalGeneration)
    model.eval()
    pixel_values = torch.randn(1, 3, SIZE, SIZE)
    prompt = processor.prompt_inputs("a picture of")
    captions = processor.tokenizer("a dog", return_tensors="pt")["input_ids"]
    assert captions.shape == prompt["input_ids"].shape
    expected = model.generate(pixel_values, **prompt, max_length=LENGTH)
    assert torch.equal(model.generate(pixel_values, **prompt, labels=captions, max_length=LENGTH), expected)


@pytest.mark.parametrize("kind", ["has no BOS (Qwen)", "adds BOS (Llama)"])
def test_prompts_of_unequal_length(kind: str) -> None:
    """Each row of a batch keeps its own prompt, an empty one too."""
    model, processor = language_model(kind)
    model.eval()
    perturb(model)
    prompts, images = ["a photo of", "", "Question: what is this? Short answer:"], torch.randn(3, 3, SIZE, SIZE)
    batch = processor.caption_labels(["two cats", "a red dog", "no"], prompt=prompts)
    found = model.generate(pixel_values=images, **batch, max_new_tokens=4, min_new_tokens=4)
    for row, prompt in enumerate(prompts):
        alone = model.generate(
            pixel_values=images[row : row + 1], **processor.prompt_inputs(prompt), max_new_tokens=4, min_new_tokens=4
        )
        assert found[row, -4:].tolist() == alone[0, -4:].tolist()
        length = alone.shape[1]
        assert found[row, found.shape[1] - length :].tolist() == alone[0].tolist()
        assert (found[row, : found.shape[1] - length] == processor.pad_token_id).all()
