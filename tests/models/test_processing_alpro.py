"""ALPRO's processor: saving and loading, skipped videos, answer labels."""

import json
from pathlib import Path

import torch
from transformers import AutoProcessor, AutoVideoProcessor

from modeling_lavis import AlproConfig, AlproProcessor, LavisVideoProcessor
from modeling_lavis.models.tokenization_lavis import bert_tokenizer
from tests.models.video_clips import write_clip

GOLDEN_TOKENIZER = Path(__file__).parents[1] / "goldens" / "tokenizer"


def test_save_and_load_with_auto_classes(tmp_path: Path) -> None:
    own = AlproProcessor(LavisVideoProcessor(size=16, num_frames=2), bert_tokenizer(str(GOLDEN_TOKENIZER)), 12)
    own.save_pretrained(tmp_path)
    AlproConfig().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "processor_config.json").read_text())
    assert stored["video_processor"]["num_frames"] == 2
    assert isinstance(AutoVideoProcessor.from_pretrained(tmp_path), LavisVideoProcessor)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, AlproProcessor) and again.max_text_length == 12
    clip = write_clip(tmp_path / "clip.mp4")
    inputs = {"videos": [clip], "text": ["a dog (running)"], "return_tensors": "pt"}
    for name, value in own(**inputs).items():
        assert torch.equal(again(**inputs)[name], value)


def test_texts_of_skipped_videos_are_skipped(tmp_path: Path) -> None:
    processor = AlproProcessor(LavisVideoProcessor(size=16, num_frames=2), bert_tokenizer(str(GOLDEN_TOKENIZER)))
    clip = write_clip(tmp_path / "clip.mp4")
    batch = processor(
        videos=[clip, tmp_path / "none.mp4"],
        text=["a dog", "a red ball on the beach"],
        answers=[3, 4],
        on_error="skip",
        return_tensors="pt",
    )
    assert len(batch["pixel_values_videos"]) == len(batch["input_ids"]) == 1 and batch["labels"].tolist() == [3]
    assert torch.equal(batch["input_ids"], processor(text=["a dog"], return_tensors="pt")["input_ids"])
    assert processor.answer_labels(["yes", "maybe"], {"yes": 1}).tolist() == [1, -100]
