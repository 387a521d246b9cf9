# SPDX-License-Identifier: Apache-2.0
"""Parts of a model that the original's checkpoint leaves out because they are frozen: image tower, language model."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeling_lavis.hub.checkpoints import CheckpointError, read_checkpoint

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class WithParts:
    """
    A checkpoint completed by its separate parts.

    Args:
        tensors: all weights by the original's names.
        dropped: weights that are left out before the accounting, with the reason.
        settings: settings that the parts add.
        resized: shape before, by the name of a weight that was resized on the way.
    """

    tensors: Mapping[str, Tensor]
    dropped: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    resized: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def tower_weights(
    source: str | Path, depth: int | None, block: str, leftovers: tuple[str, ...], prefix: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """
    Read an image tower that has more than is needed.

    Args:
        source: file or URL.
        depth: blocks that are used; `None` for all but the last.
        block: what the names of blocks begin with, up to their number.
        leftovers: beginnings of names that are not used at all.
        prefix: put in front of every name.

    Returns:
        Weights that are used, and names that are not, with the reason.

    Raises:
        CheckpointError: the file cannot be read or has too few blocks.
    """
    weights = read_checkpoint(source)
    numbered = re.compile(re.escape(block) + r"(\d+)\.")
    numbers = {int(match[1]) for name in weights.tensors if (match := numbered.match(name))}
    if not numbers:
        raise CheckpointError(
            f"{weights.path} is no image tower of that kind: it has no weights {block}0.*, but such as "
            f"{', '.join(sorted(weights.tensors)[:3])}. Give the tower that the checkpoint was trained with."
        )
    depth = len(numbers) - 1 if depth is None else depth
    if depth > len(numbers):
        raise CheckpointError(f"{weights.path} has {len(numbers)} blocks, but {depth} are needed. Give a deeper tower.")
    used, dropped = {}, {}
    for name, tensor in weights.tensors.items():
        match = numbered.match(name)
        if match and int(match[1]) >= depth:
            dropped[prefix + name] = f"block after the {depth} that the original uses"
        elif name.startswith(leftovers):
            dropped[prefix + name] = "part of the image tower that the original does not use"
        else:
            used[prefix + name] = tensor
    return used, dropped


def language_model_weights(source: str | Path, model: torch.nn.Module, prefix: str) -> dict[str, Tensor]:
    """
    Read the weights of a language model, mapped from its files.

    Args:
        source: folder or Hub id.
        model: the same model on the meta device; says the names.
        prefix: put in front of every name.

    Raises:
        OSError: there is no such model. ValueError: its weights are not those of the model.
    """
    names = set(model.state_dict())
    inner = getattr(model, "base_model_prefix", "")
    found: dict[str, Tensor] = {}
    foreign: list[str] = []
    for file in _weight_files(source):
        for name, tensor in read_checkpoint(file).tensors.items():
            known = next((n for n in (name, f"{inner}.{name}", name.removeprefix(f"{inner}.")) if n in names), None)
            if known is None:
                foreign.append(name)
            else:
                found[prefix + known] = tensor
    # Files of older versions carry constants and maps that were never used.
    foreign = [name for name in foreign if not re.search(r"position_ids|relative_attention_bias|\.masked_bias", name)]
    if foreign:
        raise ValueError(
            f"The language model {source} has weights that its configuration does not know: "
            f"{', '.join(sorted(foreign)[:5])}. Give the folder of a complete model."
        )
    return found


def _weight_files(source: str | Path) -> list[Path]:
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _download(str(source))
    for name in _INDEXES:
        if (folder / name).is_file():
            index: Any = json.loads((folder / name).read_text(encoding="utf-8"))
            return [folder / file for file in sorted(set(index["weight_map"].values()))]
    for name in _SINGLE_FILES:
        if (folder / name).is_file():
            return [folder / name]
    raise OSError(
        f"The language model {source} has no weights ({', '.join(_SINGLE_FILES)}). Give the folder that "
        "save_pretrained wrote, or a Hub id, with --language-model."
    )


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(name, allow_patterns=["*.json", "*.safetensors"])
        if not any(Path(found).glob("*.safetensors")):
            found = snapshot_download(name, allow_patterns=["*.json", "*.bin"])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise OSError(
            f"The language model {name!r} is neither a folder nor a repository that can be reached: "
            f"{str(error).splitlines()[0]} Give it with --language-model."
        ) from error
    return Path(found)
