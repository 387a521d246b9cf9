# SPDX-License-Identifier: Apache-2.0
"""Train a small ALPRO from scratch to recognize motions, and show that it uses the order of frames.

It downloads nothing and needs no accelerator; the vocabulary comes from the questions::

    python examples/motion/render_clips.py --output clips        # or another folder of the same form
    python examples/motion/train_motion.py --data clips --output motion_model

The script uses `transformers.Trainer`: the dataset returns frames, a question and an answer, the collator runs the
processor, and `AlproForVideoQuestionAnswering` returns the loss. Clips are flipped and reversed in time, with the
corresponding change of the answer, so each clip gives eight training samples.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure_motion import format_table, measure
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from modeling_lavis import AlproConfig, AlproForVideoQuestionAnswering, AlproProcessor, LavisVideoProcessor
from modeling_lavis.data.video_collators import VideoQuestionAnsweringCollator
from modeling_lavis.models.tokenization_lavis import bert_tokenizer, clean_question

SIZE, PATCH, FRAMES, STORED_FRAMES, SHIFT = 64, 16, 8, 16, 4
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

#: words of an answer that change when the clip is reversed in time, or flipped horizontally or vertically
REVERSED_WORDS = {"left": "right", "right": "left", "up": "down", "down": "up", "grows": "shrinks", "shrinks": "grows"}
HORIZONTALLY_FLIPPED_WORDS = {"left": "right", "right": "left"}
VERTICALLY_FLIPPED_WORDS = {"up": "down", "down": "up"}


def replace_words(answer: str, words: dict[str, str]) -> str:
    """Replace words of an answer."""
    return " ".join(words.get(word, word) for word in answer.split())


def read_rows(folder: Path, split: str) -> list[dict[str, Any]]:
    """Questions of a split: rows {video, question, answer}."""
    listing = folder / f"qa_{split}.json"
    if not listing.is_file():
        raise OSError(f"There is no {str(listing)!r}. Run examples/motion/render_clips.py first.")
    return json.loads(listing.read_text(encoding="utf-8"))


def read_clips(folder: Path, rows: list[dict[str, Any]], processor: AlproProcessor) -> dict[str, np.ndarray]:
    """Frames of each clip by name, uint8 of shape `(STORED_FRAMES, SIZE, SIZE, 3)`."""
    clips = {}
    for name in dict.fromkeys(row["video"] for row in rows):
        batch = processor.video_processor(folder / name, num_frames=STORED_FRAMES, do_normalize=False)
        frames = batch["pixel_values_videos"][0].transpose(0, 2, 3, 1)
        clips[name] = np.rint(frames * 255).astype(np.uint8)
    return clips


def reverse_in_time(row: dict[str, Any]) -> dict[str, Any]:
    """Reverse the clip of a row {video, question, answer} in time."""
    video = np.ascontiguousarray(row["video"][::-1])
    return {**row, "video": video, "answer": replace_words(row["answer"], REVERSED_WORDS)}


class MotionQuestions(Dataset):
    """One row per clip, with a random question, random flips and a random shift.

    Args:
        rows (`list[dict]`): output of `read_rows`.
        clips (`dict[str, np.ndarray]`): output of `read_clips`.
        share_of_motion (`float`, *optional*, defaults to 0.8): share of questions about motion, where available.
    """

    def __init__(self, rows: list[dict[str, Any]], clips: dict[str, np.ndarray], share_of_motion: float = 0.8) -> None:
        self.clips = clips
        self.share_of_motion = share_of_motion
        self.questions: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            self.questions.setdefault(row["video"], []).append(row)
        self.names = list(self.questions)
        self.about_motion = [row["question"] for row in rows if not about_color(row)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self.names[index]
        color = bool(torch.rand(()) >= self.share_of_motion)
        candidates = [row for row in self.questions[name] if about_color(row) == color] or self.questions[name]
        row = candidates[int(torch.randint(len(candidates), ()))]
        question = row["question"]
        if not about_color(row):
            # the question of a random clip, because the name of the shape would allow to memorize the answers
            question = self.about_motion[int(torch.randint(len(self.about_motion), ()))]
        first = int(torch.randint(STORED_FRAMES // FRAMES, ()))
        frames, answer = self.clips[name][first :: STORED_FRAMES // FRAMES], row["answer"]
        flips = ((2, HORIZONTALLY_FLIPPED_WORDS), (1, VERTICALLY_FLIPPED_WORDS))
        for (axis, words), flip in zip(flips, (torch.rand(2) < 0.5).tolist(), strict=True):
            if flip:
                frames, answer = np.flip(frames, axis), replace_words(answer, words)
        return {
            "video": shift_frames(frames, *torch.randint(2 * SHIFT + 1, (2,)).tolist()),
            "question": question,
            "answer": answer,
        }


def about_color(row: dict[str, Any]) -> bool:
    """Whether a question is about the background, not about the motion."""
    return "color" in row["question"]


def shift_frames(frames: np.ndarray, top: int, left: int) -> np.ndarray:
    """Shift frames by up to SHIFT pixels, with replicated edges; `top` and `left` range from 0 to 2 * SHIFT."""
    padded = np.pad(frames, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    return np.ascontiguousarray(padded[:, top : top + SIZE, left : left + SIZE])


class ReversedPairsCollator(VideoQuestionAnsweringCollator):
    """Adds each clip of a batch reversed in time, so that the pair differs in the order of frames only.

    Without such pairs, training takes many times more steps.
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return super().__call__([*rows, *map(reverse_in_time, rows)])


