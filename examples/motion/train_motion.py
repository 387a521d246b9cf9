# SPDX-License-Identifier: Apache-2.0
"""Train a small ALPRO from scratch to say how things move, and show that it looks at the order of the frames.

Nothing is downloaded: the words come from the questions, the weights from a seed. No accelerator is needed::

    python examples/motion/render_clips.py --output clips        # or any folder of the same form
    python examples/motion/train_motion.py --data clips --output motion_model

It is a plain `transformers.Trainer`: the data set gives frames, a question and an answer, the collator lets the
processor make the inputs, and `AlproForVideoQuestionAnswering` returns the loss. A clip can be mirrored and played
backwards, if the answer is exchanged with it; so every clip stands for eight.

Letters: F frames, S side.
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

SIZE, PATCH, FRAMES, STORED, SHIFT = 64, 16, 8, 16, 4
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

#: what an answer becomes when the clip is played backwards, mirrored left to right, or upside down
BACKWARDS = {"left": "right", "right": "left", "up": "down", "down": "up", "grows": "shrinks", "shrinks": "grows"}
MIRRORED = {"left": "right", "right": "left"}
UPSIDE_DOWN = {"up": "down", "down": "up"}


def exchanged(answer: str, words: dict[str, str]) -> str:
    """An answer with its words exchanged."""
    return " ".join(words.get(word, word) for word in answer.split())


def read_rows(folder: Path, part: str) -> list[dict[str, Any]]:
    """The questions of one part: rows {video, question, answer}."""
    listing = folder / f"qa_{part}.json"
    if not listing.is_file():
        raise OSError(f"There is no {str(listing)!r}. Draw clips with examples/motion/render_clips.py first.")
    return json.loads(listing.read_text(encoding="utf-8"))


def read_clips(folder: Path, rows: list[dict[str, Any]], processor: AlproProcessor) -> dict[str, np.ndarray]:
    """Each clip once, by name: uint8 (STORED, S, S, 3)."""
    clips = {}
    for name in dict.fromkeys(row["video"] for row in rows):
        batch = processor.video_processor(folder / name, num_frames=STORED, do_normalize=False)
        frames = batch["pixel_values_videos"][0].transpose(0, 2, 3, 1)
        clips[name] = np.rint(frames * 255).astype(np.uint8)
    return clips


def backwards(row: dict[str, Any]) -> dict[str, Any]:
    """A row {video, question, answer} whose clip is played backwards."""
    video = np.ascontiguousarray(row["video"][::-1])
    return {**row, "video": video, "answer": exchanged(row["answer"], BACKWARDS)}


class MotionQuestions(Dataset):
    """One row per clip, with the question, the side that it is seen from and a small shift drawn.

    Args:
        rows: what `read_rows` gives.
        clips: what `read_clips` gives.
        share_of_motion: how often the drawn question is one about motion, where there is one.
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
        wanted = [row for row in self.questions[name] if about_color(row) == color] or self.questions[name]
        row = wanted[int(torch.randint(len(wanted), ()))]
        question = row["question"]
        if not about_color(row):
            # The name of the thing is that of another clip's: by its own, every answer could be learnt by heart.
            question = self.about_motion[int(torch.randint(len(self.about_motion), ()))]
        first = int(torch.randint(STORED // FRAMES, ()))
        frames, answer = self.clips[name][first :: STORED // FRAMES], row["answer"]
        turns = ((2, MIRRORED), (1, UPSIDE_DOWN))
        for (axis, words), drawn in zip(turns, (torch.rand(2) < 0.5).tolist(), strict=True):
            if drawn:
                frames, answer = np.flip(frames, axis), exchanged(answer, words)
        return {
            "video": shifted(frames, *torch.randint(2 * SHIFT + 1, (2,)).tolist()),
            "question": question,
            "answer": answer,
        }


def about_color(row: dict[str, Any]) -> bool:
    """Whether a question is about the background, not about motion."""
    return "color" in row["question"]


def shifted(frames: np.ndarray, top: int, left: int) -> np.ndarray:
    """Frames moved by up to SHIFT pixels, top and left from 0 to 2 * SHIFT; the ground goes on at the edges."""
    wide = np.pad(frames, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    return np.ascontiguousarray(wide[:, top : top + SIZE, left : left + SIZE])


class ForwardsAndBackwards(VideoQuestionAnsweringCollator):
    """Plays each clip of a batch in both directions, so that all a pair differs in is the order of its frames.

    With clips drawn one by one the order is a small part of what answers differ in, and takes many times the steps.
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return super().__call__([*rows, *map(backwards, rows)])


def make_processor(questions: list[str]) -> AlproProcessor:
    """Processor of the small model; its vocabulary is the words of the questions, and single letters for others."""
    words = sorted({word for question in questions for word in clean_question(question).replace("?", " ? ").split()})
    letters = sorted({letter for word in words for letter in word} | set("abcdefghijklmnopqrstuvwxyz0123456789"))
    vocabulary = dict.fromkeys([*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters), *words])
    return AlproProcessor(
        LavisVideoProcessor(size=SIZE, num_frames=FRAMES),
        bert_tokenizer(list(vocabulary)),
        max_text_length=40,
        cleaning="question",
    )


def make_model(processor: AlproProcessor, answers: list[str], width: int, layers: int) -> Any:
    """The small model, with the sizes of ALPRO scaled down."""
    tokenizer = processor.tokenizer
    heads = width // 32
    scale = width**-0.5  # narrow layers need larger first weights than the 0.02 of a width of 768
    config = AlproConfig(
        vision_config={
            "image_size": SIZE,
            "patch_size": PATCH,
            "num_frames": FRAMES,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "drop_path_rate": 0.0,
            "initializer_range": scale,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "num_hidden_layers": 2,
            "fusion_layer": 1,
            "num_attention_heads": heads,
            "intermediate_size": 2 * width,
            "max_position_embeddings": 40,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": scale,
        },
        initializer_range=scale,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        id2label=dict(enumerate(answers)),
        label2id={answer: number for number, answer in enumerate(answers)},
    )
    model = AlproForVideoQuestionAnswering(config)
    # ALPRO starts from a tower that knows pictures and adds time to it from nothing. Here nothing is known yet, so
    # time and place start as vectors of which neighbours are alike, and patches small enough not to drown them.
    tower = model.vision_model
    side = SIZE // PATCH
    with torch.no_grad():
        tower.patch_embed.proj.weight.mul_(0.03 / scale)
        down, across = wandering(side, width), wandering(side, width)
        tower.pos_embed[0, 1:] = (down[:, None] + across[None]).flatten(0, 1)
        tower.time_embed[0] = wandering(FRAMES, width)
        for block in tower.blocks:
            nn.init.trunc_normal_(block.temporal_fc.weight, std=scale)
    return model


def wandering(steps: int, width: int) -> torch.Tensor:
    """Random vectors (steps, width) of which neighbours are alike and the ends are not, of mean 0 and variance 1."""
    walk = torch.randn(steps, width).cumsum(dim=0)
    walk = walk - walk.mean(dim=0)
    return walk / walk.std()


def train(
    data: Path,
    output: Path,
    epochs: float = 90,
    batch_size: int = 16,
    learning_rate: float = 1.5e-3,
    width: int = 96,
    layers: int = 3,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Train, measure and save.

    Args:
        data: folder with `qa_train.json`, `qa_val.json` and clips.
        output: folder of the model, which `from_pretrained` and `pipeline` read.
        epochs: passes over the clips; one question of each is asked per pass.
        batch_size: clips per step, each of them in both directions.
        learning_rate: highest, reached after a tenth of the steps.
        width: D of both towers, a multiple of 32.
        layers: blocks of the video tower.
        seed: of weights, order and turns.

    Returns:
        What `measure_motion.measure` says about the held-out part.
    """
    set_seed(seed)
    rows = {part: read_rows(data, part) for part in ("train", "val")}
    answers = sorted({row["answer"] for row in rows["train"]})
    processor = make_processor([row["question"] for row in rows["train"]])
    clips = {part: read_clips(data, rows[part], processor) for part in rows}
    model = make_model(processor, answers, width, layers)
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
        data_collator=ForwardsAndBackwards(processor, label2id=model.config.label2id),
    )
    trainer.train()
    model.save_pretrained(output)
    processor.save_pretrained(output)
    figures = measure(
        model.eval(), processor, rows["val"], {k: v[:: STORED // FRAMES] for k, v in clips["val"].items()}
    )
    (output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", metavar="FOLDER", type=Path, required=True, help="qa_train.json, qa_val.json, clips")
    parser.add_argument("--output", metavar="FOLDER", type=Path, required=True, help="folder of the model")
    parser.add_argument("--epochs", metavar="N", type=float, default=90, help="passes over the clips (%(default)s)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of weights and order (%(default)s)")
    args = parser.parse_args(argv)
    print(format_table(train(args.data, args.output, epochs=args.epochs, seed=args.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
