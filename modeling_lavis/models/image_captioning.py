# SPDX-License-Identifier: Apache-2.0
"""Captions by transformers' `generate`, for heads whose decoder reads an image and begins with a prompt.

Letters: B images, R rows of text, N image tokens, T text tokens, D width of the image states.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput

from .cache_names import takes_cache
from .generation import ImageGroundedGenerationMixin, as_prompt
from .outputs import LavisGenerationOutput

# What `generate` hands to every decoder, without effect here: image tokens have no mask, the text is decoder_input_ids.
_WITHOUT_EFFECT = ("encoder_attention_mask", "input_ids", "attention_mask")


class ImageCaptioningMixin(ImageGroundedGenerationMixin):
    """Prompts, image states and the arguments of a decoding step. Heads implement [`read_captions`]."""

    @property
    def num_tokens_in_front(self) -> int:
        """Slots of the decoder's cache that are no text and stand in front of the prompt."""
        return 0

    def encode_for_generation(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Image states (B, N, D); image tokens carry no mask."""
        states = self.encode_images(inputs.pop("pixel_values"), inputs.pop("interpolate_pos_encoding", False))
        return states, None

    def generate(
        self,
        inputs: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        r"""
        Generate captions by transformers' `generate`.

        Args:
            inputs (`Tensor` of shape `(B, C, H, W)`, *optional*): images; `pixel_values=` is the same.
            input_ids (`Tensor` of shape `(B, T)`, *optional*): prompts as the tokenizer or the processor gives them;
                the decoder's start token is put in slot 0, an end token is cut off, padding goes to the left.
            attention_mask (`Tensor` of shape `(B, T)`, *optional*): 1 for tokens of the prompts.
            kwargs: options of `generate`. Lengths count the prompt.

        Returns:
            ids that begin with the prompt, or what `return_dict_in_generate` asks for.
        """
        if input_ids is None:
            input_ids = kwargs.pop("decoder_input_ids", None)
            attention_mask = kwargs.pop("decoder_attention_mask", attention_mask)
        if input_ids is not None and input_ids.shape[1]:
            config = self.config
            input_ids, mask = as_prompt(
                input_ids, attention_mask, config.bos_token_id, config.eos_token_id, config.pad_token_id
            )
            kwargs["decoder_input_ids"] = input_ids
            if mask is not None:
                ones = mask.new_ones(mask.shape[0], self.num_tokens_in_front)
                kwargs["decoder_attention_mask"] = torch.cat([ones, mask], dim=1)
        return super().generate(inputs, **kwargs)

    @takes_cache
    def decode_captions(
        self,
        decoder_input_ids: Tensor,
        pixel_values: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> LavisGenerationOutput:
        """
        One pass of the decoder over texts (R, T) and the images that they belong to.

        Args:
            decoder_input_ids, decoder_attention_mask, decoder_position_ids (`Tensor` of shape `(R, T)`): the texts.
            pixel_values (`Tensor` of shape `(B, C, H, W)`, *optional*): images.
            encoder_outputs (`BaseModelOutput`, *optional*): image states in place of `pixel_values`; one row may serve
                several rows of text.
            past_key_values (`Cache`, *optional*), use_cache (`bool`, *optional*): keys and values of earlier tokens.
            logits_to_keep (`int`, *optional*, defaults to 0): logits of the last tokens only; 0 for all.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.
            kwargs: other options of the decoder.
        """
        if encoder_outputs is None:
            if pixel_values is None:
                raise ValueError("The decoder needs pixel_values, or encoder_outputs that were made of them.")
            states = self.encode_images(pixel_values, interpolate_pos_encoding)
        else:
            states = encoder_outputs[0]
        for name in _WITHOUT_EFFECT:
            kwargs.pop(name, None)
        return self.read_captions(
            states,
            decoder_input_ids,
            decoder_attention_mask,
            decoder_position_ids,
            past_key_values,
            use_cache,
            logits_to_keep,
            **kwargs,
        )

    def read_captions(
        self,
        image_embeds: Tensor,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor | None,
        decoder_position_ids: Tensor | None,
        past_key_values: Cache | None,
        use_cache: bool | None,
        logits_to_keep: int | Tensor,
        **kwargs: Any,
    ) -> LavisGenerationOutput:
        """[`decode_captions`] from image states (B, N, D); what a head implements."""
        raise NotImplementedError


__all__ = ["ImageCaptioningMixin"]
