"""What the page about LAVIS's calls needs: recordings by the names of published checkpoints, photos, a clip."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tests.documentation.materials import GOLDENS, TOKENIZER, convert_recorded, photos

#: published checkpoints that the page loads; a recording stands for each
CHECKPOINTS = (
    ("albef_classification", "ve"),
    ("albef_feature_extractor", "base"),
    ("albef_vqa", "vqav2"),
    ("alpro_qa", "msvd"),
    ("blip2", "pretrain"),
    ("blip2_feature_extractor", "pretrain"),
    ("blip2_opt", "pretrain_opt2.7b"),
    ("blip2_t5", "pretrain_flant5xl"),
    ("blip_caption", "base_coco"),
    ("blip_feature_extractor", "base"),
    ("blip_image_text_matching", "base"),
    ("blip_nlvr", "nlvr"),
    ("blip_retrieval", "coco"),
    ("blip_vqa", "vqav2"),
)


def prepare(folder: Path) -> dict[str, Any]:
    from modeling_lavis.hub import repositories, zoo
    from tests.models.video_clips import write_clip

    for architecture, model_type in CHECKPOINTS:
        convert_recorded(architecture, folder / "repositories" / zoo.get(architecture, model_type).repository)
    os.environ[repositories.VARIABLE] = str(folder / "repositories")
    # a file of LAVIS: the tiny one needs sizes and a tokenizer, which the conversion of a full-size one finds itself
    (folder / "output").mkdir()
    shutil.copy(GOLDENS / "blip_caption" / "checkpoint.pth", folder / "output" / "checkpoint_best.pth")
    sizes = json.loads((GOLDENS / "blip_caption" / "config.json").read_text(encoding="utf-8"))
    published = zoo.get("blip_caption", "base_coco")
    known = {part: sizes[part] for part in ("vision", "text")}
    zoo.entries()["blip_caption", "base_coco"] = zoo.ZooEntry(
        published.architecture, published.model_type, {**published.settings, **known}
    )
    bert = folder / "bert-base-uncased"  # from_pretrained takes a folder of that name before it asks the Hub
    shutil.copytree(TOKENIZER, bert)
    write_clip(folder / "clip.mp4", frames=24)
    found = list(photos().values())
    return {"photo": found[0], "photos": found[:2], "clip": str(folder / "clip.mp4")}


def commands(words: list[str]) -> list[str]:
    return words