def make_processor(questions: list[str]) -> AlproProcessor:
    """Processor of the small model, whose vocabulary consists of the words of the questions and single letters."""
    words = sorted({word for question in questions for word in clean_question(question).replace("?", " ? ").split()})
    letters = sorted({letter for word in words for letter in word} | set("abcdefghijklmnopqrstuvwxyz0123456789"))
    vocabulary = dict.fromkeys([*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters), *words])
    return AlproProcessor(
        LavisVideoProcessor(size=SIZE, num_frames=FRAMES),
        bert_tokenizer(list(vocabulary)),
        max_text_length=40,
        cleaning="question",
    )


def make_model(processor: AlproProcessor, answers: list[str], hidden_size: int, layers: int) -> Any:
    """A small ALPRO model with new weights."""
    tokenizer = processor.tokenizer
    heads = hidden_size // 32
    initializer_range = hidden_size**-0.5  # larger than the 0.02 of hidden size 768
    config = AlproConfig(
        vision_config={
            "image_size": SIZE,
            "patch_size": PATCH,
            "num_frames": FRAMES,
            "hidden_size": hidden_size,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "drop_path_rate": 0.0,
            "initializer_range": initializer_range,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden_size,
            "num_hidden_layers": 2,
            "fusion_layer": 1,
            "num_attention_heads": heads,
            "intermediate_size": 2 * hidden_size,
            "max_position_embeddings": 40,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": initializer_range,
        },
        initializer_range=initializer_range,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        id2label=dict(enumerate(answers)),
        label2id={answer: number for number, answer in enumerate(answers)},
    )
    model = AlproForVideoQuestionAnswering(config)
    # ALPRO starts from a trained image encoder and initializes temporal weights to zero. Training from scratch works
    # better with position and time embeddings in which neighbors are similar, and with small patch embeddings.
    video_encoder = model.vision_model
    side = SIZE // PATCH
    with torch.no_grad():
        video_encoder.patch_embed.proj.weight.mul_(0.03 / initializer_range)
        row_embeddings, column_embeddings = random_walk(side, hidden_size), random_walk(side, hidden_size)
        video_encoder.pos_embed[0, 1:] = (row_embeddings[:, None] + column_embeddings[None]).flatten(0, 1)
        video_encoder.time_embed[0] = random_walk(FRAMES, hidden_size)
        for block in video_encoder.blocks:
            nn.init.trunc_normal_(block.temporal_fc.weight, std=initializer_range)
    return model


def random_walk(steps: int, hidden_size: int) -> torch.Tensor:
    """Standardized random walk of shape `(steps, hidden_size)`: embeddings in which neighbors are similar."""
    walk = torch.randn(steps, hidden_size).cumsum(dim=0)
    walk = walk - walk.mean(dim=0)
    return walk / walk.std()


def train(
    data: Path,
    output: Path,
    epochs: float = 90,
    batch_size: int = 16,
    learning_rate: float = 1.5e-3,
    hidden_size: int = 96,
    layers: int = 3,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Train, measure and save.

    Args:
        data (`Path`): folder with `qa_train.json`, `qa_val.json` and clips.
        output (`Path`): folder of the saved model.
        epochs (`float`, *optional*, defaults to 90): passes over the clips, with one question per clip and pass.
        batch_size (`int`, *optional*, defaults to 16): clips per step, each of them in both directions.
        learning_rate (`float`, *optional*, defaults to 1.5e-3): maximal learning rate, after a tenth of the steps.
        hidden_size (`int`, *optional*, defaults to 96): hidden size of both encoders, a multiple of 32.
        layers (`int`, *optional*, defaults to 3): layers of the video encoder.
        seed (`int`, *optional*, defaults to 0): seed of weights, order and augmentation.

    Returns:
        `dict`: metrics of `measure_motion.measure` on the val split.
    """
    set_seed(seed)
    rows = {split: read_rows(data, split) for split in ("train", "val")}
    answers = sorted({row["answer"] for row in rows["train"]})
    processor = make_processor([row["question"] for row in rows["train"]])
    clips = {split: read_clips(data, rows[split], processor) for split in rows}
    model = make_model(processor, answers, hidden_size, layers)
    arguments = TrainingArguments(
        output_dir=str(output / "trainer"),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=0.02,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        logging_steps=30,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_drop_last=len(clips["train"]) >= batch_size,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=seed,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=MotionQuestions(rows["train"], clips["train"]),
        data_collator=ReversedPairsCollator(processor, label2id=model.config.label2id),
    )
    trainer.train()
    model.save_pretrained(output)
    processor.save_pretrained(output)
    figures = measure(
        model.eval(), processor, rows["val"], {k: v[:: STORED_FRAMES // FRAMES] for k, v in clips["val"].items()}
    )
    (output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", metavar="FOLDER", type=Path, required=True, help="qa_train.json, qa_val.json, clips")
    parser.add_argument("--output", metavar="FOLDER", type=Path, required=True, help="output folder of the model")
    parser.add_argument("--epochs", metavar="N", type=float, default=90, help="passes over the clips (%(default)s)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of weights and order (%(default)s)")
    args = parser.parse_args(argv)
    print(format_table(train(args.data, args.output, epochs=args.epochs, seed=args.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
