# SPDX-License-Identifier: Apache-2.0
"""FSDP2 for models whose layers share parameters."""

from collections import Counter
from typing import Any

from torch import nn


def prepare_for_fsdp(model: nn.Module) -> nn.Module:
    """
    Let the Trainer's `fsdp=True` (FSDP2 by accelerate) shard a model whose layers share parameters.

    accelerate puts tied word embeddings, and every layer, into groups of their own, but FSDP2 refuses parameters that
    two groups share: "is shared with a parameter already managed by another FSDP group". The pretraining heads share:
    their language modeling head is tied to the word embeddings, and BLIP's decoder to its text encoder. After this call
    such layers and the embeddings stay in the group of the whole model, which is gathered once per step, from the
    forward pass to the end of the backward pass. Other layers are sharded as before.

    ```python
    trainer = Trainer(prepare_for_fsdp(model), TrainingArguments("run", fsdp=True), ...)
    ```

    Until the first forward pass, `get_input_embeddings` and `get_output_embeddings` of the model return `None`.

    Args:
        model ([`~transformers.PreTrainedModel`]): model that is not sharded yet; changed in-place.

    Returns:
        The same model.
    """
    target: Any = model
    registered = Counter(id(value) for module in model.modules() for value in module._parameters.values())
    names = set(target._no_split_modules or ())
    shared = {
        type(module).__name__
        for module in model.modules()
        if type(module).__name__ in names and any(registered[id(value)] > 1 for value in module.parameters())
    }
    target._no_split_modules = names - shared
    # What these return gets groups of its own.
    for name in _ACCESSORS:
        setattr(target, name, _no_embeddings)
    handle: Any = model.register_forward_pre_hook(lambda *_: _restore(target, handle))
    return model


_ACCESSORS = ("get_input_embeddings", "get_output_embeddings")


def _no_embeddings() -> None:
    """What accelerate takes for the embeddings of a model that has none."""


def _restore(model: Any, handle: Any) -> None:
    """Give the model its methods back."""
    for name in _ACCESSORS:
        vars(model).pop(name, None)
    handle.remove()


__all__ = ["prepare_for_fsdp"]
