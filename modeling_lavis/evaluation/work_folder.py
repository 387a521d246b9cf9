# SPDX-License-Identifier: Apache-2.0
"""Work folder of a retrieval run: finished parts as files, and what the run was about, so that it can continue.

Every part is written completely or not at all. `run.json` describes model, data and options; a run with another
description does not continue in the folder.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeling_lavis.evaluation.states import PARTIAL, read_tensors, write_tensors
from modeling_lavis.files import whole_file

_DESCRIPTION = "run.json"
_FORMAT = 1
_SAMPLES = 64  # numbers of each tensor in a sampled digest


class WorkFolder:
    """
    Parts of a run, by name.

    Args:
        path (`Path`): the folder; created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, description: Mapping[str, Any]) -> bool:
        """
        Start or continue a run.

        Args:
            description (`Mapping`): model, data and options by name, from JSON types.

        Returns:
            Whether an earlier run continues.

        Raises:
            ValueError: If the folder holds another run, or other files; the message names the first difference.
        """
        description = {"format": _FORMAT, **description}
        file = self.path / _DESCRIPTION
        self.path.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            if others := sorted(path.name for path in self.path.iterdir() if not path.name.startswith(PARTIAL)):
                raise ValueError(
                    f"work_dir {self.path} has files but no {_DESCRIPTION}, for example {others[0]}; expected an empty "
                    "folder, or that of an interrupted run. Give another folder."
                )
            with whole_file(file, PARTIAL) as partial:
                partial.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            return False
        try:
            earlier = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is not readable: {error}. Remove {self.path}, or give another folder.") from error
        for name in dict.fromkeys([*description, *earlier]):
            before, now = earlier.get(name), description.get(name)
            if before != now:
                raise ValueError(
                    f"work_dir {self.path} belongs to another run: its {name} was {before!r:.200}, now it is "
                    f"{now!r:.200}. Continue with the same model, data and options, or give another folder."
                )
        for leftover in self.path.glob(f"{PARTIAL}*"):  # of a process that was killed while it wrote
            leftover.unlink(missing_ok=True)
        return True

    def has(self, name: str) -> bool:
        """Whether a part is finished."""
        return self._file(name).exists()

    def write(self, name: str, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
        """Store a part."""
        write_tensors(self._file(name), tensors, metadata)

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """
        Tensors and metadata of a part.

        Raises:
            OSError: If the file is damaged.
        """
        try:
            return read_tensors(self._file(name))
        except Exception as error:  # safetensors has an exception class of its own, which is not exported
            raise OSError(f"{self._file(name)} is damaged: {error}. Remove it, and the run makes it again.") from error

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.safetensors"


def digest(*tensors: Tensor) -> str:
    """Hexadecimal digest of the contents, shapes and dtypes of tensors."""
    state = hashlib.blake2b(digest_size=16)
    for values in tensors:
        values = values.detach().cpu().contiguous()
        state.update(f"{tuple(values.shape)} {values.dtype}".encode())
        state.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def model_digest(model: Any) -> str:
    """Digest of all weights and buffers of a model, by name."""
    state = hashlib.blake2b(digest_size=16)
    if (export := getattr(model, "export", None)) is not None:  # it has hardly any weights of its own
        state.update(f"{export.format} {export.source_weights['exact']}".encode())
    for name, values in model.state_dict().items():
        if isinstance(values, Tensor):
            state.update(f"{name} {digest(values)}".encode())
    return state.hexdigest()


def sampled_digest(model: Any, any_precision: bool = False) -> str:
    """
    Digest of some numbers of each weight and buffer of a model, which tells models apart in a fraction of the time.

    An exported model has that of the model that it was exported from.

    Args:
        model (`PreTrainedModel`): the model.
        any_precision (`bool`, *optional*, defaults to `False`): the same digest in float32 and in bfloat16.
    """
    if (export := getattr(model, "export", None)) is not None:
        return str(export.source_weights["any_precision" if any_precision else "exact"])
    state = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        state.update(f"{name} {tuple(values.shape)} {None if any_precision else values.dtype}".encode())
        if values.device.type != "meta" and values.numel():
            flat = values.detach().reshape(-1)
            places = torch.linspace(0, flat.numel() - 1, min(_SAMPLES, flat.numel()), dtype=torch.float64).long()
            sample = flat[places.to(flat.device)].cpu()
            sample = sample.to(torch.bfloat16) if any_precision else sample
            state.update(str(sample.float().tolist()).encode())
    return state.hexdigest()[:16]


__all__ = ["WorkFolder", "digest", "model_digest", "sampled_digest"]
