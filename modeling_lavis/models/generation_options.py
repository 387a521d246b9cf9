# SPDX-License-Identifier: Apache-2.0
"""What `generate` does in addition to transformers' loop: guidance towards the image, checks of token ids, one form of
lengths, and beam search with the scores of the original.

Shapes: B images or prompts, R rows (beams or returned sequences, a multiple of B), V vocabulary size, T tokens so far.
"""

import copy
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteriaList,
    StopStringCriteria,
)
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

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
        ValueError: An id is not an integer of the vocabulary.
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

    Given both, transformers logs a warning and uses the number of new tokens, even if the call sets the other one.

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


# ---- beam search with the scores of the original ----


class OriginalBeamScores:
    """
    Proxy of a model that replaces two steps of transformers' beam search.

    parity: the original divides the score of a hypothesis by its length including the prompt and excluding the end
    token; later versions of transformers exclude the prompt and include the end token. To decide whether a better
    hypothesis can still come, it considers all candidates of a step, including those that just ended. Hypotheses that
    reach the maximum length are added only if a better one could still come after those that ended in the same step.

    In the original all prompts of a call are equal. With prompts of different lengths each row counts its own, so that
    it gets the same result as alone.

    Args:
        model: a model with transformers' `generate`.
        end_token_ids (`Tensor` of shape `(ids,)`): tokens that end a hypothesis.
        max_length (`int`): length at which hypotheses are cut off.
        left_padding (`Tensor` of shape `(B, 1)`, *optional*): left-padding length of each prompt, as floating point.
    """

    def __init__(self, model: Any, end_token_ids: Tensor, max_length: int, left_padding: Tensor | None = None) -> None:
        self._model = model
        self._end_token_ids = end_token_ids
        self._max_length = max_length
        self._left_padding = 0 if left_padding is None else left_padding
        self._best_candidate: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **inputs: Any) -> Any:
        return self._model(**inputs)

    def _update_finished_beams(
        self,
        *,
        topk_log_probs: Tensor,
        topk_running_sequences: Tensor,
        next_token_hits_stopping_criteria: Tensor,
        cur_len: int,
        decoder_prompt_len: int,
        length_penalty: float,
        **kwargs: Any,
    ) -> Any:
        self._best_candidate = topk_log_probs.amax(dim=1, keepdim=True)
        stopped = next_token_hits_stopping_criteria
        # before the maximum length, a text that stops without an end token has ended by another criterion
        ended = torch.isin(topk_running_sequences[:, :, cur_len], self._end_token_ids)
        ended = ended | stopped if cur_len + 1 < self._max_length else ended
        step = {
            "topk_log_probs": topk_log_probs,
            "topk_running_sequences": topk_running_sequences,
            "cur_len": cur_len,
            "length_penalty": length_penalty,
        }
        update = self._model._update_finished_beams
        # The prompt length only enters the length that scores are divided by. Passed this way, the score of an ended
        # candidate is exactly the number that it is compared with below: often the best candidate of a step is also the
        # worst finished hypothesis.
        finished = update(
            next_token_hits_stopping_criteria=stopped & ended,
            decoder_prompt_len=1 + self._left_padding,
            **step,
            **kwargs,
        )
        cut_off = stopped & ~ended
        if not bool(cut_off.any()):
            return finished
        names = ("sequences", "beam_scores", "beam_indices", "is_sent_finished")
        kwargs.update(zip(names, finished, strict=True))
        kwargs["is_early_stop_heuristic_unsatisfied"] = self._check_early_stop_heuristic(
            is_early_stop_heuristic_unsatisfied=kwargs["is_early_stop_heuristic_unsatisfied"],
            running_beam_scores=self._best_candidate,
            beam_scores=kwargs["beam_scores"],
            is_sent_finished=kwargs["is_sent_finished"],
            cur_len=cur_len + 1,
            max_length=self._max_length,
            early_stopping=kwargs["early_stopping"],
            length_penalty=length_penalty,
        )
        # only the first num_beams unfinished candidates count
        unfinished = ~ended & ((~ended).cumsum(dim=1) <= kwargs["num_beams"])
        kwargs["top_num_beam_mask"] = torch.ones_like(kwargs["top_num_beam_mask"])
        return update(
            next_token_hits_stopping_criteria=cut_off & unfinished,
            decoder_prompt_len=self._left_padding,
            **step,
            **kwargs,
        )

    def _check_early_stop_heuristic(self, *, running_beam_scores: Tensor, **kwargs: Any) -> Any:
        kwargs["decoder_prompt_len"] = 1 + self._left_padding
        best = running_beam_scores
        if self._best_candidate is not None:
            best = torch.maximum(best, self._best_candidate)
        return self._model._check_early_stop_heuristic(running_beam_scores=best, **kwargs)


