# SPDX-License-Identifier: Apache-2.0
"""The tab that converts a checkpoint of LAVIS that is on this machine, and shows the report."""

from pathlib import Path
from typing import Any

from modeling_lavis.demo.context import PageContext, gr, run_on
from modeling_lavis.demo.markup import report
from modeling_lavis.hub import zoo
from modeling_lavis.hub.convert import DTYPES, convert

_AS_STORED, _NOT_PUBLISHED = "as stored", "none: a checkpoint of your own"


def model_types(architecture: str) -> list[str]:
    """The published model types of an architecture."""
    return [model_type for name, model_type in zoo.entries() if name == architecture]


def add_tab(context: PageContext) -> None:
    """Add the fields and the button of the tab."""
    folders = context.folders

    def run(architecture: str, model_type: str, checkpoint: str, output: str, dtype: str, *parts: str) -> str:
        def part(text: str, what: str) -> Path | None:
            return folders.check(text, what) if text and text.strip() else None

        tokenizer, vision, language, settings = parts
        done = convert(
            architecture,
            folders.file(checkpoint, "checkpoint"),
            folders.check(output, "output"),
            model_type=None if model_type == _NOT_PUBLISHED else model_type,
            config=part(settings, "file of settings"),
            tokenizer=part(tokenizer, "tokenizer"),
            vision_checkpoint=part(vision, "checkpoint of the image encoder"),
            language_model=part(language, "language model"),
            dtype=None if dtype == _AS_STORED else dtype,
        )
        return report(str(done))

    where = ", ".join(map(str, folders.folders))
    gr.Markdown(
        "Every weight of the checkpoint is used once or dropped for a stated reason; otherwise nothing is written. "
        f"Paths are inside of: {where}"
    )
    with gr.Row():
        with gr.Column(min_width=280):
            names = zoo.architectures()
            architecture = gr.Dropdown(names, value="blip_caption", label="Architecture in LAVIS")
            model_type = gr.Dropdown(
                [_NOT_PUBLISHED, *model_types("blip_caption")], value=_NOT_PUBLISHED, label="Published model type"
            )
            checkpoint = gr.Textbox(label="Checkpoint", placeholder="path of a .pth or .safetensors file")
            output = gr.Textbox(label="Output", placeholder="path of a new folder")
            dtype = gr.Radio([_AS_STORED, *DTYPES], value=_AS_STORED, label="Stored dtype")
            with gr.Accordion("More files", open=False):
                further: list[Any] = [
                    gr.Textbox(label=label, placeholder=hint)
                    for label, hint in (
                        ("Tokenizer", "path of a folder; the published one, if it was downloaded before"),
                        ("Checkpoint of the image encoder", "BLIP-2 only"),
                        ("Language model", "path of a folder; BLIP-2 only"),
                        ("Settings", "path of a JSON file; sizes are inferred from the weights"),
                    )
                ]
            button = gr.Button("Convert", variant="primary")
        with gr.Column(min_width=280):
            result = gr.HTML(label="Report", elem_id="report")
    architecture.change(
        lambda chosen: gr.update(choices=[_NOT_PUBLISHED, *model_types(chosen)], value=_NOT_PUBLISHED),
        [architecture],
        [model_type],
        api_visibility="private",
        show_progress="hidden",
    )
    run_on([button.click], run, [architecture, model_type, checkpoint, output, dtype, *further], result)


__all__ = ["add_tab", "model_types"]
