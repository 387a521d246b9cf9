"""Tiny models and a handful of small pictures in the forms that the examples take."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BertConfig, BertModel, OPTConfig, OPTForCausalLM

from modeling_lavis.embedded import embedded_images
from modeling_lavis.training.vocabularies import train_tokenizer

SPANISH = ["una persona que corre", "un hombre en una ola", "una maestra", "un niño que canta", "una bombera"]


def _rows(task: str, names: list[str], captions: list[str]) -> list[dict[str, Any]]:
    if task == "vqa":
        return [{"image": n, "question": "what is it?", "answer": [c.split()[0]] * 10} for n, c in zip(names, captions)]
    if task == "nlvr":
        pairs = zip(names, names[1:] + names[:1], captions)
        return [
            {"images": [left, right], "sentence": f"the left picture is a {caption}", "label": str(number % 2 == 0)}
            for number, (left, right, caption) in enumerate(pairs)
        ]
    if task == "classification":
        labels = ["entailment", "neutral", "contradiction", "neutral"]
        return [{"image": n, "sentence": c, "label": label} for n, c, label in zip(names, captions, labels)]
    if task == "video-qa":
        answers = ["run", "sleep", "run", "sleep"]
        return [{"video": n, "question": "what is it doing?", "answer": a} for n, a in zip(names, answers)]
    if task == "spanish":
        return [{"image": n, "caption": c, "image_id": n} for n, c in zip(names, SPANISH)]
    return [{"image": n, "caption": c, "image_id": n} for n, c in zip(names, captions)]


def write_splits(folder: Path, task: str) -> str:
    """Four pictures, or clips, in `train.json` and four others in `val.json`; returns the folder."""
    folder.mkdir(parents=True)
    for split, images in (("train", embedded_images()[:4]), ("val", embedded_images()[4:8])):
        names = [image.path.name for image in images]
        for image in images:
            shutil.copy(image.path, folder)
        if task == "video-qa":
            names = [_clip(image.path, folder) for image in images]
        rows = _rows(task, names, [image.caption for image in images])
        (folder / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
    return str(folder)


def _clip(picture: Path, folder: Path) -> str:
    """An animation of a picture that moves; returns the name of its file."""
    image = Image.open(picture).convert("RGB").resize((64, 64))
    frames = [Image.new("RGB", (80, 80), "white") for _ in range(4)]
    for step, frame in enumerate(frames):
        frame.paste(image, (4 * step, 8))
    frames[0].save(folder / f"{picture.stem}.gif", save_all=True, append_images=frames[1:], duration=100)
    return f"{picture.stem}.gif"


def save_bert(folder: Path, texts: list[str]) -> str:
    """A tiny random BERT with a tokenizer made of texts."""
    tokenizer = train_tokenizer(texts, 120)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_language_model(folder: Path, texts: list[str]) -> str:
    """A tiny random OPT with a tokenizer made of texts."""
    tokenizer = train_tokenizer(texts, 120)
    tokenizer.bos_token, tokenizer.eos_token = "[CLS]", "[SEP]"
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=32, word_embed_proj_dim=32, ffn_dim=64, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def captions() -> list[str]:
    """The captions of the embedded pictures."""
    return [image.caption for image in embedded_images()]
