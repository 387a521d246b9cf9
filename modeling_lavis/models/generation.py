# SPDX-License-Identifier: Apache-2.0
"""transformers' `generate` for decoders that read an image (or an image and a question).

Letters: B images, n beams or returned sequences per image, T prompt tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from .cache_names import CACHE_NAME
from .modeling_base import check_text

# What `generate` has one row of for each sequence.
_PER_ROW = ("decoder_attention_mask", "decoder_position_ids")


class SharedCrossAttentionCache(EncoderDecoderCache):
    """
    A cache whose keys and values of the encoder keep one row per image.

    Beams move only among the beams of their own image, so reordering or repeating rows leaves that part as it is.
    """

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the selected beams."""
        self.self_attention_cache.reorder_cache(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat the rows of the text."""
        self.self_attention_cache.batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep chosen rows of the text."""
        self.self_attention_cache.batch_select_indices(indices)


def with_first_token(input_ids: Tensor, token_id: int | None) -> Tensor:
    """A copy of the ids (R, T) with `token_id` in slot 0; the very same tensor if `token_id` is `None`."""
    check_text(input_ids)
    if token_id is None:
        return input_ids
    first = torch.full_like(input_ids[:, :1], token_id)
    return torch.cat([first, input_ids[:, 1:]], dim=1)


def as_prompt(
    input_ids: Tensor, attention_mask: Tensor | None, start_token_id: int, end_token_id: int, pad_token_id: int
) -> tuple[Tensor, Tensor | None]:
    """
    Turn tokenised texts into prompts for a decoder: start token in slot 0, no end token, padding on the left.

    Args:
        input_ids (`Tensor` of shape `(B, T)`): texts as a tokenizer gives them, padded on any side.
        attention_mask (`Tensor` of shape `(B, T)`, *optional*): 0 for padding; pad ids count as padding anyway.
        start_token_id, end_token_id, pad_token_id (`int`): special tokens.

    Returns:
        ids (B, T') and their mask, which is `None` when nothing is padded.
    """
    keep = (input_ids != pad_token_id) & (input_ids != end_token_id)
    if attention_mask is not None:
        keep = keep & attention_mask.bool()
    # A text without any token still starts the decoder.
    empty = ~keep.any(dim=1)
    keep[:, 0] |= empty
    order = keep.to(torch.uint8).argsort(dim=1, stable=True)
    length = int(keep.sum(dim=1).max())
    mask = keep.gather(1, order)[:, -length:]
    ids = input_ids.gather(1, order)[:, -length:].masked_fill(~mask, pad_token_id)
    first = mask & (mask.cumsum(dim=1) == 1)
    ids = ids.masked_fill(first, start_token_id)
    return ids, None if bool(mask.all()) else mask.to(input_ids.dtype)


def pad_after_end(output: Any, end_token_id: int, pad_token_id: int) -> Any:
    """Ids (or an output with `sequences`) with padding after the end token; beam search fills up with end tokens where
    the id of the padding is 0."""
    sequences = output if isinstance(output, Tensor) else output.sequences
    ended = (sequences == end_token_id).cumsum(dim=1)
    after = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], dim=1) > 0
    sequences = sequences.masked_fill(after, pad_token_id)
    if isinstance(output, Tensor):
        return sequences
    output.sequences = sequences
    return output


