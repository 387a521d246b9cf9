# SPDX-License-Identifier: Apache-2.0
"""What a run with adapters of peft changes beyond the adapters: momentum encoders, feature queues and their pointer,
and the configuration.

peft saves adapters only. A run could not be resumed exactly without these, and its model not be loaded.
"""

import copy
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from modeling_lavis.models.head_loading import HEAD_CONFIG_NAME
from modeling_lavis.training.momentum import heads_with_updates

FILE_NAME = "momentum_and_queues.safetensors"


def save(model: Any, folder: Path) -> None:
    """Write the file into a checkpoint, if the model has adapters and a head with such state."""
    state = _state(model) if hasattr(model, "peft_config") else {}
    if state:
        # weights that momentum encoders share would not be written twice
        save_file({name: value.detach().clone().contiguous() for name, value in state.items()}, folder / FILE_NAME)


def save_config(model: Any, folder: Path) -> None:
    """
    Write the configuration of a head with adapters, with its labels and sizes, beside the adapters.

    Args:
        model (`PreTrainedModel`): the head, without wrappers.
        folder (`Path`): folder that exists.
    """
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.to_json_file(folder / HEAD_CONFIG_NAME)


def load(model: Any, folder: str) -> None:
    """
    Load the file of a checkpoint, if it has one.

    Raises:
        ValueError: the file is that of another model.
    """
    path = Path(folder) / FILE_NAME
    if not path.exists():
        return
    saved, own = load_file(path), _state(model)
    if saved.keys() != own.keys():
        difference = ", ".join(sorted(saved.keys() ^ own.keys())[:5])
        raise ValueError(
            f"{path} is not that of this model: they differ in {difference}. Resume the model of that run."
        )
    for name, value in saved.items():
        own[name].data.copy_(value)


def _state(model: Any) -> dict[str, Tensor]:
    """Weights of the momentum encoders, and the queue, of every head, by name."""
    found: dict[str, Tensor] = {}
    parts: set[int] = set()  # encoders are models, too
    for index, head in enumerate(heads_with_updates(model)):
        if id(head) not in parts:
            parts |= {id(module) for module in head.modules()}
            weights = {name: value for name, value in head.named_parameters() if name.partition(".")[0].endswith("_m")}
            state = {**dict(head.named_buffers(recurse=False)), **weights}
            found |= {f"{index}.{name}": value for name, value in state.items()}
    return found


__all__ = ["FILE_NAME", "load", "save", "save_config"]
