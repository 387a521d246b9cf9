# SPDX-License-Identifier: Apache-2.0
"""The cache of keys and values, by the name that the installed transformers has for it.

transformers 5.23 calls it `past_key_values`, later versions call it `cache`: as an argument of `forward`, as a field of
outputs and among the inputs of a generation step. The models here take it by both names and return it by the
installed version's; what is inside them says `past_key_values`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

_OLD, _NEW = "past_key_values", "cache"

CACHE_NAME = _NEW if _NEW in inspect.signature(create_causal_mask).parameters else _OLD
CACHE_NAMES = (_OLD, _NEW)


def takes_cache(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a `forward` with an argument `past_key_values`: `cache` is the same.

    Raises:
        TypeError: both are given.
    """

    @functools.wraps(forward)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if _NEW in kwargs:
            given = kwargs.pop(_NEW)
            if kwargs.get(_OLD) is not None:
                raise TypeError(f"Got {_OLD} and {_NEW}, two names of one argument; give one of them.")
            kwargs[_OLD] = given
        return forward(*args, **kwargs)

    return wrapper


def cache_field(output_class: type) -> type:
    """Decorates an output before it becomes a dataclass: its last field is the cache, or `None`."""
    output_class.__annotations__ = {**output_class.__annotations__, CACHE_NAME: Cache | None}
    setattr(output_class, CACHE_NAME, None)
    return output_class


def returned(cache: Cache | None) -> dict[str, Cache | None]:
    """The cache as a keyword of an output."""
    return {CACHE_NAME: cache}


def kept_by(layer: nn.Module, cache: Cache | None) -> Cache | None:
    """`cache`, or `None` for a layer that is worked out again in the backward pass, where it would be filled twice."""
    recomputed = layer.training and getattr(layer, "gradient_checkpointing", False)
    return None if recomputed else cache


__all__ = ["CACHE_NAME", "CACHE_NAMES", "cache_field", "kept_by", "returned", "takes_cache"]
