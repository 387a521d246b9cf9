# SPDX-License-Identifier: Apache-2.0
"""The tab for questions about images or videos: with answers that are generated, ranked, or of a fixed list."""

import math
from collections.abc import Sequence
from typing import Any

from modeling_lavis.demo.context import PageContext, gr, lines_of, media_input, run_on
from modeling_lavis.demo.markup import Bar, bar_table
from modeling_lavis.demo.media import read_media
from modeling_lavis.demo.models import PageModel

MAX_ANSWERS = 1000


def ranked_table(rows: Sequence[dict[str, Any]]) -> str:
    """Ranked answers with their shares of the probability of all of them."""
    highest = max(row["score"] for row in rows)
    weights = [math.exp(row["score"] - highest) for row in rows]
    bars = [Bar(row["answer"], weight / sum(weights), (f"{row['score']:.2f}",)) for row, weight in zip(rows, weights)]
    return bar_table(("Answer", "Share among these answers", "Log-likelihood"), bars)


def add_tab(context: PageContext, entry: PageModel) -> None:
    """Add the fields and the button of the tab."""
    answerer, modality = entry.pipelines["answer"], entry.modality
    can_rank = modality == "image" and hasattr(entry.model, "rank_answers")

    def answer(path: str | None, question: str, candidates: str, count: float) -> str:
        medium = read_media(path, modality)
        if not question.strip():
            raise ValueError("There is no question. Type one.")
        answers = lines_of(candidates)
        if len(answers) > MAX_ANSWERS:
            raise ValueError(f"There are {len(answers)} answers; expected at most {MAX_ANSWERS}.")
        if modality == "video":
            rows = answerer(medium, question=question, top_k=int(count))
            return bar_table(("Answer", "Probability"), [Bar(row["answer"], row["score"]) for row in rows])
        if answers:
            rows = answerer(medium, question=question, answers=answers, top_k=int(count))
            return ranked_table(rows)
        beams = {"num_beams": max(3, int(count)), "num_return_sequences": int(count), "do_sample": False}
        rows = sorted(answerer(medium, question=question, **beams), key=lambda row: -row["score"])
        bars = [Bar(row["answer"], math.exp(row["score"]), (f"{row['score']:.2f}",)) for row in rows]
        return bar_table(("Answer", "Probability per token", "Mean log-probability"), bars)

    with gr.Row():
        with gr.Column(min_width=280):
            field = media_input(context, modality)
        with gr.Column(min_width=280):
            question = gr.Textbox(label="Question", placeholder="what is this?")
            candidates = gr.Textbox(
                label="Answers to rank, one per line; none: the model makes its own",
                lines=4,
                visible=can_rank,
            )
            count = gr.Slider(1, 10, 3, step=1, label="Answers to show")
            button = gr.Button("Answer", variant="primary")
            result = gr.HTML(label="Answers", elem_id=f"answers-{modality}")
    run_on([button.click, question.submit], answer, [field, question, candidates, count], result)


__all__ = ["MAX_ANSWERS", "add_tab", "ranked_table"]
