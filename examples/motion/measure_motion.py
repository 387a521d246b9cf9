# SPDX-License-Identifier: Apache-2.0
"""How well a model answers what needs the order of frames, with the frames in order and with the frames shuffled.

A shuffled clip of something that moves left is also a shuffled clip of something that moves right: its frames are the
same. Whoever sees only the frames, not their order, can still tell that it moves from side to side, but has to guess
which way. So for each question two figures are taken.

- **accuracy**: how often the answer with the highest score of all answers is right. Without the order of frames it can
  be 50 % at most.
- **of its pair**: how often the right answer has a higher score than its opposite. Without the order of frames it is
  50 %, whatever else the model makes of a clip that jumps; this is what is called chance here.

Letters: K clips.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

#: answers that no set of frames without an order can tell apart
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
    """Scores (K, answers) of the model."""
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
    Ask the questions of a held-out part.

    Args:
        model: an `AlproForVideoQuestionAnswering` in evaluation mode.
        processor: its processor.
        rows: {video, question, answer}.
        clips: frames (F, S, S, 3) by the name of the video.
        shuffles: how often each clip is shuffled, each time in another order.

    Returns:
        For each kind of question: `count`, `accuracy`, `of_pair`, `shuffled_accuracy`, `shuffled_of_pair`; kinds that
        do not need the order have no `of_pair`.
    """
    label2id = {answer: int(number) for answer, number in model.config.label2id.items()}
    rows = [row for row in rows if row["answer"] in label2id]
    draw = np.random.default_rng(0)
    videos, questions = [clips[row["video"]] for row in rows], [row["question"] for row in rows]
    right = torch.tensor([label2id[row["answer"]] for row in rows])
    opposite = torch.tensor([label2id[OPPOSITES.get(row["answer"], row["answer"])] for row in rows])
    in_order = [scores(model, processor, videos, questions)]
    shuffled = [
        scores(model, processor, [draw.permutation(video) for video in videos], questions) for _ in range(shuffles)
    ]

    def figures(which: list[int]) -> dict[str, Any]:
        place = torch.tensor(which)
        found: dict[str, Any] = {"count": len(which)}
        for name, runs in (("", in_order), ("shuffled_", shuffled)):
            hits = [(run.argmax(-1) == right)[place].float().mean().item() for run in runs]
            found[f"{name}accuracy"] = sum(hits) / len(hits)
            if bool((right != opposite)[place].all()):
                better = run_of_pairs(runs, right, opposite, place)
                found[f"{name}of_pair"] = better
        return found

    kinds = {name: [i for i, row in enumerate(rows) if row["answer"] in answers] for name, answers in KINDS.items()}
    kinds = {"needs the order": [i for group in kinds.values() for i in group], **kinds}
    rest = [i for i in range(len(rows)) if i not in kinds["needs the order"]]
    kinds["color"] = [i for i in rest if "color" in rows[i]["question"]]
    kinds["spins or stays still"] = [i for i in rest if "color" not in rows[i]["question"]]
    return {name: figures(which) for name, which in kinds.items() if which}


def run_of_pairs(runs: list[torch.Tensor], right: torch.Tensor, opposite: torch.Tensor, place: torch.Tensor) -> float:
    """How often the right answer has a higher score than its opposite, over all runs."""
    at = torch.arange(len(right))
    hits = [(run[at, right] > run[at, opposite])[place].float().mean().item() for run in runs]
    return sum(hits) / len(hits)


def format_table(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table, in percent."""

    def percent(row: dict[str, Any], name: str) -> str:
        return f"{100 * row[name]:.1f}" if name in row else "-"

    columns = ("accuracy", "of_pair", "shuffled_accuracy", "shuffled_of_pair")
    lines = ["| question | clips | accuracy | of its pair | shuffled: accuracy | shuffled: of its pair |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, row in figures.items():
        lines.append(f"| {name} | {row['count']} | " + " | ".join(percent(row, column) for column in columns) + " |")
    return "\n".join(lines)
