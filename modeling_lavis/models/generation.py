# SPDX-License-Identifier: Apache-2.0
"""transformers' `generate` for decoders that read an image (or an image and a question).

Letters: B images, n beams or returned sequences per image, T prompt tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput


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
        return self._pad_after_end(super().generate(**kwargs))

    def _pad_after_end(self, output: Any) -> Any:
        """Padding after the end token. Beam search fills up with end tokens where the id of the padding is 0."""
        sequences = output if isinstance(output, Tensor) else output.sequences
        ended = (sequences == self.config.eos_token_id).cumsum(dim=1)
        after = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], dim=1) > 0
        sequences = sequences.masked_fill(after, self.config.pad_token_id)
        if isinstance(output, Tensor):
            return sequences
        output.sequences = sequences
        return output

    @staticmethod
    def _expand_inputs_for_generation(
        expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **model_kwargs: Any
    ) -> tuple[Tensor | None, dict[str, Any]]:
        if expand_size > 1:
            if input_ids is not None:
                input_ids = input_ids.repeat_interleave(expand_size, dim=0)
            for name in ("decoder_attention_mask", "decoder_position_ids"):
                if model_kwargs.get(name) is not None:
                    model_kwargs[name] = model_kwargs[name].repeat_interleave(expand_size, dim=0)
        return input_ids, model_kwargs

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        result = super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        cache = model_kwargs.get("past_key_values")
        if type(cache) is EncoderDecoderCache:
            model_kwargs["past_key_values"] = SharedCrossAttentionCache(
                cache.self_attention_cache, cache.cross_attention_cache
            )
        return result

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Inputs of one step; positions of prompts that are padded on the left count from their first token."""
        mask = kwargs.get("decoder_attention_mask")
        if mask is not None and mask.ndim == 2:
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            kwargs["decoder_position_ids"] = positions[:, -next_sequence_length:] if next_sequence_length else positions
        return super().prepare_inputs_for_generation(
            input_ids, next_sequence_length=next_sequence_length, past_key_values=past_key_values, **kwargs
        )

    def _update_finished_beams(self, *args: Any, **kwargs: Any) -> Any:
        # parity: see original_beam_scores
        return super()._update_finished_beams(*args, **original_beam_scores(kwargs, [self.config.eos_token_id]))

    @staticmethod
    def _check_early_stop_heuristic(*args: Any, **kwargs: Any) -> Any:
        # parity: see original_beam_scores
        kwargs["decoder_prompt_len"] = 1
        return GenerationMixin._check_early_stop_heuristic(*args, **kwargs)


def original_beam_scores(arguments: dict[str, Any], end_token_ids: list[int]) -> dict[str, Any]:
    """
    Arguments of `_update_finished_beams` with which it comes to the scores of the original.

    parity: the original's beam search divides by the length with the prompt and without the end token, later ones by
    the length without the prompt and with the end token.
    """
    cur_len, sequences = arguments["cur_len"], arguments["topk_running_sequences"]
    log_probs = arguments["topk_log_probs"]
    ended = torch.isin(sequences[:, :, cur_len], torch.tensor(end_token_ids, device=sequences.device))
    theirs = cur_len + 1 - arguments["decoder_prompt_len"]
    originals = torch.where(ended, cur_len, cur_len + 1).to(log_probs.dtype)
    return {**arguments, "topk_log_probs": log_probs * (theirs / originals) ** arguments["length_penalty"]}


__all__ = [
    "ImageGroundedGenerationMixin",
    "SharedCrossAttentionCache",
    "as_prompt",
    "original_beam_scores",
    "with_first_token",
]
