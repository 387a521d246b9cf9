# SPDX-License-Identifier: Apache-2.0
"""The first stage of BLIP-2: contrast, matching and image-grounded generation; and captions by the Q-Former.

Letters: B images, R rows of text, n rows per image, N image tokens, Q queries, T text tokens, V vocabulary, E width of
the image tower.
"""

from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from .cache_names import CACHE_NAME, returned
from .configuration_lavis_blip_2 import LavisBlip2Config
from .generation import with_first_token
from .image_captioning import ImageCaptioningMixin
from .language_loss import mean_over_tokens, next_token_loss
from .modeling_lavis_blip_2_matching import MatchHead
from .modeling_lavis_blip_2_objectives import QFormerObjectivesMixin
from .outputs import LavisGenerationOutput, LavisPreTrainingOutput
from .text_bert import BertLMHead


class QFormerCaptioningMixin(ImageCaptioningMixin, QFormerObjectivesMixin):
    """Decoding captions by the Q-Former: its queries read the image once, the text then reads the queries."""

    def get_output_embeddings(self) -> nn.Linear:
        """The map to the vocabulary."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the map to the vocabulary, and the bias that is kept beside it."""
        self.cls.predictions.decoder = value
        self.cls.predictions.bias = value.bias

    @property
    def num_tokens_in_front(self) -> int:
        """The queries, which are in the cache and count as tokens in front of the prompt."""
        return self.config.num_query_tokens

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> Any:
        result = super()._prepare_cache_for_generation(
            generation_config,
            model_kwargs,
            generation_mode,
            batch_size,
            max_cache_length + self.config.num_query_tokens,
        )
        cache = model_kwargs.get(CACHE_NAME)
        if cache is not None and int(cache.get_seq_length()) == 0:
            rows = batch_size * max(generation_config.num_beams, generation_config.num_return_sequences)
            self._fill_with_queries(_own(cache), model_kwargs["encoder_outputs"][0], rows)
        return result

    def _fill_with_queries(self, cache: Cache, image_embeds: Tensor, rows: int) -> None:
        """Let the queries of B images read them, and give each of the rows of text those of its image."""
        once = DynamicCache(config=self.config.qformer_config)
        self.query_images(image_embeds, past_key_values=once)
        each = rows // image_embeds.shape[0]
        for index, layer in enumerate(once.layers):
            cache.update(layer.keys.repeat_interleave(each, dim=0), layer.values.repeat_interleave(each, dim=0), index)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, next_sequence_length: int | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Inputs of one step; see [`ImageCaptioningMixin`]. Positions of the text do not count the queries."""
        inputs = super().prepare_inputs_for_generation(input_ids, next_sequence_length=next_sequence_length, **kwargs)
        if inputs.get("decoder_position_ids") is not None:
            length = inputs["decoder_input_ids"].shape[1]
            positions = inputs["decoder_position_ids"][:, -length:] - self.config.num_query_tokens
            inputs["decoder_position_ids"] = positions.clamp(min=0)
        return inputs

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
        """One pass over the text (R, T); the queries of the images run first if the cache does not hold them."""
        cache = _own(past_key_values)
        if cache is None:
            cache = DynamicCache(config=self.config.qformer_config)
        if isinstance(cache, DynamicCache) and cache.get_seq_length() == 0:
            self._fill_with_queries(cache, image_embeds, decoder_input_ids.shape[0])
        output = self.qformer(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            past_key_values=cache,
            causal=True,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        if past_key_values is None and use_cache:
            past_key_values = cache
        return LavisGenerationOutput(
            logits=self.cls(output.last_hidden_state[:, kept]),
            encoder_last_hidden_state=image_embeds,
            image_embeds=image_embeds,
            decoder_hidden_states=output.hidden_states,
            decoder_attentions=output.attentions,
            **returned(past_key_values),
        )


def _own(cache: Cache | None) -> Cache | None:
    """The part of a cache that holds queries and text."""
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache


class LavisBlip2ForPreTraining(QFormerCaptioningMixin):
    """
    BLIP-2's first stage with all three objectives (https://arxiv.org/abs/2301.12597, section 3.2), which also writes
    captions with its Q-Former: the LAVIS architecture `blip2`. It needs no process group, and takes batches of one.

    Args:
        config ([`LavisBlip2Config`]): without a language model. `objective` says which version of LAVIS is followed.
    """

    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "qformer.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: LavisBlip2Config) -> None:
        super().__init__(config)
        self.build_matching(config)
        self.cls = BertLMHead(config.qformer_config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_ids: Tensor | None = None,
        match_head: MatchHead = "itc",
        return_loss: bool = False,
        output_intermediates: bool = False,
        interpolate_pos_encoding: bool = False,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisPreTrainingOutput:
        r"""
        Args:
            pixel_values (`Tensor` of shape `(images, channels, height, width)`): images.
            input_ids (`Tensor` of shape `(texts, T)`, *optional*): texts; slot 0 is set to what each pass needs.
                Images alone give `image_embeds` alone.
            attention_mask (`Tensor` of shape `(texts, T)`, *optional*): 1 for tokens.
            image_ids (`Tensor` of shape `(B,)`, *optional*): rows with equal ids are positives of each other; ignored
                with the objective of 1.0.2.
            match_head (`str`, *optional*, defaults to `"itc"`): `"itc"` compares all images with all texts, `"itm"`
                matches the pairs, `"both"` does both. Ignored with `return_loss`.
            return_loss (`bool`, *optional*, defaults to `False`): the three training losses of the pairs.
            output_intermediates (`bool`, *optional*, defaults to `False`): also return what the losses were made of.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.
            decoder_input_ids (`Tensor` of shape `(R, T)`, *optional*): decode captions instead; what `generate` does.
            decoder_attention_mask (`Tensor` of shape `(R, Q + T)`, *optional*): 1 for the queries and for tokens.
            decoder_position_ids (`Tensor` of shape `(R, T)`, *optional*): which of their text the tokens are, from 0.
            encoder_outputs (`BaseModelOutput`, *optional*): for decoding, image states in place of `pixel_values`.
            token_type_ids: accepted for transformers' pipelines, without effect.

        Returns:
            [`LavisPreTrainingOutput`].
        """
        if decoder_input_ids is not None:
            decoded = self.decode_captions(
                decoder_input_ids,
                pixel_values,
                decoder_attention_mask,
                decoder_position_ids,
                encoder_outputs=encoder_outputs,
                interpolate_pos_encoding=interpolate_pos_encoding,
                **kwargs,
            )
            return LavisPreTrainingOutput(
                logits=decoded.logits,
                lm_logits=decoded.logits,
                image_embeds=decoded.encoder_last_hidden_state,
                hidden_states=decoded.decoder_hidden_states,
                attentions=decoded.decoder_attentions,
                **returned(decoded.get(CACHE_NAME)),
            )
        if not return_loss:
            return LavisPreTrainingOutput(
                **self.compare(pixel_values, input_ids, attention_mask, match_head, interpolate_pos_encoding, **kwargs)
            )
        pairs = self.learn_pairs(
            pixel_values, input_ids, attention_mask, image_ids, output_intermediates, interpolate_pos_encoding
        )
        decoder_ids = with_first_token(pairs.input_ids, self.config.bos_token_id)
        labels = decoder_ids.masked_fill(pairs.attention_mask == 0, -100)
        states = self._read_queries(decoder_ids, pairs.attention_mask, pairs.image_embeds, pairs.query_cache)
        logits = self.cls(states)
        loss_lm = mean_over_tokens(next_token_loss(logits, labels, self.config.label_smoothing), labels)
        pairs.fields["loss"] = pairs.fields["loss"] + loss_lm
        if output_intermediates:
            pairs.fields["intermediates"] = {**pairs.intermediates, "decoder_logits": logits, "decoder_labels": labels}
        return LavisPreTrainingOutput(loss_lm=loss_lm, lm_logits=logits, **pairs.fields)

    def _read_queries(self, input_ids: Tensor, mask: Tensor, image_embeds: Tensor, cache: Cache) -> Tensor:
        """States (B, T, D) of causal texts that read the queries of their images."""
        if cache.get_seq_length():
            return self.qformer(
                input_ids=input_ids, attention_mask=mask, past_key_values=cache, causal=True
            ).last_hidden_state
        # Layers that are recomputed in the backward pass keep no cache: queries and text run together.
        output = self.query_images(image_embeds, input_ids, mask, causal=True)
        return output.last_hidden_state[:, self.config.num_query_tokens :]


__all__ = ["LavisBlip2ForPreTraining", "QFormerCaptioningMixin"]
