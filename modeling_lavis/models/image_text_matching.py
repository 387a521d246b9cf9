# SPDX-License-Identifier: Apache-2.0
"""Comparing images and texts: contrast, and matching with hard negatives.

Letters: B rows of this process, W rows of all processes, N image tokens, T text tokens, D width, P common width,
K pairs, M further rows of text in the matching pass, R = 3B + M.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.utils import can_return_tuple

from .contrastive import ContrastiveOutput, negative_weights, same_ids
from .distributed import gather_ragged, gather_with_grad, rank
from .generation import with_first_token
from .heads import project
from .image_text_base import FeaturesMixin, build_encoders, build_projections
from .modeling_base import check_text, image_and_text
from .momentum_contrast import MomentumContrastMixin, matching_rows
from .outputs import LavisImageTextRetrievalOutput
from .pair_matching import MatchHead, PairMatchingMixin
from .pair_scoring import TextPart


@dataclass
class MatchingBatch:
    """
    A batch after the contrastive loss, ready to be matched.

    Args:
        image_embeds (`Tensor` of shape `(B, N, D)`), text_embeds (`Tensor` of shape `(B, T, D)`): online states.
        image_features, text_features (`Tensor` of shape `(B, P)`): online features.
        input_ids, attention_mask (`Tensor` of shape `(B, T)`): texts, `[CLS]` in slot 0.
        contrast ([`ContrastiveOutput`]): the contrastive loss and what it was made of.
        momentum (`dict`): states of the twins, `image_embeds_m` and `text_embeds_m`.
        negative_weights (pair of `Tensor`s of shape `(B, W)`): of images for each text, of texts for each image.
        more_text_embeds, more_attention_mask (`Tensor` of shape `(B, T, D)` and `(B, T)`, *optional*): one more text
            per image that is to read it in the same pass, as states of the text alone.
        keep (`bool`): whether intermediates are wanted.
    """

    image_embeds: Tensor
    text_embeds: Tensor
    image_features: Tensor
    text_features: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    contrast: ContrastiveOutput
    momentum: dict[str, Tensor]
    negative_weights: tuple[Tensor, Tensor]
    more_text_embeds: Tensor | None = None
    more_attention_mask: Tensor | None = None
    keep: bool = False
    intermediates: dict[str, Any] = field(default_factory=dict)


class MatchingMixin(PairMatchingMixin, FeaturesMixin, MomentumContrastMixin):
    """Contrast and matching, for heads with both encoders, projections and a matching head."""

    #: added to the probability of every negative, so that none is out of reach
    negative_floor: float = 0.0

    @property
    def negatives_from_all_processes(self) -> bool:
        """Whether hard negatives come from all processes."""
        return False

    def build_matching(self, config: PreTrainedConfig, queue_has_ids: bool) -> None:
        """Give the head its towers, projections and matching head; twins and queues with `use_momentum`."""
        build_encoders(self, config, config.use_momentum)
        build_projections(self, config, config.use_momentum)
        self.itm_head = nn.Linear(config.text_config.hidden_size, 2)
        self.temp = nn.Parameter(torch.tensor(config.logit_temperature))
        if config.use_momentum:
            self.add_queues(with_ids=queue_has_ids)

    # Inference

    def match(
        self,
        image_embeds: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        text_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        """Logits (R, 2) of texts (R, T) that read the images (B, N, D), and the output of the text encoder."""
        output = self.read_images(image_embeds, input_ids, attention_mask, text_embeds=text_embeds, **kwargs)
        return self.itm_head(output.last_hidden_state[:, 0]), output

    def match_part(
        self, image_embeds: Tensor, texts: Mapping[str, Tensor], part: TextPart, length: int, cache: Cache | None
    ) -> Tensor:
        """Logits (r, 2) of texts that read their images (b, N, D), cut to `length` tokens."""
        text_embeds = texts.get("text_embeds") if self.fuses_text_states else None
        logits, _ = self.match(
            image_embeds,
            texts["input_ids"][part.texts, :length],
            texts["attention_mask"][part.texts, :length],
            text_embeds=None if text_embeds is None else text_embeds[part.texts, :length],
            encoder_index=part.index,
            past_key_values=cache,
            first_token_only=True,
        )
        return logits

    def prepare_texts(self, texts: Mapping[str, Tensor], length: int, max_rows: int) -> Mapping[str, Tensor]:
        """Where layers read texts alone, their states as `text_embeds`."""
        if not self.fuses_text_states or texts.get("text_embeds") is not None:
            return texts
        ids, mask = (texts[name][:, :length].split(max_rows) for name in ("input_ids", "attention_mask"))
        states = [self.encode_texts(i, m) for i, m in zip(ids, mask, strict=True)]
        return {**texts, "text_embeds": torch.cat(states)}

    def contrast_fields(
        self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> dict[str, Any]:
        """Similarities of all images (B, N, D) with all texts (R, T), as fields of the output."""
        text = self.text_encoder(
            with_first_token(input_ids, self.config.cls_token_id), attention_mask, mode="text", **kwargs
        )
        image_features, text_features = self.project_images(image_embeds), self.project_texts(text.last_hidden_state)
        return {
            "hidden_states": text.hidden_states,
            "attentions": text.attentions,
            "text_embeds": text.last_hidden_state,
            "image_features": image_features,
            "text_features": text_features,
            "logits_per_image": image_features @ text_features.T / self.temp.to(image_features.dtype),
        }

    # Training

    @torch.no_grad()
    def _momentum_features(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None, kept: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The twins' image and text features (B, P); their states go to `kept`."""
        image_embeds = self.vision_model_m(pixel_values, interpolate_pos_encoding=True).last_hidden_state
        text_embeds = self.text_encoder_m(input_ids, attention_mask, mode="text").last_hidden_state
        kept.update(image_embeds_m=image_embeds, text_embeds_m=text_embeds)
        image_features = project(image_embeds[:, 0], self.vision_proj_m)
        return image_features, project(text_embeds[:, 0], self.text_proj_m)

    def _negative_weights(
        self, contrast: ContrastiveOutput, image_features: Tensor, text_features: Tensor, image_ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Weights of negative images for each text and of negative texts for each image."""
        # parity: by the similarities with the twins' features of the batch, which stand before the queue.
        batch = image_features.shape[0]
        excluded = torch.eye(batch, dtype=torch.bool, device=image_features.device)
        if image_ids is not None:
            excluded = excluded | same_ids(image_ids.reshape(-1), image_ids.reshape(-1))
        start = 0 if self.config.use_momentum else rank() * batch
        columns = slice(start, start + batch)
        return (
            negative_weights(contrast.sim_t2i[:, columns], excluded, self.negative_floor),
            negative_weights(contrast.sim_i2t[:, columns], excluded, self.negative_floor),
        )

    def contrast_batch(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        image_ids: Tensor | None,
        alpha: float | None,
        update_state: bool | None,
        keep: bool,
        interpolate_pos_encoding: bool,
    ) -> MatchingBatch:
        """Encode a batch of pairs and contrast it; twins, queues and the clamp move if `update_state` says so."""
        pixel_values, input_ids = image_and_text(pixel_values, input_ids)
        if pixel_values.shape[0] != input_ids.shape[0]:
            raise ValueError(
                f"Training takes pairs, but got {pixel_values.shape[0]} images and {input_ids.shape[0]} texts."
            )
        check_text(input_ids, attention_mask)
        if image_ids is not None and image_ids.numel() != input_ids.shape[0]:
            raise ValueError(f"Got {image_ids.numel()} image_ids for {input_ids.shape[0]} pairs; give one for each.")
        update_state = self.training if update_state is None else update_state
        self.begin_step(update_state)
        text_ids = with_first_token(input_ids, self.config.cls_token_id)
        if attention_mask is None:
            attention_mask = torch.ones_like(text_ids)
        elif not keep:  # who looks at the states wants them for every column
            text_ids, attention_mask = without_common_padding(text_ids, attention_mask)
        # What comes first is freed first: the twins keep nothing, so their pass leaves room for the next. The backward
        # pass ends with the texts, whose gradients come when the much larger states of the image tower are gone.
        kept: dict[str, Tensor] = {}
        momentum = None
        if self.config.use_momentum:
            momentum = self._momentum_features(pixel_values, text_ids, attention_mask, kept)
        text_embeds = self.encode_texts(text_ids, attention_mask)
        image_embeds = self.encode_images(pixel_values, interpolate_pos_encoding)
        image_features, text_features = self.project_images(image_embeds), self.project_texts(text_embeds)
        contrast = self.contrast(image_features, text_features, momentum, image_ids, alpha, update_state)
        return MatchingBatch(
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            image_features=image_features,
            text_features=text_features,
            input_ids=text_ids,
            attention_mask=attention_mask,
            contrast=contrast,
            momentum=kept,
            negative_weights=self._negative_weights(contrast, image_features, text_features, image_ids),
            keep=keep,
            intermediates={**vars(contrast), **kept} if keep else {},
        )

    def match_batch(self, batch: MatchingBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        Loss of telling pairs from hard negatives (ALBEF, section 3.2), logits of the pairs (B, 2), and the states
        (B, T, D) of `more_text_embeds`.

        One pass over 3B texts, and what else reads the same images; keys and values are made once per image.
        """
        image_embeds, input_ids, attention_mask = batch.image_embeds, batch.input_ids, batch.attention_mask
        text_embeds = batch.text_embeds if self.fuses_text_states else None
        images, texts, labels = matching_rows(*map(self.draw_negatives, batch.negative_weights))
        own = labels.shape[0] // 3
        if self.negatives_from_all_processes:
            offset = rank() * own
            image_embeds = gather_with_grad(image_embeds)
            input_ids = gather_ragged(input_ids, self.config.pad_token_id)
            attention_mask = gather_ragged(attention_mask)
            if text_embeds is not None:
                raise ValueError("Negatives of other processes need texts as ids; this model keeps states of them.")
            # Negatives are counted over all processes, the rows of this one only within it.
            images = torch.cat([images[:own] + offset, images[own : 2 * own], images[2 * own :] + offset])
            texts = torch.cat([texts[: 2 * own] + offset, texts[2 * own :]])
        mask = attention_mask[texts]
        rows = None if text_embeds is None else text_embeds[texts]
        if rows is not None and batch.more_text_embeds is not None and batch.more_attention_mask is not None:
            rows = torch.cat([rows, batch.more_text_embeds])
            mask = torch.cat([mask, batch.more_attention_mask])
            images = torch.cat([images, torch.arange(own, device=images.device)])
        more = images.shape[0] - labels.shape[0]
        states = self.read_images(
            image_embeds,
            input_ids[texts],
            mask,
            text_embeds=rows,
            encoder_index=images,
            first_token_only=not (batch.keep or more),
        ).last_hidden_state
        matched = states[: labels.shape[0]]
        logits = self.itm_head(matched[:, 0])
        if batch.keep:
            batch.intermediates.update(itm_logits=logits, itm_labels=labels, multimodal_embeds=matched)
        loss = F.cross_entropy(logits.float(), labels)
        return loss, logits[:own], states[labels.shape[0] :] if more else None

    def contrast_and_match(self, batch: MatchingBatch) -> tuple[dict[str, Any], Tensor | None]:
        """Both losses as fields of the output, and the states of further texts (see [`match_batch`])."""
        loss_itm, logits, more = self.match_batch(batch)
        fields = {
            "loss": batch.contrast.loss + loss_itm,
            "loss_itc": batch.contrast.loss,
            "loss_itm": loss_itm,
            "logits": logits,
            "image_features": batch.image_features,
            "text_features": batch.text_features,
            "image_embeds": batch.image_embeds,
            "text_embeds": batch.text_embeds,
            "intermediates": batch.intermediates if batch.keep else None,
        }
        return fields, more


def without_common_padding(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Cut the columns that are padding in every row: both (B, T) to (B, longest text)."""
    if torch.compiler.is_compiling():  # a length that depends on the values would break the graph
        return input_ids, attention_mask
    columns = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
    length = max(int((attention_mask.bool() * columns).max()), 1)
    return input_ids[:, :length], attention_mask[:, :length]


class ImageTextRetrievalMixin(MatchingMixin):
    """The forward pass of heads for retrieval and matching."""

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
            input_ids (`Tensor` of shape `(texts, T)`, *optional*): texts; slot 0 is set to what each pass needs.
                Images alone give `image_embeds` alone.
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
        if return_loss:
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
        else:
            fields = self.compare(
                pixel_values, input_ids, attention_mask, match_head, interpolate_pos_encoding, **kwargs
            )
        return LavisImageTextRetrievalOutput(**fields)


__all__ = ["ImageTextRetrievalMixin", "MatchHead", "MatchingBatch", "MatchingMixin", "without_common_padding"]
