"""Tiny data sets of all tasks in files, and the values that make a small recipe tiny."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}

#: values of recipes that make a step take milliseconds
TINY: dict[str, Any] = {
    "model.image_size": 32,
    "model.config.vision_config": {
        "patch_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    "start.vision": None,
    "start.text": None,
    "start.vocabulary_size": 100,
}
TINY_TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def tiny_values(recipe: str) -> dict[str, Any]:
    """Values that make a small recipe tiny."""
    values = dict(TINY)
    section = "qformer_config" if "blip2" in recipe else "text_config"
    values[f"model.config.{section}"] = {**TINY_TEXT, "max_position_embeddings": 64}
    if "blip2" in recipe:
        values["model.config.vision_config"] = {**TINY["model.config.vision_config"], "model_type": "lavis_eva"}
        values["model.config.qformer_config"] |= {"num_query_tokens": 4}
    if "video" in recipe:
        values["model.num_frames"] = 2
        values["model.config.text_config"] |= {"fusion_layer": 1}
    return values


def write_images(folder: Path) -> dict[str, str]:
    """Four pictures of one color each: file name by color."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, color in COLORS.items():
        PIL.Image.new("RGB", (40, 40), color).save(folder / f"{name}.png")
    return {name: f"{name}.png" for name in COLORS}


def write_clips(folder: Path) -> dict[str, str]:
    """Four animations of four frames, of one color each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, color in COLORS.items():
        frames = [PIL.Image.fromarray(np.full((40, 40, 3), color, np.uint8) // (1 + step)) for step in range(4)]
        frames[0].save(folder / f"{name}.gif", save_all=True, append_images=frames[1:], duration=100, loop=0)
    return {name: f"{name}.gif" for name in COLORS}


def write_data(folder: Path, task: str) -> Path:
    """A file with the rows of a task, with paths relative to it."""
    if task.startswith("video"):
        media = write_clips(folder)
    else:
        media = write_images(folder)
    names = list(COLORS)
    rows: list[dict[str, Any]] = []
    for index, (name, file) in enumerate(media.items()):
        other = names[(index + 1) % len(names)]
        if task == "vqa":
            rows.append({"image": file, "question": "what color is it?", "answer": [name] * 10, "question_id": index})
        elif task == "nlvr":
            pair = [file, media[other]]
            rows.append({"images": pair, "sentence": f"the left picture is {name}", "label": "True"})
            rows.append({"images": pair, "sentence": f"the left picture is {other}", "label": "False"})
        elif task == "classification":
            rows.append({"image": file, "label": name})
        elif task == "video-qa":
            rows.append({"video": file, "question": "what color is it?", "answer": name, "question_id": index})
        elif task == "video-retrieval":
            rows.append({"video": file, "caption": f"a {name} clip", "video_id": name})
        else:
            rows.append({"image": file, "caption": [f"a {name} square"], "image_id": index})
    path = folder / f"{task}.json"
    path.write_text(json.dumps(rows))
    return path
