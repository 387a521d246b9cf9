"""Recordings of the original (golden sets) as inputs of a conversion."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

GOLDENS = Path(os.environ.get("LAVIS_GOLDENS", Path(__file__).parents[1] / "goldens"))
TOKENIZER = GOLDENS / "tokenizer"
BLIP = (
    "blip_caption",
    "blip_classification",
    "blip_feature_extractor",
    "blip_image_text_matching",
    "blip_nlvr",
    "blip_pretrain",
    "blip_retrieval",
    "blip_vqa",
)


def checkpoint(architecture: str) -> Path:
    """The checkpoint of a golden set."""
    return GOLDENS / architecture / "checkpoint.pth"


def settings(architecture: str) -> dict[str, Any]:
    """The configuration of a golden set."""
    return json.loads((GOLDENS / architecture / "config.json").read_text())


def weights(architecture: str) -> dict[str, Tensor]:
    """The weights of a golden set by the original's keys."""
    return dict(torch.load(checkpoint(architecture), weights_only=True)["model"])


def arguments(architecture: str, output: Path, /, **changes: Any) -> dict[str, Any]:
    """Arguments of `convert` for a golden set, updated by `changes`."""
    return {
        "architecture": architecture,
        "checkpoint": checkpoint(architecture),
        "output": output,
        "config": settings(architecture),
        "tokenizer": TOKENIZER,
    } | changes


def complete_arguments(architecture: str, output: Path, /, **changes: Any) -> dict[str, Any]:
    """Arguments of `convert` for a golden set of any family, with the frozen parts that lie beside its checkpoint."""
    folder = GOLDENS / architecture
    parts: dict[str, Any] = {}
    if (folder / "vision.pth").exists() and architecture != "blip2_image_text_matching":  # whose encoder was trained
        parts["vision_checkpoint"] = folder / "vision.pth"
    if (folder / "llm").is_dir():
        parts["language_model"] = folder / "llm"
    return arguments(architecture, output, **parts, **changes)
