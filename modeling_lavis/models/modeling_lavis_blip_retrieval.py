# SPDX-License-Identifier: Apache-2.0
"""BLIP heads that compare images and texts: retrieval and matching, and pretraining, which adds captioning.

Letters: B rows of this process, W rows of all processes, N image tokens, T text tokens, D width, P common width.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from .configuration_lavis_blip import LavisBlipConfig
from .contrastive import ContrastiveOutput, negative_weights, same_ids
from .distributed import gather, gather_ragged, gather_with_grad, rank
from .generation import with_first_token
from .heads import project
from .language_loss import mean_over_tokens, next_token_loss
from .modeling_base import image_and_text
from .modeling_lavis_blip_base import BlipFeaturesMixin, LavisBlipPreTrainedModel, build_encoders, build_projections
from .modeling_lavis_blip_captioning import BlipCaptioningMixin
from .momentum_contrast import MomentumContrastMixin, matching_rows
from .outputs import LavisImageTextRetrievalOutput, LavisPreTrainingOutput, PairScores
from .pair_scoring import check_pairs, chunk_pairs
from .text_bert import LavisBertLMHeadModel

MatchHead = Literal["itc", "itm", "both"]


class BlipMatchingMixin(BlipFeaturesMixin, MomentumContrastMixin):
    """Contrast and matching, for heads with both encoders, projections and a matching head."""

    def _match(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor | None, **kwargs: Any) -> Tensor:
        """States (R, 1, D) of slot 0 of texts that have read images."""
        return self.read_images(image_embeds, input_ids, attention_mask, first_token_only=True, **kwargs)

    @torch.no_grad()
    def score_pairs(
        self,
        images: Tensor,
        texts: Mapping[str, Tensor],
        pairs: Tensor,
        max_rows: int = 256,
        interpolate_pos_encoding: bool = False,
    ) -> PairScores:
        r"""
        Matching scores of chosen pairs; every image is encoded once, and its keys and values are shared by all of its
        texts.

        Args:
            images (`Tensor` of shape `(images, channels, height, width)` or `(images, N, D)`): pixels, or states that
                [`encode_images`] has made of them.
            texts (mapping with `input_ids` and `attention_mask` of shape `(texts, T)`): what the processor returns.
            pairs (`Tensor` of shape `(K, 2)`): rows of image and text.
            max_rows (`int`, *optional*, defaults to 256): texts that are run at once.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.

        Returns:
            [`PairScores`]: in the order of `pairs`.
        """
        if images.ndim == 4:
            images = self.encode_images(images, interpolate_pos_encoding)
        input_ids = texts["input_ids"]
        attention_mask = texts.get("attention_mask")
        if attention_mask is None:
            attention_mask = (input_ids != self.config.pad_token_id).long()
        pairs = check_pairs(pairs, images.shape[0], input_ids.shape[0]).to(images.device)
        lengths = attention_mask.sum(dim=1)
        logits = torch.empty(pairs.shape[0], 2, dtype=images.dtype, device=images.device)
        for chunk in chunk_pairs(pairs, lengths, max_rows):
            longest = int(lengths[chunk.texts].max())
            states = self._match(
                images[chunk.images], input_ids[chunk.texts, :longest], attention_mask[chunk.texts, :longest]
            )
            real = chunk.pairs >= 0
            logits[chunk.pairs[real]] = self.itm_head(states[real, 0]).to(logits.dtype)
        return PairScores(logits=logits, probabilities=logits.softmax(dim=-1)[:, 1])

    def _momentum_features(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None, kept: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        image_embeds = self.vision_model_m(pixel_values, interpolate_pos_encoding=True).last_hidden_state
        text_embeds = self.text_encoder_m(input_ids, attention_mask, mode="text").last_hidden_state
        kept.update(image_embeds_m=image_embeds, text_embeds_m=text_embeds)
        image_features = project(image_embeds[:, 0], self.vision_proj_m)
        return image_features, project(text_embeds[:, 0], self.text_proj_m)

    def _negative_weights(
        self, contrast: ContrastiveOutput, image_features: Tensor, text_features: Tensor, image_ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Weights of negative images for each text and of negative texts for each image."""
        raise NotImplementedError

    def _matching_loss(
        self,
        image_embeds: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        weights: tuple[Tensor, Tensor],
        intermediates: dict[str, Any] | None,
    ) -> tuple[Tensor, Tensor]:
        """
        Loss of telling pairs from hard negatives, and logits of the pairs (ALBEF, section 3.2).

        One pass over 3B texts; keys and values are made once per image.
        """
        negative_images = self.draw_negatives(weights[0])
        negative_texts = self.draw_negatives(weights[1])
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        offset = 0
        if self.config.negative_all_rank:
            offset = rank() * image_embeds.shape[0]
            image_embeds = gather_with_grad(image_embeds)
            input_ids = gather_ragged(input_ids, self.config.pad_token_id)
            attention_mask = gather_ragged(attention_mask)
        images, texts, labels = matching_rows(negative_images, negative_texts)
        if offset:
            own = labels.shape[0] // 3
            shift = torch.full_like(images, offset)
            images = images + torch.cat([shift[:own], torch.zeros_like(shift[:own]), shift[:own]])
            texts = texts + torch.cat([shift[: 2 * own], torch.zeros_like(shift[:own])])
        states = self.read_images(
            image_embeds,
            input_ids[texts],
            attention_mask[texts],
            encoder_index=images,
            first_token_only=intermediates is None,
        )
        logits = self.itm_head(states[:, 0])
        if intermediates is not None:
            intermediates.update(itm_logits=logits, itm_labels=labels, multimodal_embeds=states)
        return F.cross_entropy(logits.float(), labels), logits[: labels.shape[0] // 3]

    def _contrast_and_match(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        image_ids: Tensor | None,
        alpha: float | None,
        update_state: bool,
        output_intermediates: bool,
        interpolate_pos_encoding: bool,
    ) -> dict[str, Any]:
        """Both losses and what they were made of, as fields of the output."""
        if pixel_values.shape[0] != input_ids.shape[0]:
            raise ValueError(
                f"Training takes pairs, but got {pixel_values.shape[0]} images and {input_ids.shape[0]} texts; give "
                "one text per image and mark texts of the same image by equal image_ids."
            )
        self.begin_step(update_state)
        image_embeds = self.encode_images(pixel_values, interpolate_pos_encoding)
        text_ids = with_first_token(input_ids, self.config.cls_token_id)
        text_embeds = self.encode_texts(text_ids, attention_mask)
        image_features = project(image_embeds[:, 0], self.vision_proj)
        text_features = project(text_embeds[:, 0], self.text_proj)
        kept: dict[str, Any] = {}
        momentum = None
        if self.config.use_momentum:
            momentum = lambda: self._momentum_features(pixel_values, text_ids, attention_mask, kept)  # noqa: E731
        contrast = self.contrast(image_features, text_features, momentum, image_ids, alpha, update_state)
        weights = self._negative_weights(contrast, image_features, text_features, image_ids)
        intermediates = None
        if output_intermediates:
            intermediates = {**vars(contrast), **kept}
        loss_itm, logits = self._matching_loss(image_embeds, input_ids, attention_mask, weights, intermediates)
        return {
            "loss": contrast.loss + loss_itm,
            "loss_itc": contrast.loss,
            "loss_itm": loss_itm,
            "logits": logits,
            "image_features": image_features,
            "text_features": text_features,
            "image_embeds": image_embeds,
            "text_embeds": text_embeds,
            "intermediates": intermediates,
        }

    def _compare(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        match_head: MatchHead,
        interpolate_pos_encoding: bool,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Similarities and matching logits without a loss, as fields of the output."""
        if match_head not in ("itc", "itm", "both"):
            raise ValueError(f"match_head is {match_head!r}; it can be 'itc', 'itm' or 'both'.")
        image_embeds = self.encode_images(pixel_values, interpolate_pos_encoding)
        fields: dict[str, Any] = {"image_embeds": image_embeds}
        if match_head != "itm":
            text_embeds = self.encode_texts(input_ids, attention_mask)
            image_features = project(image_embeds[:, 0], self.vision_proj)
            text_features = project(text_embeds[:, 0], self.text_proj)
            per_image = image_features @ text_features.T / self.temp.to(image_features.dtype)
            fields.update(
                text_embeds=text_embeds,
                image_features=image_features,
                text_features=text_features,
                logits_per_image=per_image,
                logits_per_text=per_image.T,
            )
        if match_head != "itc":
            if image_embeds.shape[0] != input_ids.shape[0]:
                raise ValueError(
                    f"Matching takes pairs, but got {image_embeds.shape[0]} images and {input_ids.shape[0]} texts. "
                    "Give as many texts as images, or use score_pairs for any combination."
                )
            output = self.text_encoder(
                with_first_token(input_ids, self.config.enc_token_id),
                attention_mask,
                encoder_hidden_states=image_embeds,
                **kwargs,
            )
            states = output.last_hidden_state
            fields.update(
                logits=self.itm_head(states[:, 0]),
                multimodal_embeds=states,
                hidden_states=output.hidden_states,
                attentions=output.cross_attentions,
            )
        return fields


class LavisBlipForImageTextRetrieval(BlipMatchingMixin, LavisBlipPreTrainedModel):
    """
    BLIP for retrieval and matching: contrastive features of images and texts, and a head that tells whether a text
    describes an image (https://arxiv.org/abs/2201.12086, section 3.2). Covers the LAVIS architectures
    `blip_retrieval` and `blip_image_text_matching`.

    Args:
        config ([`LavisBlipConfig`]): with `use_momentum=False` the model has neither twins nor queues.
    """

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        build_encoders(self, config, config.use_momentum)
        build_projections(self, config, config.use_momentum)
        self.itm_head = nn.Linear(config.text_config.hidden_size, 2)
        self.temp = nn.Parameter(torch.tensor(config.logit_temperature))
        if config.use_momentum:
            self.add_queues(with_ids=True)
        self.post_init()

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
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisImageTextRetrievalOutput:
        r"""
        Args:
            pixel_values (`Tensor` of shape `(images, channels, height, width)`): images.
            input_ids (`Tensor` of shape `(texts, T)`): texts; slot 0 is set to what each pass needs.
            attention_mask (`Tensor` of shape `(texts, T)`, *optional*): 1 for tokens.
            image_ids (`Tensor` of shape `(B,)`, *optional*): rows with equal ids are positives of each other.
            match_head (`str`, *optional*, defaults to `"itc"`): `"itc"` compares all images with all texts, `"itm"`
                matches the pairs, `"both"` does both. Ignored with `return_loss`.
            return_loss (`bool`, *optional*, defaults to `False`): training losses of the pairs.
            alpha (`float`, *optional*): weight of the twins' soft targets; `distill_alpha`, then the configuration's.
            update_state (`bool`, *optional*): whether twins, queues and the clamp of the temperature move; only while
                training by default.
            output_intermediates (`bool`, *optional*, defaults to `False`): also return what the losses were made of.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.
            token_type_ids: accepted for transformers' pipelines, without effect.

        Returns:
            [`LavisImageTextRetrievalOutput`].
        """
        pixel_values, input_ids = image_and_text(pixel_values, input_ids)
        if return_loss:
            fields = self._contrast_and_match(
                pixel_values,
                input_ids,
                attention_mask,
                image_ids,
                alpha,
                self.training if update_state is None else update_state,
                output_intermediates,
                interpolate_pos_encoding,
            )
        else:
            fields = self._compare(
                pixel_values, input_ids, attention_mask, match_head, interpolate_pos_encoding, **kwargs
            )
        return LavisImageTextRetrievalOutput(**fields)


class LavisBlipForPreTraining(BlipMatchingMixin, BlipCaptioningMixin, LavisBlipPreTrainedModel):
    """
    BLIP with all three objectives: contrast, matching and captioning; encoder and decoder share everything but their
    self-attention (https://arxiv.org/abs/2201.12086, sections 3.1 and 3.2). The LAVIS architecture `blip_pretrain`.

    Args:
        config ([`LavisBlipConfig`]): with `use_momentum=False` the model has neither twins nor queues.
    """

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        build_encoders(self, config, config.use_momentum)
        self.text_decoder = LavisBertLMHeadModel._from_config(config.text_config)
        build_projections(self, config, config.use_momentum)
        self.itm_head = nn.Linear(config.text_config.hidden_size, 2)
        self.temp = nn.Parameter(torch.tensor(config.logit_temperature))
        if config.use_momentum:
            self.add_queues(with_ids=False)
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

    def _negative_weights(
        self, contrast: ContrastiveOutput, image_features: Tensor, text_features: Tensor, image_ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # parity: similarities with the twins' features of the batch, and a floor under every probability.
        batch = image_features.shape[0]
        excluded = torch.eye(batch, dtype=torch.bool, device=image_features.device)
        if image_ids is not None:
            excluded = excluded | same_ids(image_ids.reshape(-1), image_ids.reshape(-1))
        start = 0 if self.config.use_momentum else rank() * batch
        columns = slice(start, start + batch)
        return (
            negative_weights(contrast.sim_t2i[:, columns], excluded, offset=1e-4),
            negative_weights(contrast.sim_i2t[:, columns], excluded, offset=1e-4),
        )

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
        encoder_outputs: BaseModelOutput | None = None,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisPreTrainingOutput:
        r"""
        Args:
            pixel_values (`Tensor` of shape `(images, channels, height, width)`): images.
            input_ids (`Tensor` of shape `(texts, T)`): texts; slot 0 is set to what each pass needs.
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
            decoder_input_ids (`Tensor` of shape `(B, T)`, *optional*): run the caption decoder instead; this is what
                `generate` does.
            encoder_outputs (`BaseModelOutput`, *optional*): for the decoder, image states in place of `pixel_values`.
            token_type_ids: accepted for transformers' pipelines, without effect.

        Returns:
            [`LavisPreTrainingOutput`].
        """
        if decoder_input_ids is not None:
            decoded = self.decode_captions(
                decoder_input_ids,
                pixel_values,
                encoder_outputs=encoder_outputs,
                interpolate_pos_encoding=interpolate_pos_encoding,
                **kwargs,
            )
            return LavisPreTrainingOutput(
                logits=decoded.logits,
                lm_logits=decoded.logits,
                past_key_values=decoded.past_key_values,
                image_embeds=decoded.encoder_last_hidden_state,
            )
        pixel_values, input_ids = image_and_text(pixel_values, input_ids)
        if not return_loss:
            return LavisPreTrainingOutput(
                **self._compare(pixel_values, input_ids, attention_mask, match_head, interpolate_pos_encoding, **kwargs)
            )
        fields = self._contrast_and_match(
            pixel_values,
            input_ids,
            attention_mask,
            image_ids,
            alpha,
            self.training if update_state is None else update_state,
            output_intermediates,
            interpolate_pos_encoding,
        )
        decoder_ids = with_first_token(input_ids, self.config.bos_token_id)
        labels = decoder_ids.masked_fill(decoder_ids == self.config.pad_token_id, -100)
        logits, _ = self.text_decoder(
            decoder_ids, attention_mask=attention_mask, encoder_hidden_states=fields["image_embeds"]
        )
        loss_lm = mean_over_tokens(next_token_loss(logits, labels, self.config.label_smoothing), labels)
        fields["loss"] = fields["loss"] + loss_lm
        if fields["intermediates"] is not None:
            fields["intermediates"].update(decoder_logits=logits, decoder_labels=labels)
        return LavisPreTrainingOutput(loss_lm=loss_lm, lm_logits=logits, **fields)


__all__ = ["BlipMatchingMixin", "LavisBlipForImageTextRetrieval", "LavisBlipForPreTraining"]
