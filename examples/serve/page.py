"""A page that captions a picture: `MODEL=FOLDER_OR_REPOSITORY python examples/serve/page.py`."""

import os

import gradio
from transformers import pipeline

from modeling_lavis.embedded import embedded_model_path

captioner = pipeline("image-captioning", model=os.environ.get("MODEL") or embedded_model_path())


def caption(image, beams):
    return captioner(image, num_beams=int(beams))[0]["generated_text"]


inputs = [gradio.Image(type="pil", label="Picture"), gradio.Slider(1, 8, 3, step=1, label="Beams")]
page = gradio.Interface(caption, inputs, gradio.Textbox(label="Caption"), flagging_mode="never")

if __name__ == "__main__":
    page.queue(max_size=32).launch(max_file_size="8mb")
