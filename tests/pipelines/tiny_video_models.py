"""Tiny random ALPRO models with a processor, saved as repositories."""

from pathlib import Path

import torch

import modeling_lavis
from modeling_lavis import AlproConfig, AlproProcessor, LavisVideoProcessor
from modeling_lavis.models.tokenization_lavis import bert_tokenizer

SIZE, FRAMES = 32, 3
ANSWERS = {0: "run", 1: "jump", 2: "sleep"}


def save_video_model(folder: Path, head: str, tokenizer: Path) -> Path:
    """Save a random model of the class `Alpro<head>` and its processor, and return the folder."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
    config = AlproConfig(
        vision_config={**sizes, "image_size": SIZE, "num_frames": FRAMES},
        text_config={**sizes, "vocab_size": 600, "intermediate_size": 48, "max_position_embeddings": 64},
        projection_dim=16,
        cls_token_id=2,
        eos_token_id=3,
        initializer_range=0.3,
        id2label=ANSWERS,
    )
    torch.manual_seed(0)
    getattr(modeling_lavis, f"Alpro{head}")(config).save_pretrained(folder)
    processor = LavisVideoProcessor(size=SIZE, num_frames=FRAMES)
    AlproProcessor(processor, bert_tokenizer(str(tokenizer))).save_pretrained(folder)
    return folder
