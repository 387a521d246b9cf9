# SPDX-License-Identifier: Apache-2.0
"""The tab that scores texts against an image or a video, and shows where the model looked for each word."""

from modeling_lavis.demo.context import PageContext, gr, lines_of, media_input, run_on
from modeling_lavis.demo.maps import text_maps
from modeling_lavis.demo.markup import Bar, bar_table, note
from modeling_lavis.demo.media import read_media
from modeling_lavis.demo.models import PageModel

MAX_TEXTS = 100
MAPPED_TEXTS = 3  # of the best texts, since each needs a backward pass


def add_tab(context: PageContext, entry: PageModel) -> None:
    """Add the fields and the button of the tab."""
    matcher, modality = entry.pipelines["match"], entry.modality

    def match(path: str | None, given: str, with_maps: bool) -> str:
        medium = read_media(path, modality)
        texts = lines_of(given)
        if not 0 < len(texts) <= MAX_TEXTS:
            raise ValueError(f"There are {len(texts)} texts; expected 1 to {MAX_TEXTS}, one per line.")
        rows = sorted(matcher(medium, text=texts), key=lambda row: -row["score"])
        bars = [Bar(row["text"], row["score"], (f"{row['similarity']:+.3f}",)) for row in rows]
        table = bar_table(("Text", "Probability of a match", "Cosine similarity"), bars)
        if not with_maps:
            return table
        maps = "".join(text_maps(matcher, medium, row["text"]) for row in rows[:MAPPED_TEXTS])
        how = "Point at a word, or go to it with the Tab key, to see where the model looked for it (Grad-CAM)."
        return table + note(how) + maps

    with gr.Row():
        with gr.Column(min_width=280):
            field = media_input(context, modality)
        with gr.Column(min_width=280):
            texts = gr.Textbox(label="Texts, one per line", lines=4, placeholder="a man singing\na woman teaching")
            with_maps = gr.Checkbox(False, label=f"Maps of the words of the best {MAPPED_TEXTS} texts")
            button = gr.Button("Match", variant="primary")
            result = gr.HTML(label="Matches", elem_id=f"matches-{modality}")
    run_on([button.click], match, [field, texts, with_maps], result)


__all__ = ["MAPPED_TEXTS", "MAX_TEXTS", "add_tab"]
