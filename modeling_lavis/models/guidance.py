# SPDX-License-Identifier: Apache-2.0
"""Options of `generate` that need more than transformers' loop: guidance towards the image, token ids, lengths.

Shapes: B images, R rows (beams or returned sequences, a multiple of B), V vocabulary size, T tokens so far.
"""

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

# Options with one token id or several, and the smallest value. -1 is a common way to say that nothing ends texts.
_TOKEN_OPTIONS = {
    "bos_token_id": 0,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 0,
    "suppress_tokens": 0,
    "begin_suppress_tokens": 0,
    "eos_token_id": -1,
}
# options for lengths that include the prompt, with those that do not
LENGTHS = (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))


class ImageGuidance(LogitsProcessor):
    """
    Classifier-free guidance (https://arxiv.org/abs/2207.12598) towards the image: the log-probabilities of the next
    token become `blank + scale * (image - blank)`, where `blank` are those for an image of the mean color.

    Args:
        scale (`float`): weight of the difference; above 1, texts say more of what is particular to the image.
        blank_logits (`Callable`): function from token ids `(R, T)` to the logits `(R, V)` of the next token for a blank
            image.
    """

    def __init__(self, scale: float, blank_logits: Callable[[Tensor], Tensor]) -> None:
        self.scale = scale
        self.blank_logits = blank_logits

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        blank = self.blank_logits(input_ids).to(scores.device, torch.float32).log_softmax(dim=-1)
        return blank + self.scale * (scores.float().log_softmax(dim=-1) - blank)


def add_guidance(
    options: dict[str, Any], default: Any, make_blank_logits: Callable[[], Callable[[Tensor], Tensor]] | None
) -> dict[str, Any]:
    """
    Options of `generate` in which `guidance_scale` is a logits processor of this package. transformers' own would run
    the model without an image.

    Args:
        options (`dict`): options of the call.
        default (`GenerationConfig`): the model's generation configuration.
        make_blank_logits (`Callable`, *optional*): function that encodes blank images and returns the function for
            [`ImageGuidance`]. `None` if the call has no images.

    Raises:
        ValueError: `guidance_scale` is not a positive number, there are no images, or a negative prompt is given.
    """
    for name in ("negative_prompt_ids", "negative_prompt_attention_mask"):
        if options.get(name) is not None:
            raise ValueError(
                f"{name} is not supported: guidance_scale compares with a blank image, not with another prompt. Leave"
                f" {name} out."
            )
    scale = stated(options, default, "guidance_scale")
    if scale is None:
        return options
    if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not 0 < scale < float("inf"):
        raise ValueError(f"guidance_scale is {scale!r}; expected a positive number, 1 for no guidance.")
    if scale == 1:
        return options
    if make_blank_logits is None:
        raise ValueError(
            f"guidance_scale is {scale}, which compares with a blank image, but generate got encoder_outputs. Pass"
            " pixel_values instead."
        )
    processors = LogitsProcessorList(
        [ImageGuidance(scale, make_blank_logits()), *(options.get("logits_processor") or ())]
    )
    return {**options, "guidance_scale": 1.0, "logits_processor": processors}


def stated(options: Mapping[str, Any], default: Any, name: str) -> Any:
    """Value of an option of `generate`: that of the call, of its `generation_config`, or of the model's."""
    for source in (options.get("generation_config"), default):
        if options.get(name) is not None:
            break
        value = getattr(source, name, None)
        if value is not None:
            return value
    return options.get(name)


def check_token_options(options: Mapping[str, Any], default: Any, vocab_size: int) -> None:
    """
    Check the token ids among the options of `generate`.

    Args:
        options (`Mapping`): options of the call.
        default (`GenerationConfig`): the model's generation configuration.
        vocab_size (`int`): vocabulary size of the decoder.

    Raises:
        ValueError: An id is no integer of the vocabulary.
    """
    for name, smallest in _TOKEN_OPTIONS.items():
        value = stated(options, default, name)
        for token in value.tolist() if isinstance(value, Tensor) and value.ndim else _as_list(value):
            is_integer = isinstance(token, (int, Tensor)) and not isinstance(token, bool)
            if not is_integer or not smallest <= int(token) < vocab_size:
                raise ValueError(
                    f"{name} is {value!r}, but the vocabulary of the model has ids from 0 to {vocab_size - 1}. Pass the"
                    " id of a token of the model's tokenizer."
                )


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def with_one_form_of_lengths(
    options: dict[str, Any], default: Any, prompt_length: int, max_new_tokens: int
) -> dict[str, Any]:
    """
    Options of `generate` in which a length of the call replaces the other form of it in the model's configuration.

    transformers would warn of both forms, and prefer the one without the prompt, whoever gave it.

    Args:
        options (`dict`): options of the call.
        default (`GenerationConfig`): the model's generation configuration.
        prompt_length (`int`): number of tokens of the prompt.
        max_new_tokens (`int`): for a call without a length, if the configuration has none either.
    """
    options = dict(options)
    if (config := options.get("generation_config")) is not None:
        options["generation_config"] = config = copy.deepcopy(config)
    for length, new_tokens in LENGTHS:
        for name in (length, new_tokens) if config is not None else ():
            if options.get(length) is None and options.get(new_tokens) is None:
                options[name] = getattr(config, name)
            setattr(config, name, None)
        with_prompt, without = options.get(length), options.get(new_tokens)
        if with_prompt is not None and without is None and getattr(default, new_tokens) is not None:
            options.pop(length)
            options[new_tokens] = max(with_prompt - prompt_length, 0 if length == "min_length" else 1)
        elif without is not None and with_prompt is None and getattr(default, length) is not None:
            options.pop(new_tokens)
            options[length] = without + prompt_length
    if stated(options, default, "max_length") is None and stated(options, default, "max_new_tokens") is None:
        options["max_new_tokens"] = max_new_tokens
    return options


def into_generation_config(options: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
    """
    Options of `generate` in which those that are not in `given` are in the call's `generation_config`, if it has one.

    transformers warns of a `generation_config` beside other options.
    """
    config = options.get("generation_config")
    if config is None:
        return options
    added = {name: value for name, value in options.items() if name not in given and hasattr(config, name)}
    config = copy.deepcopy(config)
    config.update(**added)
    return {name: value for name, value in options.items() if name not in added} | {"generation_config": config}


__all__ = [
    "LENGTHS",
    "ImageGuidance",
    "add_guidance",
    "check_token_options",
    "into_generation_config",
    "stated",
    "with_one_form_of_lengths",
]
