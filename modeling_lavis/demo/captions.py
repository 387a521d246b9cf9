# SPDX-License-Identifier: Apache-2.0
"""The tab for captions: by beam search or by sampling, one or several."""

import math
from typing import Any

from modeling_lavis.demo.context import PageContext, gr, media_input, run_on
from modeling_lavis.demo.markup import Bar, bar_table
from modeling_lavis.demo.media import read_media
from modeling_lavis.demo.models import PageModel

_BEAMS, _SAMPLING = "Beam search", "Sampling"


def generation_options(
    strategy: str, count: float, beams: float, temperature: float, top_p: float, max_new_tokens: float
) -> dict[str, Any]:
    """Options of `generate` for what was chosen; beam search has at least as many beams as captions."""
    options: dict[str, Any] = {"num_return_sequences": int(count), "max_new_tokens": int(max_new_tokens)}
    if strategy == _SAMPLING:
        return {**options, "do_sample": True, "num_beams": 1, "temperature": float(temperature), "top_p": float(top_p)}
    return {**options, "do_sample": False, "num_beams": max(int(beams), int(count))}


def add_tab(context: PageContext, entry: PageModel) -> None:
    """Add the fields and the button of the tab."""
    captioner = entry.pipelines["caption"]

    def caption(path: str | None, prompt: str, *choices: Any) -> str:
        image = read_media(path, "image")
        found = captioner(image, prompt=prompt, **generation_options(*choices))
        # the geometric mean of the probabilities of the tokens
        rows = [
            Bar(row["generated_text"], math.exp(row["score"]), (f"{row['score']:.2f}",))
            for row in sorted(found, key=lambda row: -row["score"])
        ]
        return bar_table(("Caption", "Probability per token", "Mean log-probability"), rows)

    with gr.Row():
        with gr.Column(min_width=280):
            field = media_input(context, "image")
        with gr.Column(min_width=280):
            prompt = gr.Textbox(captioner.processor.prompt or "", label="Beginning of the caption")
            strategy = gr.Radio([_BEAMS, _SAMPLING], value=_BEAMS, label="Decoding")
            count = gr.Slider(1, 5, 3, step=1, label="Captions")
            beams = gr.Slider(1, 8, 3, step=1, label="Beams")
            temperature = gr.Slider(0.1, 2.0, 1.0, step=0.1, label="Temperature", visible=False)
            top_p = gr.Slider(0.05, 1.0, 0.9, step=0.05, label="Top p", visible=False)
            length = gr.Slider(5, 60, 30, step=1, label="Most new tokens")
            button = gr.Button("Describe the image", variant="primary")
            result = gr.HTML(label="Captions", elem_id="captions")

    strategy.change(
        lambda chosen: [gr.update(visible=(chosen == _SAMPLING) == sampled) for sampled in (False, True, True)],
        [strategy],
        [beams, temperature, top_p],
        api_visibility="private",
        show_progress="hidden",
    )
    choices = [strategy, count, beams, temperature, top_p, length]
    run_on([button.click, prompt.submit], caption, [field, prompt, *choices], result)


__all__ = ["add_tab", "generation_options"]
