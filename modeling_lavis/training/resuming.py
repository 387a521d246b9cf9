# SPDX-License-Identifier: Apache-2.0
"""Runs that continue from a checkpoint: which one, and what it decides of the run."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoProcessor
from transformers.utils import CONFIG_NAME

from modeling_lavis.models.head_loading import HEAD_CONFIG_NAME
from modeling_lavis.training.checkpoints import last_checkpoint
from modeling_lavis.training.recipes import Recipe, load_recipe

#: the recipe of a run, in its output folder
RECIPE_FILE = "recipe.json"


def resumed_from(output: Path, resume: bool | str, arguments: Mapping[str, Any]) -> str | None:
    """
    The checkpoint to resume from, `None` for a new run.

    Args:
        output (`Path`): output folder.
        resume (`bool` or `str`): as for [`train`].
        arguments (`Mapping[str, Any]`): arguments of the Trainer.

    Raises:
        ValueError: the output folder has the checkpoints of another run, or is a file.
        FileNotFoundError: there is no such checkpoint.
    """
    # the argument of TrainingArguments, which transformers' Trainer does not read
    given = resume or arguments.get("resume_from_checkpoint") or False
    chosen = {"true": True, "false": False}.get(str(given).lower(), given)
    if output.exists() and not output.is_dir():
        raise ValueError(f"The output folder {output} is a file; give the name of a folder.")
    last = last_checkpoint(output) if output.is_dir() else None
    if chosen is True:
        return last
    if chosen:
        if not os.path.isdir(chosen):
            raise FileNotFoundError(f"There is no checkpoint {chosen}; give a folder such as {output}/checkpoint-100.")
        return os.fspath(chosen)
    if last is not None:
        raise ValueError(
            f"{output} has the checkpoints of an earlier run, such as {Path(last).name}, which a new one would mix with"
            " its own. Give resume=True (--resume) to continue it, another output folder, or delete them."
        )
    return None


def check_same_run(recipe: Recipe, checkpoint: str) -> None:
    """
    Check that a checkpoint is one of the recipe; lengths, data and optimizer may differ.

    Raises:
        ValueError: the task, the head or the options of the model are others.
    """
    path = Path(checkpoint).parent / RECIPE_FILE
    if not path.is_file():
        return
    earlier = load_recipe(path)
    checkpointing = recipe.model.gradient_checkpointing  # changes no result
    earlier = replace(earlier, model=replace(earlier.model, gradient_checkpointing=checkpointing))
    for name in ("task", "head", "model"):
        if getattr(earlier, name) != getattr(recipe, name):
            raise ValueError(
                f"{checkpoint} is a checkpoint of the recipe {path}, whose {name} is "
                f"{getattr(earlier, name)}; that of {recipe.name} is {getattr(recipe, name)}. Resume with the recipe "
                "and the values of the earlier run, or train into another folder."
            )


def stored_labels(checkpoint: str) -> dict[str, int] | None:
    """Class indices of a checkpoint, of adapters, too, in their order; `None` if its folder has none."""
    for name in (CONFIG_NAME, HEAD_CONFIG_NAME):
        path = Path(checkpoint) / name
        if path.is_file() and (label2id := json.loads(path.read_text(encoding="utf-8")).get("label2id")):
            return dict(sorted(label2id.items(), key=lambda entry: entry[1]))
    return None


def stored_processor(checkpoint: str) -> Any:
    """The processor of a checkpoint, with its vocabulary; `None` if its folder has none."""
    return AutoProcessor.from_pretrained(checkpoint) if (Path(checkpoint) / "processor_config.json").is_file() else None


__all__ = ["RECIPE_FILE", "check_same_run", "resumed_from", "stored_labels", "stored_processor"]
