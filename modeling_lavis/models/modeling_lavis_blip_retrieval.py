# SPDX-License-Identifier: Apache-2.0
"""BLIP heads that compare images and texts: retrieval and matching, and pretraining, which adds captioning.

Letters: B rows of this process, W rows of all processes, N image tokens, T text tokens, D width, P common width.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from .cache_names import CACHE_NAME, returned
from .configuration_lavis_blip import LavisBlipConfig
from .contrastive import ContrastiveOutput, negative_weights, same_ids
from .distributed import gather, rank
from .generation import with_first_token
from .image_text_matching import ImageTextRetrievalMixin, MatchHead, MatchingMixin
from .language_loss import mean_over_tokens, next_token_loss
from .modeling_lavis_blip_base import LavisBlipPreTrainedModel
from .modeling_lavis_blip_captioning import BlipCaptioningMixin
from .outputs import LavisPreTrainingOutput
from .text_bert import LavisBertLMHeadModel


class LavisBlipForImageTextRetrieval(ImageTextRetrievalMixin, LavisBlipPreTrainedModel):
    """
    BLIP for retrieval and matching: contrastive features of images and texts, and a head that tells whether a text
    describes an image (https://arxiv.org/abs/2201.12086, section 3.2). Covers the LAVIS architectures
    `blip_retrieval` and `blip_image_text_matching`.

    Args:
        config ([`LavisBlipConfig`]): with `use_momentum=False` the model has neither twins nor queues.
    """

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        self.build_matching(config, queue_has_ids=True)
        self.post_init()

    @property
    def negatives_from_all_processes(self) -> bool:
        """Whether hard negatives come from all processes."""
        return self.config.negative_all_rank

    def _negative_weights(
        self, contrast: ContrastiveOutput, image_features: Tensor, text_features: Tensor, image_ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # parity: hard negatives follow the online features, not those of the twins.
        batch = image_features.shape[0]
        own = torch.arange(batch, device=image_features.device)
        with torch.no_grad():
            images, texts = image_features, text_features
            columns = own
            if self.config.negative_all_rank:
                images, texts = gather(images), gather(texts)
                own = own + rank() * batch
                columns = torch.arange(images.shape[0], device=own.device)
            i2t = image_features @ texts.T / self.temp
            t2i = text_features @ images.T / self.temp
            if image_ids is None:
                excluded = same_ids(own, columns)
            else:
                ids = image_ids.reshape(-1)
                excluded = same_ids(ids, gather(ids) if self.config.negative_all_rank else ids)
        # parity: these, not the similarities with the queue, are what the original reports.
        contrast.sim_i2t, contrast.sim_t2i = i2t, t2i
        return negative_weights(t2i, excluded), negative_weights(i2t, excluded)


class LavisBlipForPreTraining(MatchingMixin, BlipCaptioningMixin, LavisBlipPreTrainedModel):
    """
    BLIP with all three objectives: contrast, matching and captioning; encoder and decoder share everything but their
    self-attention (https://arxiv.org/abs/2201.12086, sections 3.1 and 3.2). The LAVIS architecture `blip_pretrain`.

    Args:
        config ([`LavisBlipConfig`]): with `use_momentum=False` the model has neither twins nor queues.
    """

    # parity: a floor under every probability
    negative_floor = 1e-4

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        self.build_matching(config, queue_has_ids=False)
        self.text_decoder = LavisBertLMHeadModel._from_config(config.text_config)
        self._tied_weights_keys = self._shared_by_encoder_and_decoder()
        self.post_init()

    def _shared_by_encoder_and_decoder(self) -> dict[str, str]:
        """Decoder parameters and the encoder parameters that they are: all but self-attention and the head."""
        shared = {}
        for name, _ in self.text_encoder.named_parameters():
            if ".attention." not in name:
                shared[f"text_decoder.bert.{name}"] = f"text_encoder.{name}"
        shared["text_decoder.cls.predictions.decoder.weight"] = "text_encoder.embeddings.word_embeddings.weight"
        return shared

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_ids: Tensor | None = None,
        match_head: MatchHead = "itc",
        return_loss: bool = False,
        alpha: float | None = None,
        update_state: bool | None = None,
        output_intermediates: bool = False,
        interpolate_pos_encoding: bool = False,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
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
            image_ids (`Tensor` of shape `(B,)`, *optional*): rows with equal ids are no negatives of each other.
            match_head (`str`, *optional*, defaults to `"itc"`): `"itc"` compares all images with all texts, `"itm"`
                matches the pairs, `"both"` does both. Ignored with `return_loss`.
            return_loss (`bool`, *optional*, defaults to `False`): the three training losses of the pairs.
            alpha (`float`, *optional*): weight of the twins' soft targets; `distill_alpha`, then the configuration's.
            update_state (`bool`, *optional*): whether twins, queues and the clamp of the temperature move; only while
                training by default.
            output_intermediates (`bool`, *optional*, defaults to `False`): also return what the losses were made of.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.
            decoder_input_ids, decoder_attention_mask (`Tensor` of shape `(B, T)`, *optional*): run the caption decoder
                instead; this is what `generate` does.
            encoder_outputs (`BaseModelOutput`, *optional*): for the decoder, image states in place of `pixel_values`.
            token_type_ids: accepted for transformers' pipelines, without effect.

        Returns:
            [`LavisPreTrainingOutput`].
        """
        if decoder_input_ids is not None:
            decoded = self.decode_captions(
                decoder_input_ids,
                pixel_values,
                decoder_attention_mask,
                encoder_outputs=encoder_outputs,
                interpolate_pos_encoding=interpolate_pos_encoding,
                **kwargs,
            )
            return LavisPreTrainingOutput(
                logits=decoded.logits,
                lm_logits=decoded.logits,
                image_embeds=decoded.encoder_last_hidden_state,
                decoder_hidden_states=decoded.decoder_hidden_states,
                decoder_attentions=decoded.decoder_attentions,
                cross_attentions=decoded.cross_attentions,
                **returned(decoded.get(CACHE_NAME)),
            )
        if not return_loss:
            return LavisPreTrainingOutput(
                **self.compare(pixel_values, input_ids, attention_mask, match_head, interpolate_pos_encoding, **kwargs)
            )
        batch = self.contrast_batch(
            pixel_values,
            input_ids,
            attention_mask,
            image_ids,
            alpha,
            update_state,
            output_intermediates,
            interpolate_pos_encoding,
        )
        fields, _ = self.contrast_and_match(batch)
        decoder_ids = with_first_token(batch.input_ids, self.config.bos_token_id)
        labels = decoder_ids.masked_fill(decoder_ids == self.config.pad_token_id, -100)
        logits, _ = self.text_decoder(
            decoder_ids, attention_mask=batch.attention_mask, encoder_hidden_states=batch.image_embeds
        )
        loss_lm = mean_over_tokens(next_token_loss(logits, labels, self.config.label_smoothing), labels)
        fields["loss"] = fields["loss"] + loss_lm
        if fields["intermediates"] is not None:
            fields["intermediates"].update(decoder_logits=logits, decoder_labels=labels)
        return LavisPreTrainingOutput(loss_lm=loss_lm, lm_logits=logits, **fields)


__all__ = ["LavisBlipForImageTextRetrieval", "LavisBlipForPreTraining"]
