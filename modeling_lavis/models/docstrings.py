# SPDX-License-Identifier: Apache-2.0
"""Documentation of the arguments that several heads share, written once.

transformers' `auto_docstring` derives texts from the path of the model's file inside transformers, which does not work
for a package outside it.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

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


__all__ = ["SHARED_ARGUMENTS", "add_shared_arguments"]
