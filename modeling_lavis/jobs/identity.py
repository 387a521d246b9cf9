# SPDX-License-Identifier: Apache-2.0
"""What identifies a model, so that a job does not go on with another one."""

import json
from hashlib import sha256
from typing import Any

from modeling_lavis.evaluation.work_folder import sampled_digest


def model_identity(pipe: Any) -> dict[str, Any]:
    """
    What identifies the model of a pipeline, wherever its files are.

    Args:
        pipe (`LavisPipeline`): the pipeline, or what has several as `parts`, by name.

    Returns:
        `dict[str, Any]`: class, dtype, kind of device, and digests of weights (from some numbers of each tensor),
        processor and generation settings; of each part, if there are several.
    """
    if parts := getattr(pipe, "parts", None):
        return {name: model_identity(part) for name, part in parts.items()}
    model = pipe.model
    return {
        "class": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": pipe.device.type,
        "weights": sampled_digest(model),
        "processor": _digest(pipe.processor.to_dict()),
        "generation": _digest(model.generation_config.to_diff_dict()) if model.can_generate() else None,
    }


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=lambda entry: type(entry).__name__)
    return sha256(text.encode()).hexdigest()[:16]


__all__ = ["model_identity"]
