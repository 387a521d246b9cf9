"""Video collators, and training with `Trainer` on their batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from modeling_lavis import (
    AlproForVideoQuestionAnswering,
    AlproForVideoTextRetrieval,
    AlproProcessor,
    LavisVideoProcessor,
)
from modeling_lavis.data.collators import id_to_int
from modeling_lavis.data.row_changes import exchange_words
from modeling_lavis.data.video_collators import VideoQuestionAnsweringCollator, VideoTextCollator
from modeling_lavis.data.video_transforms import alpro_video_train
from modeling_lavis.models.tokenization_lavis import bert_tokenizer
from tests.models.alpro_cases import alpro_config
from tests.models.video_clips import numbered_frame, write_clip

SIZE, FRAMES = 32, 3
ANSWERS = {"run": 0, "jump": 1}


@pytest.fixture(scope="module")
def processor(goldens: Path) -> AlproProcessor:
    return AlproProcessor(LavisVideoProcessor(size=SIZE, num_frames=FRAMES), bert_tokenizer(goldens / "tokenizer"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("videos")
    write_clip(made / "a.mp4", frames=12)
    write_clip(made / "b.mkv", frames=20)
    (made / "broken.mp4").write_bytes(b"nothing")
    return made


ROWS = [
    {
        "video": "a.mp4",
        "caption": "A dog (running)!",
        "video_id": "v1",
        "question": "what does it do?",
        "answer": "run",
    },
    {"video": "b.mkv", "caption": ["a cat", "a cat sleeps"], "video_id": "v2", "question": "what?", "answer": "fly"},
    {"video": "b.mkv", "caption": "a tail", "video_id": "v2", "question": "and now?", "answer": 1, "start": 1.0},
]
BROKEN = {**ROWS[0], "video": "broken.mp4"}


def test_video_text(processor: AlproProcessor, folder: Path) -> None:
    collate = VideoTextCollator(processor, image_root=folder)
    batch = collate(ROWS)
    assert set(batch) == {"pixel_values_videos", "input_ids", "attention_mask", "return_loss"}
    assert batch["pixel_values_videos"].shape == (3, FRAMES, 3, SIZE, SIZE) and batch["return_loss"] is True
    expected = processor(videos=[folder / "a.mp4"], text=["a dog running"], return_tensors="pt")
    assert torch.equal(batch["pixel_values_videos"][:1], expected["pixel_values_videos"])
    assert torch.equal(batch["input_ids"][0][batch["attention_mask"][0] == 1], expected["input_ids"][0])
    late = processor.video_processor([folder / "b.mkv"], start=1.0, return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(batch["pixel_values_videos"][2:], late)
    ids = VideoTextCollator(processor, image_root=folder, use_ids=True)(ROWS)["image_ids"]
    assert ids.tolist() == [id_to_int("v1"), id_to_int("v2"), id_to_int("v2")]


def test_question_answering(processor: AlproProcessor, folder: Path) -> None:
    collate = VideoQuestionAnsweringCollator(processor, alpro_video_train(SIZE, FRAMES), folder, label2id=ANSWERS)
    batch = collate(ROWS)
    assert set(batch) == {"pixel_values_videos", "input_ids", "attention_mask", "labels"}
    assert batch["labels"].tolist() == [0, -100, 1] and batch["pixel_values_videos"].shape[1] == FRAMES
    question = processor(text=["what does it do?"], cleaning="question", return_tensors="pt")["input_ids"][0]
    assert torch.equal(batch["input_ids"][0], question)
    unanswered = collate([{key: value for key, value in ROWS[0].items() if key != "answer"}])
    assert "labels" not in unanswered
    with pytest.raises(KeyError, match="'video'"):
        collate([{"question": "what?"}])


def test_flips_and_reversals_with_words(processor: AlproProcessor) -> None:
    labels = {"goes left": 0, "goes right": 1, "goes up": 2, "goes down": 3, "red": 4}
    frames = np.random.default_rng(0).integers(0, 255, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    names = [*labels] * 8
    rows = [{"video": frames, "question": f"is {name} true?", "answer": name} for name in names]
    collate = VideoQuestionAnsweringCollator(
        processor,
        label2id=labels,
        mirror_words={"left": "right"},
        flip_words={"up": "down"},
        reverse_words={"left": "right", "up": "down"},
    )
    torch.manual_seed(0)
    batch = collate(rows)
    clips, answers = batch["pixel_values_videos"], batch["labels"].tolist()
    moving = [index for index, name in enumerate(names) if name != "red"]
    assert len(clips) == len(rows) + len(moving)  # clips of which nothing changes are there once
    original = VideoQuestionAnsweringCollator(processor, label2id=labels)(rows[:1])["pixel_values_videos"][0]
    seen = set()
    for index, name in enumerate(names):
        flips = [(m, u) for m in (False, True) for u in (False, True)]
        turned = [original.flip([axis for axis, f in zip((-1, -2), pair, strict=True) if f]) for pair in flips]
        ((mirrored, upturned),) = [f for f, t in zip(flips, turned, strict=True) if torch.equal(t, clips[index])]
        seen.add((mirrored, upturned))
        words = exchange_words(name, {"left": "right"}) if mirrored else name
        words = exchange_words(words, {"up": "down"}) if upturned else words
        assert answers[index] == labels[words]
        question = processor.tokenizer.decode(batch["input_ids"][index], skip_special_tokens=True)
        assert question == f"is {words} true?"
    assert len(seen) == 4
    for position, index in enumerate(moving):
        reverse = len(rows) + position
        assert torch.equal(clips[reverse], clips[index].flip(0))
        assert {answers[reverse], answers[index]} in ({0, 1}, {2, 3})


def test_exchanged_words() -> None:
    assert exchange_words("Left, leftmost or right?", {"left": "right"}) == "Right, leftmost or left?"


def test_mask_probability(processor: AlproProcessor) -> None:
    frames = np.zeros((FRAMES, SIZE, SIZE, 3), np.uint8)
    rows = [{"video": frames, "question": "what does it do?", "answer": "run"}] * 50
    collate = VideoQuestionAnsweringCollator(processor, label2id=ANSWERS, mask_probability=0.5)
    torch.manual_seed(0)
    ids = collate(rows)["input_ids"]
    masks = (ids == processor.tokenizer.mask_token_id).sum()
    assert 60 < masks < 140  # of 200 words
    words = {word for text in processor.tokenizer.batch_decode(ids) for word in text.split()}
    assert words <= {"[CLS]", "[SEP]", "[PAD]", "[MASK]", "what", "does", "it", "do?"}
    with pytest.raises(ValueError, match="mask_probability is 1"):
        VideoQuestionAnsweringCollator(processor, label2id=ANSWERS, mask_probability=1)


def test_broken_videos_raise_or_are_skipped(processor: AlproProcessor, folder: Path) -> None:
    with pytest.raises(OSError, match="broken.mp4"):
        VideoTextCollator(processor, image_root=folder)([ROWS[0], BROKEN])
    for kind, options in ((VideoTextCollator, {}), (VideoQuestionAnsweringCollator, {"label2id": ANSWERS})):
        collate = kind(processor, image_root=folder, on_error="skip", **options)
        batch = collate([BROKEN, ROWS[0]])
        assert [len(batch[name]) for name in ("pixel_values_videos", "input_ids")] == [1, 1]
        with pytest.raises(ValueError, match="None of the 2 videos(.|\n)*broken.mp4"):
            collate([BROKEN, BROKEN])
    with pytest.raises(ValueError, match="'raise' or 'skip'"):
        VideoTextCollator(processor, on_error="ignore")


# large initial weights, so that the loss decreases within a few steps
TEXT_OPTIONS = {"vocab_size": 600, "initializer_range": 0.2}
HEADS: dict[str, Any] = {
    "retrieval": (AlproForVideoTextRetrieval, lambda: alpro_config(TEXT_OPTIONS), VideoTextCollator, {}),
    "answering": (
        AlproForVideoQuestionAnswering,
        lambda: alpro_config(TEXT_OPTIONS, num_labels=2, label2id=ANSWERS, id2label={0: "run", 1: "jump"}),
        VideoQuestionAnsweringCollator,
        {"label2id": ANSWERS},
    ),
}


@pytest.mark.parametrize("head", HEADS)
def test_loss_decreases_in_training(head: str, processor: AlproProcessor, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the Trainer needs the extra [train]")
    kind, config, collator, options = HEADS[head]
    torch.manual_seed(0)
    model: nn.Module = kind(config())
    before = {name: value.clone() for name, value in model.named_parameters()}
    negative = np.stack([255 - numbered_frame(number) for number in range(5)])
    rows = [ROWS[0], {**ROWS[1], "video": negative, "caption": "a cat", "answer": "jump"}]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=25,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        use_cpu=True,
        disable_tqdm=True,
    )
    data = collator(processor, image_root=folder, **options)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=data)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    unchanged = {name for name, value in model.named_parameters() if torch.equal(value, before[name])}
    assert not unchanged, f"parameters without updates: {sorted(unchanged)}"
