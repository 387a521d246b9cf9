# SPDX-License-Identifier: Apache-2.0
"""Options that the `forward` of every head and the `get_*_features` methods share: the form of the output, what is
recorded, the refusal of options that a head does not know, and the documentation of shared arguments, written once.

transformers' `auto_docstring` derives texts from the path of the model's file inside transformers, which does not work
for a package outside it.
"""

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch.compiler import is_compiling
from transformers.utils import can_return_tuple, logging

from .transformers_compat import selected_hidden_states

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


# ---- documentation of shared arguments ----

#: entries of an `Args:` section, by argument
SHARED_ARGUMENTS: dict[str, str] = {
    "pixel_values": """(`Tensor` of shape `(batch_size, num_channels, height, width)`):
    Normalized images, as the processor makes them.""",
    "pixel_values_videos": """(`Tensor` of shape `(batch_size, num_frames, num_channels, height, width)`):
    Normalized clips, as the processor makes them.""",
    "input_ids": """(`Tensor` of shape `(batch_size, sequence_length)`):
    Token ids of the texts. The first token is replaced by the special token that each pass needs.""",
    "attention_mask": """(`Tensor` of shape `(batch_size, sequence_length)`, *optional*):
    1 for tokens, 0 for padding; by default 0 for pad tokens of `input_ids`.""",
    "image_ids": """(`Tensor` of shape `(batch_size,)`, *optional*):
    Rows with equal ids belong to the same image: they are positives of each other in the contrastive loss and never
    hard negatives of each other.""",
    "match_head": """(`str`, *optional*, defaults to `"itc"`):
    `"itc"` compares all images with all texts, `"itm"` runs the matching head on the pairs, `"both"` does both. Ignored
    with `return_loss=True`.""",
    "return_loss": """(`bool`, *optional*, defaults to `False`):
    Compute the training losses of the pairs.""",
    "alpha": """(`float`, *optional*):
    Weight of the soft targets of the momentum encoders; by default `distill_alpha` if it is set, else the
    configuration's `alpha`.""",
    "update_state": """(`bool`, *optional*):
    Whether this call updates the training state: momentum encoders, feature queue and the clamp of the temperature,
    whichever the head has. By default only in training mode.""",
    "output_intermediates": """(`bool`, *optional*, defaults to `False`):
    Also return the inputs of the losses as `intermediates`.""",
    "interpolate_pos_encoding": """(`bool`, *optional*, defaults to `False`):
    Accept inputs of another resolution (or number of frames) by interpolating the position embeddings.""",
    "token_type_ids": """(`Tensor`, *optional*):
    Accepted because transformers' pipelines pass it; ignored.""",
    "labels": """(`Tensor` of shape `(batch_size,)`, *optional*):
    Classes, for the loss.""",
    "decoder_input_ids": """(`Tensor` of shape `(num_texts, sequence_length)`, *optional*):
    Token ids that the decoder reads, as `generate` passes them.""",
    "decoder_attention_mask": """(`Tensor` of shape `(num_texts, sequence_length)`, *optional*):
    1 for tokens, 0 for padding; by default all of `decoder_input_ids` and of the cache are tokens.""",
    "decoder_position_ids": """(`Tensor` of shape `(num_texts, sequence_length)`, *optional*):
    Positions of the tokens; consecutive by default.""",
    "encoder_outputs": """(`BaseModelOutput`, *optional*):
    Precomputed encoder hidden states instead of `pixel_values`. One row can serve several consecutive texts.""",
    "encoder_attention_mask": """(`Tensor` of shape `(batch_size, sequence_length)`, *optional*):
    Padding mask of the encoder hidden states.""",
    "past_key_values": """(`Cache`, *optional*):
    Key/value cache; also accepted as `cache`.""",
    "use_cache": """(`bool`, *optional*):
    Whether to return a key/value cache.""",
    "logits_to_keep": """(`int` or `Tensor`, *optional*, defaults to 0):
    Number of last positions, or the positions, whose logits are computed; 0 for all.""",
}

_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Example|Examples):$")
_ENTRY = re.compile(r"^    (\w+)(?:, \w+)* \(")


def add_shared_arguments(function: Function) -> Function:
    """
    Decorator that completes the `Args:` section of a docstring with [`SHARED_ARGUMENTS`], in the signature's order.

    Arguments that the docstring describes itself keep their description.

    Raises:
        TypeError: an argument is described neither in the docstring nor in the table.
    """
    lines = inspect.cleandoc(function.__doc__ or "").splitlines()
    start = next((place for place, line in enumerate(lines) if line == "Args:"), None)
    if start is None:
        start = next((place for place, line in enumerate(lines) if _SECTION.match(line)), len(lines))
        before, own, after = lines[:start], [], lines[start:]
    else:
        following = (place for place in range(start + 1, len(lines)) if _SECTION.match(lines[place]))
        end = next(following, len(lines))
        before, own, after = lines[:start], lines[start + 1 : end], lines[end:]
    described = _entries(own)
    arguments: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in described:
            arguments += described.pop(name)
        elif name in SHARED_ARGUMENTS:
            arguments += [f"    {line}" for line in f"{name} {SHARED_ARGUMENTS[name]}".splitlines()]
        else:
            raise TypeError(f"{function.__qualname__} does not describe its argument {name!r}.")
    arguments += [line for entry in described.values() for line in entry]  # **kwargs
    function.__doc__ = "\n".join([*before, "Args:", *arguments, "", *after]).rstrip() + "\n"
    return function


def _entries(lines: list[str]) -> dict[str, list[str]]:
    """Lines of each entry of an `Args:` section, by argument."""
    entries: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        if match := _ENTRY.match(line):
            name = match.group(1)
        elif line.startswith("    kwargs"):
            name = "kwargs"
        if name and line.strip():
            entries.setdefault(name, []).append(line)
    return entries


__all__ = ["RECORDED", "SHARED_ARGUMENTS", "add_shared_arguments", "head_forward", "resolve_hidden_states"]
