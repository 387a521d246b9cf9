# SPDX-License-Identifier: Apache-2.0
"""What the first stage of BLIP-2 learns from pairs: contrast over the queries, and matching with hard negatives.

Letters: B rows of this process, W rows of all processes, N image tokens, Q queries, T text tokens, E width of the image
tower, D width of the Q-Former, P width of the common space.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicCache

from .contrastive import draw_negatives, negative_weights, positive_targets, same_ids, soft_cross_entropy
from .distributed import gather, gather_ragged, gather_with_grad, rank
from .generation import with_first_token
from .heads import project
from .modeling_base import image_and_text
from .modeling_lavis_blip_2_matching import QFormerMatchingMixin
from .momentum_contrast import matching_rows

#: what version 1.0.2 adds to the probability of every negative
_FLOOR = 1e-4


@dataclass
class LearntPairs:
    """
    A batch of pairs after contrast and matching.

    Args:
        fields (`dict`): losses and features as fields of the output.
        input_ids, attention_mask (`Tensor` of shape `(B, T)`): texts, `[CLS]` in slot 0.
        image_embeds (`Tensor` of shape `(B, N, E)`): states of the images.
        query_cache (`Cache`): keys and values of the queries that have read the images; empty where layers are
            recomputed in the backward pass.
        intermediates (`dict`): what the losses were made of, if it was asked for.
    """

    fields: dict[str, Any]
    input_ids: Tensor
    attention_mask: Tensor
    image_embeds: Tensor
    query_cache: Cache
    intermediates: dict[str, Any]


class QFormerObjectivesMixin(QFormerMatchingMixin):
    """Contrast and matching of pairs, for heads that are trained with them."""

    def draw_negatives(self, weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One hard negative per row of weights (B, W): int64 (B,)."""
        return draw_negatives(weights, generator)

    def learn_pairs(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        image_ids: Tensor | None,
        keep: bool,
        interpolate_pos_encoding: bool,
    ) -> LearntPairs:
        """Encode a batch of pairs, contrast it, and match it against hard negatives."""
        pixel_values, input_ids = image_and_text(pixel_values, input_ids)
        if pixel_values.shape[0] != input_ids.shape[0]:
            raise ValueError(
                f"Training takes pairs, but got {pixel_values.shape[0]} images and {input_ids.shape[0]} texts."
            )
        if image_ids is not None and image_ids.numel() != input_ids.shape[0]:
            raise ValueError(
                f"Got image_ids of shape {tuple(image_ids.shape)} for {input_ids.shape[0]} pairs; give one per pair."
            )
        input_ids = with_first_token(input_ids, self.config.cls_token_id)
        if attention_mask is None:
            attention_mask = (input_ids != self.config.pad_token_id).long()
        image_embeds = self.encode_images(pixel_values, interpolate_pos_encoding)
        cache = DynamicCache(config=self.config.qformer_config)
        queries = self.query_images(image_embeds, past_key_values=cache).last_hidden_state
        text_embeds = self.encode_texts(input_ids, attention_mask)
        image_features = project(queries, self.vision_proj)
        text_features = self.project_texts(text_embeds)
        ids = image_ids.reshape(-1) if image_ids is not None and self.config.objective == "main" else None
        loss_itc, i2t, t2i = self._contrast(image_features, text_features, ids)
        loss_itm, logits, kept = self._match_hard_negatives(
            image_embeds, input_ids, attention_mask, i2t.detach(), t2i.detach(), ids, keep
        )
        fields = {
            "loss": loss_itc + loss_itm,
            "loss_itc": loss_itc,
            "loss_itm": loss_itm,
            "logits": logits,
            "image_features": image_features,
            "text_features": text_features,
            "image_embeds": image_embeds,
            "text_embeds": text_embeds,
        }
        if keep:
            kept.update(sim_i2t=i2t, sim_t2i=t2i)
        return LearntPairs(fields, input_ids, attention_mask, image_embeds, cache, kept)

    def _contrast(
        self, image_features: Tensor, text_features: Tensor, ids: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, and similarities (B, W) of images with texts and of texts with images, over the temperature."""
        # parity: each direction learns from the side of its rows alone
        i2t = self.compare_features(image_features, gather(text_features).detach()) / self.temp
        t2i = self.compare_features(gather(image_features).detach(), text_features).T / self.temp
        targets = positive_targets(self._positives(i2t, ids), i2t.dtype)
        smoothing = self.config.label_smoothing
        targets = (1 - smoothing) * targets + smoothing / targets.shape[1]
        return (soft_cross_entropy(i2t, targets) + soft_cross_entropy(t2i, targets)) / 2, i2t, t2i

    @staticmethod
    def _positives(similarity: Tensor, ids: Tensor | None) -> Tensor:
        """Boolean (B, W): which rows of all processes match a row of this one."""
        if ids is not None:
            return same_ids(ids, gather(ids))
        batch, total = similarity.shape
        own = torch.arange(batch, device=similarity.device) + rank() * batch
        return same_ids(own, torch.arange(total, device=similarity.device))

    def _match_hard_negatives(
        self,
        image_embeds: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        i2t: Tensor,
        t2i: Tensor,
        ids: Tensor | None,
        keep: bool,
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Loss, logits of the pairs (B, 2), and what the loss was made of."""
        own, total = i2t.shape
        labels = torch.ones(own, dtype=torch.long, device=i2t.device)
        if total == 1:  # one pair alone has no negative; it still learns that it matches
            logits, output = self.match(image_embeds, input_ids, attention_mask, queries_only=not keep)
        else:
            excluded = self._positives(i2t, ids)
            floor = _FLOOR if self.config.objective == "1.0.2" else 0.0
            # parity: images are drawn before texts
            images, texts, labels = matching_rows(
                self.draw_negatives(negative_weights(t2i, excluded, floor)),
                self.draw_negatives(negative_weights(i2t, excluded, floor)),
            )
            # Negatives are counted over all processes, the rows of this one only within it.
            offset = rank() * own
            images = torch.cat([images[:own] + offset, images[own : 2 * own], images[2 * own :] + offset])
            texts = torch.cat([texts[: 2 * own] + offset, texts[2 * own :]])
            all_ids = gather_ragged(input_ids, self.config.pad_token_id)
            logits, output = self.match(
                gather_with_grad(image_embeds),
                all_ids[texts],
                gather_ragged(attention_mask)[texts],
                encoder_index=images,
                queries_only=not keep,
            )
        loss = F.cross_entropy(logits.float(), labels)
        kept = {}
        if keep:
            kept = {"itm_logits": logits, "itm_labels": labels, "multimodal_embeds": output.last_hidden_state}
        return loss, logits[:own], kept


__all__ = ["LearntPairs", "QFormerObjectivesMixin"]
