# SPDX-License-Identifier: Apache-2.0
"""Beam search with the scores of the original: transformers' loop with another length normalization.

Shapes: B prompts.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, StoppingCriteriaList, StopStringCriteria
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module


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


__all__ = ["OriginalBeamScores", "original_beam_search", "with_original_beam_search"]
