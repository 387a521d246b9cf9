# SPDX-License-Identifier: Apache-2.0
"""What identifies a model and rows in memory, so that a job is not resumed with others."""

import json
import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import PIL.Image
import torch

from modeling_lavis.evaluation.work_folder import sampled_digest


def model_identity(pipe: Any, any_precision: bool = False) -> dict[str, Any]:
    """
    What identifies the model of a pipeline, wherever its files are.

    Args:
        pipe (`LavisPipeline`): the pipeline, or what has several as `parts`, by name.
        any_precision (`bool`, *optional*, defaults to `False`): give the same digest of the weights in float32 and in
            bfloat16.

    Returns:
        `dict[str, Any]`: class, dtype, kind of device, and digests of weights (from some numbers of each tensor),
        processor and generation settings; of each part, if there are several.
    """
    if parts := getattr(pipe, "parts", None):
        return {name: model_identity(part, any_precision) for name, part in parts.items()}
    model = pipe.model
    return {
        "class": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": pipe.device.type,
        "weights": sampled_digest(model, any_precision),
        "processor": _digest(pipe.processor.to_dict()),
        "generation": _digest(model.generation_config.to_diff_dict()) if model.can_generate() else None,
    }


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=lambda entry: type(entry).__name__)
    return sha256(text.encode()).hexdigest()[:16]


def rows_digest(rows: Iterable[Any]) -> str:
    """Digest of images or rows in memory. Images that are not loaded yet are identified by the names of their files."""
    digest = sha256()
    for row in rows:
        digest.update(json.dumps(row, default=_identified, skipkeys=True).encode())
    return digest.hexdigest()[:16]


def _identified(value: Any) -> Any:
    """What stands for a value that JSON does not have."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, PIL.Image.Image):
        name = getattr(value, "filename", "")
        return [value.mode, value.size, str(name) if name else sha256(value.tobytes()).hexdigest()]
    if isinstance(value, (bytes, bytearray)):
        return sha256(value).hexdigest()
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        array = value.detach().cpu().float().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        return [array.shape, str(array.dtype), sha256(array.tobytes()).hexdigest()]
    return type(value).__name__


__all__ = ["model_identity", "rows_digest"]
