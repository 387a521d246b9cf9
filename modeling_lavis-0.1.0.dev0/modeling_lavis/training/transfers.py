# SPDX-License-Identifier: Apache-2.0
"""Filling the parts of a new model from other models, with an account of every weight."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

# parameters with a row for each token, of which the new model may have more
_VOCABULARY = r"word_embeddings\.weight$|predictions\.(bias|decoder\.\w+)$"


@dataclass
class Transfer:
    """
    Account of a transfer of weights.

    Args:
        filled (`dict[str, str]`): weights of the new model, with the names that they have in the source.
        new (`dict[str, str]`): weights of the new model that are not in the source, with how they start.
        dropped (`dict[str, str]`): weights of the source that the new model has no use for, with the reason.
    """

    filled: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    def add(self, other: "Transfer", prefix: str = "") -> None:
        """Add the account of a part, whose names in the new model get a prefix."""
        self.filled |= {f"{prefix}{name}": source for name, source in other.filled.items()}
        self.new |= {f"{prefix}{name}": how for name, how in other.new.items()}
        self.dropped |= other.dropped

    def __str__(self) -> str:
        return f"{len(self.filled)} weights transferred, {len(self.new)} new, {len(self.dropped)} of the source dropped"


@dataclass(frozen=True)
class Value:
    """A weight to fill in, and the names of its sources."""

    tensor: Tensor
    sources: tuple[str, ...]


@torch.no_grad()
def fill(
    module: nn.Module,
    values: Mapping[str, Value],
    new: Mapping[str, str],
    source_names: Any,
    dropped: Mapping[str, str],
    what: str,
) -> Transfer:
    """
    Fill the parameters of a module, and account for all of them and for all weights of the source.

    Args:
        module (`nn.Module`): part of the new model; changed in-place.
        values (`Mapping[str, Value]`): values by parameter. A new vocabulary may be larger; the weights of other
            tokens keep their initial values.
        new (`Mapping[str, str]`): patterns of parameters that may stay as they are, with how they start.
        source_names (iterable of `str`): names of all weights of the source.
        dropped (`Mapping[str, str]`): patterns of weights of the source that are not used, with the reason.
        what (`str`): the source, for errors.

    Returns:
        [`Transfer`]: the account.

    Raises:
        ValueError: a weight has another shape, a parameter stays without a value, or a weight of the source without a
            use.
    """
    account = Transfer()
    used: set[str] = set()
    for name, parameter in module.named_parameters(remove_duplicate=False):
        value = values.get(name)
        if value is None:
            how = next((how for pattern, how in new.items() if re.search(pattern, name)), None)
            if how is None:
                raise ValueError(
                    f"{what} has no weight for {name}. Give a model with as many layers and the same parts."
                )
            account.new[name] = how
            continue
        rows = value.tensor.shape[0] if re.search(_VOCABULARY, name) else parameter.shape[0]
        if value.tensor.shape != (rows, *parameter.shape[1:]) or rows > parameter.shape[0]:
            raise ValueError(
                f"{what} does not fit: {', '.join(value.sources)} has the shape {tuple(value.tensor.shape)}, and {name}"
                f" of the new model {tuple(parameter.shape)}. Leave out sizes of the configuration that the source"
                " decides, or give another source."
            )
        parameter[:rows] = value.tensor.to(parameter.dtype)
        account.filled[name] = " + ".join(value.sources)
        used.update(value.sources)
    for name in source_names:
        if name in used:
            continue
        reason = next((reason for pattern, reason in dropped.items() if re.search(pattern, name)), None)
        if reason is None:
            raise ValueError(
                f"{what} has the weight {name}, for which this model has no place, so that its features would be"
                " others. Give a plain ViT, EVA or BERT."
            )
        account.dropped[name] = reason
    return account


__all__ = ["Transfer", "Value", "fill"]
