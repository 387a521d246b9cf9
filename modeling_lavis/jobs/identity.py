# SPDX-License-Identifier: Apache-2.0
"""What identifies a model, so that a job does not go on with another one."""

import json
from hashlib import sha256
from typing import Any

import torch

_SAMPLES = 64  # numbers of each tensor that are compared


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
    digest = sha256()
    for name, values in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(values.shape)} {None if any_precision else values.dtype}".encode())
        if values.device.type != "meta" and values.numel():
            flat = values.detach().reshape(-1)
            places = torch.linspace(0, flat.numel() - 1, min(_SAMPLES, flat.numel()), dtype=torch.float64).long()
            sample = flat[places.to(flat.device)].cpu()
            sample = sample.to(torch.bfloat16) if any_precision else sample
            digest.update(str(sample.float().tolist()).encode())
    return {
        "class": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": pipe.device.type,
        "weights": digest.hexdigest()[:16],
        "processor": _digest(pipe.processor.to_dict()),
        "generation": _digest(model.generation_config.to_diff_dict()) if model.can_generate() else None,
    }


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=lambda entry: type(entry).__name__)
    return sha256(text.encode()).hexdigest()[:16]


__all__ = ["model_identity"]
