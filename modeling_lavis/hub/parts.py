# SPDX-License-Identifier: Apache-2.0
"""Frozen parts that the original checkpoint leaves out: the image encoder and the language model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeling_lavis.files import read_json
from modeling_lavis.hub.checkpoints import CheckpointError, read_checkpoint
from modeling_lavis.hub.shapes import BLOCK_NUMBER

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class CompletedCheckpoint:
    """
    A checkpoint together with its separate parts.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): all weights by the original keys.
        dropped (`Mapping[str, str]`, *optional*, defaults to `{}`): weights that are dropped before the accounting,
            with the reason.
        settings (`Mapping[str, Any]`, *optional*, defaults to `{}`): settings that the parts add.
        resized (`Mapping[str, tuple[int, ...]]`, *optional*, defaults to `{}`): original shapes of weights that were
            resized.
    """

    tensors: Mapping[str, Tensor]
    dropped: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    resized: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def image_encoder_weights(
    source: str | Path, depth: int | None, block_prefix: str, unused: tuple[str, ...], prefix: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """
    Read the used weights of an image encoder's checkpoint.

    Args:
        source (`str` or `Path`): file or URL.
        depth (`int`, *optional*): number of blocks that are used. `None` uses all blocks but the last.
        block_prefix (`str`): prefix of the blocks' keys, up to their number.
        unused (`tuple[str, ...]`): prefixes of keys that are not used.
        prefix (`str`): prefix that is added to every key.

    Returns:
        `tuple[dict[str, torch.Tensor], dict[str, str]]`: The used weights, and the keys of the others with the reason.

    Raises:
        CheckpointError: If the file cannot be read or has too few blocks.
    """
    weights = read_checkpoint(source)
    numbered = re.compile(re.escape(block_prefix) + BLOCK_NUMBER + r"\.")
    numbers = {int(match[1]) for name in weights.tensors if (match := numbered.match(name))}
    if not numbers:
        raise CheckpointError(
            f"{weights.path} is not an image encoder of that kind: it has no weights {block_prefix}0.*, but weights "
            f"such as {', '.join(sorted(weights.tensors)[:3])}. Give the image encoder that the checkpoint was trained "
            "with."
        )
    depth = len(numbers) - 1 if depth is None else depth
    if depth > len(numbers):
        raise CheckpointError(
            f"{weights.path} has {len(numbers)} blocks, but {depth} are needed. Give a deeper image encoder."
        )
    used, dropped = {}, {}
    for name, tensor in weights.tensors.items():
        match = numbered.match(name)
        if match and int(match[1]) >= depth:
            dropped[prefix + name] = f"block after the {depth} that the original uses"
        elif name.startswith(unused):
            dropped[prefix + name] = "part of the image encoder that the original does not use"
        else:
            used[prefix + name] = tensor
    return used, dropped


def language_model_weights(source: str | Path, model: torch.nn.Module, prefix: str) -> dict[str, Tensor]:
    """
    Read the memory-mapped weights of a language model.

    Args:
        source (`str` or `Path`): folder or Hub id.
        model (`torch.nn.Module`): the same model on the meta device, for its keys.
        prefix (`str`): prefix that is added to every key.

    Raises:
        OSError: If there is no such model.
        ValueError: If the weights are not those of the model.
    """
    names = set(model.state_dict())
    base_model_prefix = getattr(model, "base_model_prefix", "")
    found: dict[str, Tensor] = {}
    unexpected: list[str] = []
    for file in _weight_files(source):
        for name, tensor in read_checkpoint(file).tensors.items():
            candidates = (name, f"{base_model_prefix}.{name}", name.removeprefix(f"{base_model_prefix}."))
            known = next((candidate for candidate in candidates if candidate in names), None)
            if known is None:
                unexpected.append(name)
            else:
                found[prefix + known] = tensor
    # Checkpoints of older transformers versions contain constant buffers and unused weights.
    legacy = re.compile(r"position_ids|relative_attention_bias|\.masked_bias")
    unexpected = [name for name in unexpected if not legacy.search(name)]
    if unexpected:
        raise ValueError(
            f"The language model {source} has weights that do not belong to its configuration: "
            f"{', '.join(sorted(unexpected)[:5])}. Give the folder of a complete model."
        )
    return found


def _weight_files(source: str | Path) -> list[Path]:
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _download(str(source))
    for name in _INDEXES:
        if (folder / name).is_file():
            return [folder / file for file in _shards_of(folder / name)]
    for name in _SINGLE_FILES:
        if (folder / name).is_file():
            return [folder / name]
    raise OSError(
        f"The language model {source} has no weights ({', '.join(_SINGLE_FILES)}). Use --language-model with a folder "
        "written by save_pretrained, or with a Hub id."
    )


def _shards_of(index: Path) -> list[str]:
    """Names of the files that an index of shards lists; it may name files of its own folder only."""
    try:
        files = sorted(set(read_json(index)["weight_map"].values()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OSError(
            f"{index} is not an index of weight files ({type(error).__name__}: {error}). Copy it again."
        ) from error
    for file in files:
        if not isinstance(file, str) or file in ("", ".", "..") or "/" in file or "\\" in file:
            raise OSError(f"{index} names the file {file!r:.80}; expected files of its own folder. Do not use it.")
    return files


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
            f"{str(error).splitlines()[0]} Use --language-model with a folder or a Hub id."
        ) from error
    return Path(found)
