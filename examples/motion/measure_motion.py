# SPDX-License-Identifier: Apache-2.0
"""Measures answers that depend on the order of frames, with ordered and with shuffled frames.

Shuffled clips of a shape that moves left and of one that moves right have the same frames. Without the order of frames,
a model can recognize horizontal motion, but not its direction. So there are two metrics per question.

- **accuracy**: how often the answer with the highest score is correct. Without the order of frames, it is at most 50 %.
- **of its pair**: how often the correct answer has a higher score than its opposite. Without the order of frames, it is
  50 %, whatever the scores of other answers are.

Shapes: K clips.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

#: answers that differ in the order of frames only
OPPOSITES = {
    "moves left": "moves right",
    "moves right": "moves left",
    "moves up": "moves down",
    "moves down": "moves up",
    "grows": "shrinks",
    "shrinks": "grows",
}
KINDS = {
    "left or right": ("moves left", "moves right"),
    "up or down": ("moves up", "moves down"),
    "grows or shrinks": ("grows", "shrinks"),
}


@torch.no_grad()
def scores(model: Any, processor: Any, videos: list[np.ndarray], questions: list[str], batch: int = 40) -> torch.Tensor:
    """Logits of the model, of shape `(K, answers)`."""
    rows = []
    for start in range(0, len(videos), batch):
        part = slice(start, start + batch)
        inputs = processor(videos=videos[part], text=questions[part], return_tensors="pt")
        rows.append(model(**inputs, first_token_only=True).logits)
    return torch.cat(rows)


def measure(
    model: Any, processor: Any, rows: list[dict[str, Any]], clips: dict[str, np.ndarray], shuffles: int = 10
) -> dict[str, Any]:
    """
    Answer the questions of a held-out split.

    Args:
        model ([`AlproForVideoQuestionAnswering`]): model in evaluation mode.
        processor ([`AlproProcessor`]): processor of the model.
        rows (`list[dict]`): rows {video, question, answer}.
        clips (`dict[str, np.ndarray]`): frames of shape `(num_frames, size, size, 3)` by the name of the video.
        shuffles (`int`, *optional*, defaults to 10): number of random orders of each clip.

    Returns:
        `dict`: `count`, `accuracy`, `of_pair`, `shuffled_accuracy` and `shuffled_of_pair` for each kind of question;
        kinds that do not depend on the order have no `of_pair`.
    """
    label2id = {answer: int(number) for answer, number in model.config.label2id.items()}
    rows = [row for row in rows if row["answer"] in label2id]
    draw = np.random.default_rng(0)
    videos, questions = [clips[row["video"]] for row in rows], [row["question"] for row in rows]
    correct = torch.tensor([label2id[row["answer"]] for row in rows])
    opposite = torch.tensor([label2id[OPPOSITES.get(row["answer"], row["answer"])] for row in rows])
    ordered = [scores(model, processor, videos, questions)]
    shuffled = [
        scores(model, processor, [draw.permutation(video) for video in videos], questions) for _ in range(shuffles)
    ]

    def metrics_of(indices: list[int]) -> dict[str, Any]:
        selected = torch.tensor(indices)
        found: dict[str, Any] = {"count": len(indices)}
        for name, runs in (("", ordered), ("shuffled_", shuffled)):
            hits = [(run.argmax(-1) == correct)[selected].float().mean().item() for run in runs]
            found[f"{name}accuracy"] = sum(hits) / len(hits)
            if bool((correct != opposite)[selected].all()):
                share = pair_accuracy(runs, correct, opposite, selected)
                found[f"{name}of_pair"] = share
        return found

    kinds = {name: [i for i, row in enumerate(rows) if row["answer"] in answers] for name, answers in KINDS.items()}
    kinds = {"needs the order": [i for group in kinds.values() for i in group], **kinds}
    others = [i for i in range(len(rows)) if i not in kinds["needs the order"]]
    kinds["color"] = [i for i in others if "color" in rows[i]["question"]]
    kinds["spins or stays still"] = [i for i in others if "color" not in rows[i]["question"]]
    return {name: metrics_of(indices) for name, indices in kinds.items() if indices}


def pair_accuracy(
    runs: list[torch.Tensor], correct: torch.Tensor, opposite: torch.Tensor, selected: torch.Tensor
) -> float:
    """Share of the clips whose correct answer has a higher score than its opposite, over all runs."""
    positions = torch.arange(len(correct))
    hits = [(run[positions, correct] > run[positions, opposite])[selected].float().mean().item() for run in runs]
    return sum(hits) / len(hits)


def format_table(figures: dict[str, Any]) -> str:
    """The metrics as a Markdown table, in percent."""

    def percent(row: dict[str, Any], name: str) -> str:
        return f"{100 * row[name]:.1f}" if name in row else "-"

    columns = ("accuracy", "of_pair", "shuffled_accuracy", "shuffled_of_pair")
    lines = ["| question | clips | accuracy | of its pair | shuffled: accuracy | shuffled: of its pair |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, row in figures.items():
        lines.append(f"| {name} | {row['count']} | " + " | ".join(percent(row, column) for column in columns) + " |")
    return "\n".join(lines)
