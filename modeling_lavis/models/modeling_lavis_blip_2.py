# SPDX-License-Identifier: Apache-2.0
"""BLIP-2 without a language model (Li et al., 2023, https://arxiv.org/abs/2301.12597): features, retrieval, and the
first pretraining stage, whose Q-Former also generates captions.

Shapes: B images, R text rows, N image tokens, Q query tokens, T text tokens, V vocabulary size, D hidden size of the
Q-Former, P projection dimension.
"""

from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from .configuration_lavis_blip_2 import LavisBlip2Config
from .forward_options import head_forward
from .generation import images_for_decoder
from .modeling_base import project_features, set_first_token
from .modeling_lavis_blip_2_base import LavisBlip2PreTrainedModel
from .outputs import (
    LavisFeaturesOutput,
    LavisGenerationOutput,
    LavisImageTextRetrievalOutput,
    LavisPreTrainingOutput,
    recorded_fields,
    vision_fields,
)
from .task_base import get_image_features, get_text_features
from .task_pretraining import ImageTextPreTrainingMixin
from .task_retrieval import ImageTextRetrievalMixin, MatchHead, RetrievalOptions
from .text_bert import BertLMHead
from .transformers_compat import CACHE_NAME, accepts_cache, cache_output


class LavisBlip2Model(LavisBlip2PreTrainedModel):
    """
    BLIP-2 feature extractor for images, texts and pairs (https://arxiv.org/abs/2301.12597): the LAVIS architecture
    `blip2_feature_extractor`.

    Args:
        config ([`LavisBlip2Config`]): model configuration without a language model.
    """

    get_image_features = get_image_features
    get_text_features = get_text_features

    def __init__(self, config: LavisBlip2Config) -> None:
        super().__init__(config)
        self.build_encoders(config)
        self.build_projections(config)
        self.post_init()

    @head_forward
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisFeaturesOutput:
        r"""
        Returns:
            [`LavisFeaturesOutput`]: with images, the hidden states of the query tokens as `image_embeds` `(B, Q, D)`
            and their projections as `image_features` `(B, Q, P)`; with texts, `text_embeds` `(B, T, D)` and
            `text_features` `(B, T, P)`; with both, also `multimodal_embeds` `(B, Q, D)`, the query tokens after the
            multimodal pass. `hidden_states` and `attentions` are those of the multimodal pass, or of the only pass that
            runs.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("Got neither pixel_values nor input_ids; pass one of them, or both.")
        fields: dict[str, Any] = {}
        recorded: Any = None
        image_embeds = None
        if pixel_values is not None:
            vision = self.image_encoder_outputs(pixel_values, interpolate_pos_encoding, **kwargs)
            image_embeds = vision.last_hidden_state
            recorded = self.query_images(image_embeds, **(kwargs if input_ids is None else {}))
            queries = recorded.last_hidden_state
            image_features = project_features(queries, self.vision_proj)
            fields.update(image_embeds=queries, image_features=image_features, **vision_fields(vision))
        if input_ids is not None:
            text = self.text_encoder_outputs(input_ids, attention_mask, **(kwargs if image_embeds is None else {}))
            text_embeds = text.last_hidden_state
            fields.update(text_embeds=text_embeds, text_features=project_features(text_embeds, self.text_proj))
            recorded = text
            if image_embeds is not None:
                recorded = self.fuse(image_embeds, input_ids, attention_mask, queries_only=True, **kwargs)
                fields["multimodal_embeds"] = recorded.last_hidden_state
        return LavisFeaturesOutput(**fields, **recorded_fields(recorded))


def retrieval_options(config: LavisBlip2Config) -> RetrievalOptions:
    """How the Q-Former's ITC and ITM training differs from ALBEF's (section 3.2)."""
    return RetrievalOptions(
        clamps_temperature=False,
        encodes_images_first=True,  # parity: the order of the original, and of its dropout
        # parity: each direction of the contrastive loss trains through its own rows only
        candidates_receive_gradient=False,
        label_smoothing=config.label_smoothing,
        negatives_from_all_processes=True,
        # parity: only LAVIS 1.0.2 gives every hard negative a minimum probability
        negative_floor=1e-4 if config.objective == "1.0.2" else 0.0,
        matches_single_pair=True,
        uses_image_ids=config.objective != "1.0.2",  # parity: LAVIS 1.0.2 ignores them
        num_itm_tokens=config.num_query_tokens,
        pooled_only_argument="queries_only",
        returns_pooled_only=True,
        num_row_splits=8,  # every row has the query tokens
    )


class LavisBlip2ForImageTextRetrieval(ImageTextRetrievalMixin, LavisBlip2PreTrainedModel):
    """
    BLIP-2 for image-text retrieval and matching (https://arxiv.org/abs/2301.12597, section 3.2): the LAVIS architecture
    `blip2_image_text_matching`. It trains with the contrastive and matching losses; the original trains
    [`LavisBlip2ForPreTraining`], whose checkpoints this class loads, has a captioning loss in addition.

    Args:
        config ([`LavisBlip2Config`]): model configuration without a language model.
    """

    get_image_features = get_image_features

    def __init__(self, config: LavisBlip2Config) -> None:
        super().__init__(config)
        self.build_encoders(config)
        self.build_projections(config)
        self.itm_head = nn.Linear(config.qformer_config.hidden_size, 2)
        self.post_init()

    @property
    def retrieval_options(self) -> RetrievalOptions:
        """How the head compares images with texts and trains on pairs."""
        return retrieval_options(self.config)

    @head_forward
    def forward(  # type: ignore[override]
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_ids: Tensor | None = None,
        match_head: MatchHead = "itc",
        return_loss: bool = False,
        output_intermediates: bool = False,
        interpolate_pos_encoding: bool = False,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisImageTextRetrievalOutput:
        r"""
        Similarities and matching logits, or the training losses. Images alone give `image_embeds` alone.

        Args:
            image_ids (`Tensor` of shape `(batch_size,)`, *optional*):
                Rows with equal ids belong to the same image: they are positives of each other in the contrastive loss
                and never hard negatives of each other. Ignored with the objective of LAVIS 1.0.2.

        Returns:
            [`LavisImageTextRetrievalOutput`]: `image_features` has shape `(images, Q, P)`; `multimodal_embeds` are the
            hidden states of the query tokens.
        """
        if not return_loss:
            return LavisImageTextRetrievalOutput(
                **self.comparison_fields(
                    pixel_values, input_ids, attention_mask, match_head, interpolate_pos_encoding, **kwargs
                )
            )
        pairs = self.encode_pairs(
            pixel_values,
            input_ids,
            attention_mask,
            image_ids,
            trim_padding=False,
            interpolate_pos_encoding=interpolate_pos_encoding,
            **kwargs,
        )
        return LavisImageTextRetrievalOutput(
            **self.itc_itm_loss(pairs, output_intermediates=output_intermediates).fields
        )


class LavisBlip2ForPreTraining(ImageTextPreTrainingMixin, LavisBlip2PreTrainedModel):
    """
    The first stage of BLIP-2 with its three losses: image-text contrastive, image-text matching and image-grounded text
    generation (https://arxiv.org/abs/2301.12597, section 3.2). It also generates captions with its Q-Former. The LAVIS
    architecture `blip2`. It needs no process group and accepts batches of one pair.

    Args:
        config ([`LavisBlip2Config`]): model configuration without a language model; `objective` selects the version of
            LAVIS.
    """

    get_image_features = get_image_features

    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "qformer.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: LavisBlip2Config) -> None:
        super().__init__(config)
        self.build_encoders(config)
        self.build_projections(config)
        self.itm_head = nn.Linear(config.qformer_config.hidden_size, 2)
        self.cls = BertLMHead(config.qformer_config)
        self.post_init()

    @property
    def retrieval_options(self) -> RetrievalOptions:
        """How the head compares images with texts and trains on pairs."""
        return retrieval_options(self.config)

    def get_output_embeddings(self) -> nn.Linear:
        """The language modeling head."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, value: Any) -> None:
        """Replace the language modeling head and its bias."""
        self.cls.predictions.decoder = value
        self.cls.predictions.bias = value.bias

    @accepts_cache
    @head_forward
    def forward(  # type: ignore[override]
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
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisPreTrainingOutput:
        r"""
        Similarities and matching logits; with `return_loss=True` the three training losses; with `decoder_input_ids` a
        pass of the caption decoder, which is what `generate` calls. Images alone give `image_embeds` alone.

        Args:
            image_ids (`Tensor` of shape `(batch_size,)`, *optional*):
                Rows with equal ids belong to the same image: they are positives of each other in the contrastive loss
                and never hard negatives of each other. Ignored with the objective of LAVIS 1.0.2.
            decoder_attention_mask (`Tensor` of shape `(num_texts, num_query_tokens + sequence_length)`, *optional*):
                1 for query tokens and text tokens, 0 for padding.
            decoder_position_ids (`Tensor` of shape `(num_texts, sequence_length)`, *optional*):
                Positions of the text tokens, from 0.

        Returns:
            [`LavisPreTrainingOutput`].
        """
        if decoder_input_ids is not None:
            decoded = self.decode_captions(
                decoder_input_ids,
                pixel_values,
                decoder_attention_mask,
                decoder_position_ids,
                encoder_outputs,
                past_key_values,
                use_cache,
                logits_to_keep,
                interpolate_pos_encoding=interpolate_pos_encoding,
                **kwargs,
            )
            fields = self.decoder_fields(decoded)
            # the decoder is the Q-Former itself
            fields["hidden_states"] = fields.pop("decoder_hidden_states")
            fields["attentions"] = fields.pop("decoder_attentions")
            return LavisPreTrainingOutput(**fields)
        if not return_loss:
            return LavisPreTrainingOutput(
                **self.comparison_fields(
                    pixel_values, input_ids, attention_mask, match_head, interpolate_pos_encoding, **kwargs
                )
            )
        # keys and values of the query tokens, which the captions attend to
        query_cache = DynamicCache(config=self.config.qformer_config)
        pairs = self.encode_pairs(
            pixel_values,
            input_ids,
            attention_mask,
            image_ids,
            trim_padding=False,
            interpolate_pos_encoding=interpolate_pos_encoding,
            projection_options={"past_key_values": query_cache},
            **kwargs,
        )
        pair_loss = self.itc_itm_loss(pairs, output_intermediates=output_intermediates)
        decoder_input_ids, mask = set_first_token(pairs.input_ids, self.config.bos_token_id), pairs.attention_mask
        if query_cache.get_seq_length():
            hidden_states = self.qformer(
                input_ids=decoder_input_ids, attention_mask=mask, past_key_values=query_cache, causal=True
            ).last_hidden_state
        else:  # layers under activation checkpointing cache nothing: query tokens and text run together
            output = self.query_images(pairs.image_embeds, decoder_input_ids, mask, causal=True)
            hidden_states = output.last_hidden_state[:, self.config.num_query_tokens :]
        return self.add_caption_loss(pair_loss, self.cls(hidden_states), decoder_input_ids, mask == 0)

    # ---- captions of the Q-Former ----

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
        encoder_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisGenerationOutput:
        """
        One pass over texts `(R, T)`; the query tokens of the images run first if the cache does not have them. The mask
        that `generate` passes with encoder hidden states is ignored: image tokens have no padding.
        """
        image_embeds, vision = images_for_decoder(
            self, pixel_values, encoder_outputs, interpolate_pos_encoding, **kwargs
        )
        cache = _self_attention_cache(past_key_values)
        if cache is None:
            cache = DynamicCache(config=self.config.qformer_config)
        if isinstance(cache, DynamicCache) and cache.get_seq_length() == 0:
            self._cache_query_tokens(cache, image_embeds, decoder_input_ids.shape[0])
        options: dict[str, Any] = {"position_ids": decoder_position_ids, "causal": True, **kwargs}
        if isinstance(cache, DynamicCache) and cache.get_seq_length() == 0:
            # layers under activation checkpointing cache nothing: query tokens and text run together
            length = decoder_input_ids.shape[1]
            mask = None if decoder_attention_mask is None else decoder_attention_mask[..., -length:]
            output = self.query_images(image_embeds, decoder_input_ids, mask, **options)
            hidden_states = output.last_hidden_state[:, self.config.num_query_tokens :]
        else:
            output = self.qformer(
                input_ids=decoder_input_ids, attention_mask=decoder_attention_mask, past_key_values=cache, **options
            )
            hidden_states = output.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        if past_key_values is None and use_cache:
            past_key_values = cache
        return LavisGenerationOutput(
            logits=self.cls(hidden_states[:, kept]),
            encoder_last_hidden_state=image_embeds,
            image_embeds=image_embeds,
            decoder_hidden_states=output.hidden_states,
            decoder_attentions=output.attentions,
            **vision,
            **cache_output(past_key_values),
        )

    @property
    def num_prefix_tokens(self) -> int:  # type: ignore[override]
        """Number of query tokens, which are in the cache before the prompt."""
        return self.config.num_query_tokens

    def _cache_query_tokens(self, cache: Cache, image_embeds: Tensor, rows: int) -> None:
        """
        Run the query tokens of the images, and give each text row the keys and values of its image. The cache stays
        empty if layers cache nothing.
        """
        per_image = DynamicCache(config=self.config.qformer_config)
        self.query_images(image_embeds, past_key_values=per_image)
        if not per_image.get_seq_length():
            return
        copies = rows // image_embeds.shape[0]
        for index, layer in enumerate(per_image.layers):
            keys, values = (states.repeat_interleave(copies, dim=0) for states in (layer.keys, layer.values))
            cache.update(keys, values, index)

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
            self._cache_query_tokens(_self_attention_cache(cache), model_kwargs["encoder_outputs"][0], rows)
        return result


def _self_attention_cache(cache: Any) -> Any:
    """The part of a cache that holds query tokens and text."""
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache


__all__ = [
    "LavisBlip2ForImageTextRetrieval",
    "LavisBlip2ForPreTraining",
    "LavisBlip2Model",
    "LavisBlip2PreTrainedModel",
]
