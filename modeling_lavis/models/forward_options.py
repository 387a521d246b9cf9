# SPDX-License-Identifier: Apache-2.0
"""Options that the `forward` of every head and the `get_*_features` methods share: the form of the output, what is
recorded, and the refusal of options that a head does not know."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch.compiler import is_compiling
from transformers.utils import can_return_tuple, logging
from transformers.utils.output_capturing import selected_hidden_states

from .docstrings import add_shared_arguments

logger = logging.get_logger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

#: options that record hidden states and attention weights in the encoders and decoders
RECORDED = ("output_hidden_states", "output_attentions")

_MATCHING = 'matching is selected with match_head: "itc" (similarities), "itm" (matching logits) or "both"'
#: what to do instead of an option that other classes of the field have
_INSTEAD = {
    "use_itm_head": _MATCHING,
    "use_image_text_matching_head": _MATCHING,
    "match_heads": _MATCHING,
    "inputs_embeds": "texts are given as input_ids, and their embeddings are computed by the model",
    "query_embeds": "the query tokens are parameters of the model",
    "return_loss": "this head computes its loss when it gets labels, or has none",
    "use_cache": "this head does not generate text and has no key/value cache",
    "past_key_values": "this head does not generate text and has no key/value cache",
    "position_ids": "positions are consecutive, as the models were trained",
    "text": "the processor makes input_ids from texts",
    "images": "the processor makes pixel_values from images",
    "videos": "the processor makes pixel_values_videos from videos",
}


def head_forward(function: Function) -> Function:
    """
    Decorator of the `forward` of a head and of its `get_*_features` methods.

    It completes the documentation of the arguments ([`add_shared_arguments`]), returns a tuple with
    `return_dict=False`, takes `output_hidden_states` and `output_attentions` from the configuration where the call does
    not give them, and refuses options that the head does not know, unless they are `None`.

    Raises:
        TypeError: an option is unknown; the message says which head has it, or what to do instead.
    """
    parameters = inspect.signature(function).parameters.values()
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}

    @functools.wraps(function)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        for name in RECORDED:
            if kwargs.get(name) is None:
                kwargs[name] = getattr(self.config, name, False)
            if kwargs[name] is None or kwargs[name] is False:
                del kwargs[name]
        unknown = [name for name in kwargs if name not in named and name not in RECORDED]
        for name in unknown:
            if kwargs[name] is None:
                del kwargs[name]
            elif name not in self.passed_on_options:
                raise TypeError(_unknown_option(self, function.__name__, name, named))
        if kwargs.get("output_attentions") and self.config._attn_implementation != "eager" and not is_compiling():
            logger.warning_once(
                f"output_attentions=True needs attn_implementation='eager'; {self.config._attn_implementation!r} does "
                "not compute attention weights, so that there are none in the output. Load the model with "
                "attn_implementation='eager', or call model.set_attn_implementation('eager')."
            )
        return function(self, *args, **kwargs)

    return can_return_tuple(add_shared_arguments(wrapper))  # type: ignore[return-value]


def _unknown_option(model: Any, method: str, name: str, known: set[str]) -> str:
    message = f"{type(model).__name__}.{method} got the option {name!r}, which it does not have"
    owners = [head.__name__ for head in _heads_of_family(type(model)) if name in _arguments(head)]
    similar = difflib.get_close_matches(name, known, n=1)
    if name in _INSTEAD and not (owners and name == "return_loss"):
        return f"{message}: {_INSTEAD[name]}."
    if owners and method == "forward":
        return f"{message}. Heads of this family with {name!r}: {', '.join(owners)}."
    if similar:
        return f"{message}. Is {similar[0]!r} meant?"
    return f"{message}. It has: {', '.join(sorted(known - {'self'}))}, {', '.join(RECORDED)} and return_dict."


def _arguments(head: type) -> Any:
    return inspect.signature(head.forward).parameters  # type: ignore[attr-defined]


def _heads_of_family(head: type) -> Iterator[type]:
    """All classes that derive from the base class of the head's family."""
    base = next(base for base in head.__mro__ if base.__name__.endswith("PreTrainedModel"))
    pending: list[type] = list(base.__subclasses__())
    while pending:
        found = pending.pop(0)
        pending.extend(found.__subclasses__())
        if not found.__name__.startswith("_"):
            yield found


def resolve_hidden_states(selection: Any, num_layers: int) -> Any:
    """
    `output_hidden_states` with negative indices counted from the last of the layers that run.

    Args:
        selection (`bool`, `int` or `list[int]`): the option. Indices that no hidden state has select nothing.
        num_layers (`int`): number of layers that run; there is one more hidden state, the input of the first.
    """
    indices = selected_hidden_states(selection)
    if indices is None:
        return selection
    count = num_layers + 1
    return [index % count for index in indices if -count <= index < count]


__all__ = ["RECORDED", "head_forward", "resolve_hidden_states"]
