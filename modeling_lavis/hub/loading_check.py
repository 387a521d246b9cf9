# SPDX-License-Identifier: Apache-2.0
"""Loading of a folder or of a commit on the Hub in a fresh process, and the comparison of what they compute."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from safetensors import safe_open
from torch import Tensor

from modeling_lavis.models.configuration_base import FrozenPart

_PROBE = Path(__file__).resolve().with_name("loading_probe.py")


@dataclass(frozen=True)
class Loaded:
    """
    What a process found that loaded a model.

    Args:
        file (`Path`): the tensors that processor and head computed.
        facts (`Mapping[str, str]`): classes of model and processor.
    """

    file: Path
    facts: Mapping[str, str]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        with safe_open(self.file, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}


def load_in_process(
    source: str,
    work: Path,
    name: str,
    *,
    with_package: bool = True,
    revision: str | None = None,
    cache: Path | None = None,
    token: str | None = None,
    offline: bool = False,
) -> Loaded:
    """
    Load a repository in a fresh process, and run processor and head on fixed inputs.

    Args:
        source (`str`): folder or Hub id.
        work (`Path`): folder for the results.
        name (`str`): name of the results.
        with_package (`bool`, *optional*, defaults to `True`): whether this package can be imported there; otherwise the
            code of the repository is run.
        revision (`str`, *optional*): commit of the Hub.
        cache (`Path`, *optional*): folder that the repository is downloaded to.
        token (`str`, *optional*): token of the Hub.
        offline (`bool`, *optional*, defaults to `False`): whether the Hub may not be asked for anything.

    Returns:
        [`Loaded`].

    Raises:
        OSError: If it does not load, or has weights that its model does not use.
    """
    output = work / f"{name}.safetensors"
    options = [("--revision", revision), ("--cache", None if cache is None else str(cache))]
    words = [word for option, value in options if value is not None for word in (option, value)]
    words += [] if with_package else ["--without-package"]
    # The code comes from a string, because Python puts the folder of a script first in its search path.
    command = [sys.executable, "-c", _PROBE.read_text(encoding="utf-8"), source, str(output), *words]
    environment = {
        **os.environ,
        "HF_MODULES_CACHE": str(work / f"{name}-modules"),  # code that is copied now
        "TRANSFORMERS_VERBOSITY": "error",
        **({"HF_HUB_OFFLINE": "1"} if offline else {}),
        **({"HF_TOKEN": token} if token else {}),
    }
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, errors="replace")
    what = source if revision is None else f"{source} at {revision}"
    how = "" if with_package else " by its attached code"
    if done.returncode != 0:
        raise OSError(f"{what} does not load{how}: {_reason(done)}")
    with safe_open(output, "pt") as file:
        facts = dict(file.metadata())
    left_over = json.loads(facts["unexpected_keys"])
    if left_over:
        raise OSError(
            f"{what} has weights that its model does not use, among them {left_over[0]}. Save the model again."
        )
    return Loaded(output, facts)


def compare(local: Loaded, other: Loaded, where: str) -> None:
    """
    Compare the results of two processes, bit for bit.

    Args:
        local ([`Loaded`]): what the folder gives.
        other ([`Loaded`]): what is compared with it.
        where (`str`): what `other` is, for the error.

    Raises:
        OSError: If a class or a tensor differs.
    """
    for fact in ("class", "processor"):
        if local.facts[fact] != other.facts[fact]:
            raise OSError(f"{where} gives the {fact} {other.facts[fact]}, and the folder {local.facts[fact]}.")
    expected, found = local.tensors(), other.tensors()
    if expected.keys() != found.keys():
        names = sorted(expected.keys() ^ found.keys())
        raise OSError(f"{where} does not compute what the folder does: only one of them gives {names[0]}.")
    for name, value in expected.items():
        if not _same_bits(value, found[name]):
            raise OSError(f"{where} does not compute what the folder does: {name} differs.")


def link_parts(parts: Mapping[str, Any] | None, cache: Path) -> None:
    """Let `cache` have what the cache of the Hub has of repositories that a model takes frozen parts from."""
    cache.mkdir(parents=True, exist_ok=True)
    for name, place in (parts or {}).items():
        folder = repo_folder_name(repo_id=FrozenPart.read(name, place).source, repo_type="model")
        known, link = Path(constants.HF_HUB_CACHE) / folder, cache / folder
        if known.is_dir() and not link.exists():
            link.symlink_to(known, target_is_directory=True)


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    """The error that ended a process, in one line, without its traceback."""
    lines = done.stderr.splitlines()
    errors = [number for number, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)]
    text = " ".join(" ".join(lines[errors[-1] :] if errors else lines[-1:]).split())
    return text or f"the process ended with status {done.returncode}"


def _same_bits(first: Tensor, second: Tensor) -> bool:
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    # as bytes, so that NaN equals NaN, and 0 does not equal -0
    return torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))


__all__ = ["Loaded", "compare", "link_parts", "load_in_process"]