def left_padding_lengths(model: Any, num_beams: int, model_kwargs: dict[str, Any]) -> Tensor | None:
    """Left-padding length of each prompt, `(B, 1)` as floating point; `None` without padding."""
    mask = model_kwargs.get("decoder_attention_mask")
    if mask is None and not model.config.is_encoder_decoder:
        mask = model_kwargs.get("attention_mask")
    if mask is None or mask.ndim != 2 or bool(mask.all()):
        return None
    return (mask == 0).sum(dim=1)[::num_beams, None].float()


def original_beam_search(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    synced_gpus: bool | None = None,
    **model_kwargs: Any,
) -> Any:
    """
    transformers' beam search with [`OriginalBeamScores`]; an argument for `generate(custom_generate=...)`.

    For functions of this kind transformers does not decide about `synced_gpus`.
    """
    if synced_gpus is None:
        is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        is_sharded = is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model)
        synced_gpus = is_sharded and is_distributed and torch.distributed.get_world_size() > 1
    ends = generation_config._eos_token_tensor
    ends = torch.empty(0, dtype=torch.long) if ends is None else ends
    padding = left_padding_lengths(model, generation_config.num_beams, model_kwargs)
    prompt_length = input_ids.shape[1]
    if padding is not None or prompt_length == 0:
        # An empty prompt counts as one token: the score of a hypothesis of length 0 would be infinite.
        padding = torch.zeros(1, 1, device=input_ids.device) if padding is None else padding
        padding = padding.clamp(max=prompt_length - 1)
    return GenerationMixin._beam_search(
        OriginalBeamScores(model, ends.to(input_ids.device), generation_config.max_length, padding),
        input_ids,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        generation_config=generation_config,
        synced_gpus=synced_gpus,
        **model_kwargs,
    )


def with_original_beam_search(options: dict[str, Any], config: GenerationConfig) -> dict[str, Any]:
    """
    Options of the `generate` of another model that select [`original_beam_search`] if beams are asked for and no other
    loop is.

    transformers drops `tokenizer` for functions of this kind, so `stop_strings` become a stopping criterion here. With
    a `streamer` options stay as they are, so that transformers refuses it.

    Args:
        options (`dict`): options that are not in `config`, such as `tokenizer`.
        config (`GenerationConfig`): configuration of this call; its `stop_strings` are moved to the options.
    """
    if (config.num_beams or 1) == 1 or any(options.get(name) is not None for name in ("custom_generate", "streamer")):
        return options
    loop: Any = original_beam_search
    if options.get("synced_gpus") is not None:
        loop = functools.partial(original_beam_search, synced_gpus=options["synced_gpus"])
    options = {**options, "custom_generate": loop}
    if config.stop_strings is not None and options.get("tokenizer") is not None:
        criterion = StopStringCriteria(stop_strings=config.stop_strings, tokenizer=options.pop("tokenizer"))
        options["stopping_criteria"] = StoppingCriteriaList([*(options.get("stopping_criteria") or ()), criterion])
        config.stop_strings = None
    return options


__all__ = [
    "LENGTHS",
    "ImageGuidance",
    "OriginalBeamScores",
    "add_guidance",
    "check_token_options",
    "into_generation_config",
    "original_beam_search",
    "stated",
    "with_one_form_of_lengths",
    "with_original_beam_search",
]