class ImageGroundedGenerationMixin(GenerationMixin):
    """
    What a head needs beside `forward` to be used with `generate`.

    The states that the decoder attends to stay at one row per image through beams and returned sequences, and their
    keys and values are worked out once. Heads have a `text_decoder` and implement [`encode_for_generation`].
    """

    # Training inputs that a Trainer hands over together with the pictures.
    _ignored_by_generate = ("labels", "image_ids", "return_loss", "answer_counts", "answer_weights", "token_type_ids")

    @classmethod
    def can_generate(cls) -> bool:
        """Yes, also where `GenerationMixin` is not among the direct bases."""
        return True

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder's map to the vocabulary."""
        return self.text_decoder.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the decoder's map to the vocabulary."""
        self.text_decoder.set_output_embeddings(value)

    def encode_for_generation(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Take what is encoded out of `inputs`; return encoder states (B, N, D) and their mask (B, N) or `None`."""
        raise NotImplementedError

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """
        Generate text for images; see transformers' `generate` for all options.

        Args:
            inputs (`Tensor` of shape `(B, C, H, W)`, *optional*): images, as `pixel_values`.
            kwargs: inputs of the processor (training inputs are ignored) and options of `generate`.
        """
        for name in self._ignored_by_generate:
            kwargs.pop(name, None)
        if kwargs.get("encoder_outputs") is None:
            if inputs is not None:
                kwargs["pixel_values"] = inputs
            if kwargs.get("pixel_values") is None:
                raise ValueError("generate needs pixel_values; the processor makes them from pictures.")
            # Encoding here, not inside transformers' generate, leaves one row of states per image.
            states, mask = self.encode_for_generation(kwargs)
            kwargs["encoder_outputs"] = BaseModelOutput(last_hidden_state=states)
            if mask is not None:
                kwargs["encoder_attention_mask"] = mask
        kwargs = with_original_beams(kwargs, self.generation_config)
        output = super().generate(**kwargs)
        return pad_after_end(output, self.config.eos_token_id, self.config.pad_token_id)

    @staticmethod
    def _expand_inputs_for_generation(
        expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **model_kwargs: Any
    ) -> tuple[Tensor | None, dict[str, Any]]:
        if expand_size > 1:
            if input_ids is not None:
                input_ids = input_ids.repeat_interleave(expand_size, dim=0)
            for name in _PER_ROW:
                if model_kwargs.get(name) is not None:
                    model_kwargs[name] = model_kwargs[name].repeat_interleave(expand_size, dim=0)
        return input_ids, model_kwargs

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        result = super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        cache = model_kwargs.get(CACHE_NAME)
        if type(cache) is EncoderDecoderCache:
            model_kwargs[CACHE_NAME] = SharedCrossAttentionCache(
                cache.self_attention_cache, cache.cross_attention_cache
            )
        return result

    def _prefill(
        self,
        input_ids: Tensor,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        *args: Any,
        **kw: Any,
    ) -> Any:
        """Beams and returned sequences of one prompt begin alike: it is run once and its keys and values repeated."""
        copies = max(generation_config.num_beams or 1, generation_config.num_return_sequences or 1)
        cache = model_kwargs.get(CACHE_NAME)
        alike = (
            copies > 1
            and input_ids.shape[0] % copies == 0
            and isinstance(cache, SharedCrossAttentionCache)
            and isinstance(cache.self_attention_cache, DynamicCache)
            and cache.get_seq_length() == 0
            and not (generation_config.output_attentions or generation_config.output_hidden_states)
        )
        if not alike:
            return super()._prefill(input_ids, generation_config, model_kwargs, *args, **kw)
        once = dict(model_kwargs)
        for name in _PER_ROW:
            if once.get(name) is not None:
                once[name] = once[name][::copies]
        output = super()._prefill(input_ids[::copies], generation_config, once, *args, **kw)
        cache.batch_repeat_interleave(copies)
        output.logits = output.logits.repeat_interleave(copies, dim=0)
        return output

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, next_sequence_length: int | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Inputs of one step; positions of prompts that are padded on the left count from their first token."""
        mask = kwargs.get("decoder_attention_mask")
        if mask is not None and mask.ndim == 2:
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            kwargs["decoder_position_ids"] = positions[:, -next_sequence_length:] if next_sequence_length else positions
        return super().prepare_inputs_for_generation(input_ids, next_sequence_length=next_sequence_length, **kwargs)


class OriginalBeams:
    """
    A model as the original's beam search sees it.

    parity: the original divides the score of a hypothesis by its length with the prompt and without the end token,
    later versions by the length without the prompt and with the end token. To decide whether a better one can still
    come, it looks at all candidates of a step, those that have just ended included. Hypotheses that are cut off count
    only if a better one could still come after those that ended in the same step.

    The original has the same prompt for all images of a call. Where prompts differ, each row counts its own, so that
    it is the one that the row gets by itself.

    Args:
        model: a model with transformers' `generate`.
        end_token_ids (`Tensor` of shape `(ids,)`): what ends a hypothesis.
        max_length (`int`): tokens after which hypotheses are cut off.
        padding (`Tensor` of shape `(B, 1)`, *optional*): tokens in front of each prompt that are none of its own, as
            floating point.
    """

    def __init__(self, model: Any, end_token_ids: Tensor, max_length: int, padding: Tensor | None = None) -> None:
        self._model = model
        self._end_token_ids = end_token_ids
        self._max_length = max_length
        self._padding = 0 if padding is None else padding
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
        ended = torch.isin(topk_running_sequences[:, :, cur_len], self._end_token_ids)
        step = {
            "topk_log_probs": topk_log_probs,
            "topk_running_sequences": topk_running_sequences,
            "cur_len": cur_len,
            "length_penalty": length_penalty,
        }
        update = self._model._update_finished_beams
        stopped = next_token_hits_stopping_criteria
        # The prompt's length is only what scores are divided by. Given this way, an ended candidate has the very number
        # that it is compared with below: often the best candidate is itself the worst of the finished hypotheses.
        found = update(
            next_token_hits_stopping_criteria=stopped & ended, decoder_prompt_len=1 + self._padding, **step, **kwargs
        )
        cut_off = stopped & ~ended
        if not bool(cut_off.any()):
            return found
        names = ("sequences", "beam_scores", "beam_indices", "is_sent_finished")
        kwargs.update(zip(names, found, strict=True))
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
        # Those count that would have gone on, as many as there are beams.
        going_on = ~ended & ((~ended).cumsum(dim=1) <= kwargs["num_beams"])
        kwargs["top_num_beam_mask"] = torch.ones_like(kwargs["top_num_beam_mask"])
        return update(
            next_token_hits_stopping_criteria=cut_off & going_on, decoder_prompt_len=self._padding, **step, **kwargs
        )

    def _check_early_stop_heuristic(self, *, running_beam_scores: Tensor, **kwargs: Any) -> Any:
        kwargs["decoder_prompt_len"] = 1 + self._padding
        best = running_beam_scores
        if self._best_candidate is not None:
            best = torch.maximum(best, self._best_candidate)
        return self._model._check_early_stop_heuristic(running_beam_scores=best, **kwargs)


def padding_in_front(model: Any, num_beams: int, inputs: dict[str, Any]) -> Tensor | None:
    """Masked tokens (B, 1) of what is gone on from, as floating point; `None` where there are none."""
    mask = inputs.get("decoder_attention_mask")
    if mask is None and not model.config.is_encoder_decoder:
        mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2 or bool(mask.all()):
        return None
    return (mask == 0).sum(dim=1)[::num_beams, None].float()


def original_beam_search(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    synced_gpus: bool = False,
    **model_kwargs: Any,
) -> Any:
    """transformers' beam search with the original's scores (see [`OriginalBeams`]), for `custom_generate`."""
    ends = generation_config._eos_token_tensor
    ends = torch.empty(0, dtype=torch.long) if ends is None else ends
    padding = padding_in_front(model, generation_config.num_beams, model_kwargs)
    return GenerationMixin._beam_search(
        OriginalBeams(model, ends.to(input_ids.device), generation_config.max_length, padding),
        input_ids,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        generation_config=generation_config,
        synced_gpus=synced_gpus,
        **model_kwargs,
    )


def with_original_beams(options: dict[str, Any], default: GenerationConfig | None) -> dict[str, Any]:
    """Options of `generate` that take [`original_beam_search`] where beams are asked for and no other loop is."""
    config = options.get("generation_config") or default
    beams = options.get("num_beams") or (config.num_beams if config is not None else None) or 1
    if beams == 1 or options.get("custom_generate") is not None:
        return options
    return {**options, "custom_generate": original_beam_search}


__all__ = [
    "ImageGroundedGenerationMixin",
    "SharedCrossAttentionCache",
    "as_prompt",
    "original_beam_search",
    "pad_after_end",
    "with_first_token",
    "with_original_beams",
]
