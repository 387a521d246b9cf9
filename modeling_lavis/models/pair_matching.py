# SPDX-License-Identifier: Apache-2.0
"""What all heads that match images with texts do at inference, however they let one read the other.

Letters: B images, R texts, N image tokens, T text tokens, E width of image states, D width, K pairs,
b images and r texts of a part.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from .modeling_base import LavisPreTrainedModel, image_and_text
from .outputs import PairScores
from .pair_scoring import TextPart, check_pairs, chunk_images, image_cache

MatchHead = Literal["itc", "itm", "both"]


class PairMatchingMixin(LavisPreTrainedModel):
    """
    Comparison of images and texts without a loss, and matching scores of chosen pairs.

    Heads encode (`encode_images`, `encode_texts`), compare ([`contrast_fields`]) and match ([`match`], [`match_part`]).
    """

    #: which attentions of the matching pass are returned
    recorded_attentions = "cross_attentions"
    #: into how many parts of texts of similar length `max_rows` are cut; more where a row has more tokens
    parts_of_rows = 4

    def contrast_fields(
        self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> dict[str, Any]:
        """
        Similarities of all images (B, N, E) with all texts (R, T), as fields of the output: `text_embeds`,
        `image_features`, `text_features`, `logits_per_image`, and what `kwargs` ask to be recorded.
        """
        raise NotImplementedError

    def match(
        self,
        image_embeds: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        text_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        """Logits (R, 2) of texts that read the images (B, N, E), and the output of what let them do so."""
        raise NotImplementedError

    def match_part(
        self, image_embeds: Tensor, texts: Mapping[str, Tensor], part: TextPart, length: int, cache: Cache | None
    ) -> Tensor:
        """
        Logits (r, 2) of a part of the texts, cut to `length` tokens, that read their images (b, N, E). The cache, if
        there is one, keeps keys and values of the images from part to part.
        """
        raise NotImplementedError

    def prepare_texts(self, texts: Mapping[str, Tensor], length: int, max_rows: int) -> Mapping[str, Tensor]:
        """What is worked out once per text before any of them, at most `length` tokens long, reads an image."""
        return texts

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
        Matching scores of chosen pairs. Every image is encoded once, and its keys and values are shared by all of its
        texts; what reads texts alone reads each of them once.

        Args:
            images (`Tensor` of shape `(images, channels, height, width)` or `(images, N, E)`): pixels, or states that
                [`encode_images`] has made of them.
            texts (mapping with `input_ids` and `attention_mask` of shape `(texts, T)`): what the processor returns,
                and optionally `text_embeds` (texts, T, D) that [`encode_texts`] has made of them.
            pairs (`Tensor` of shape `(K, 2)`): rows of image and text.
            max_rows (`int`, *optional*, defaults to 256): texts of the images that are held at once; a part of them
                runs at once.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.

        Returns:
            [`PairScores`]: in the order of `pairs`.
        """
        if images.ndim == 4:
            images = self.encode_images(images, interpolate_pos_encoding)
        attention_mask = texts.get("attention_mask")
        if attention_mask is None:
            attention_mask = (texts["input_ids"] != self.config.pad_token_id).long()
        texts = {**texts, "attention_mask": attention_mask}
        pairs = check_pairs(pairs, images.shape[0], attention_mask.shape[0]).to(images.device)
        lengths = attention_mask.sum(dim=1)
        if pairs.numel():
            texts = self.prepare_texts(texts, int(lengths.max()), max_rows)
        logits = torch.empty(pairs.shape[0], 2, dtype=self.itm_head.weight.dtype, device=images.device)
        for chunk in chunk_images(pairs, lengths, max_rows, part_rows=max(max_rows // self.parts_of_rows, 1)):
            states = images[chunk.images]
            cache = image_cache() if len(chunk.parts) > 1 else None
            for part in chunk.parts:
                matched = self.match_part(states, texts, part, int(lengths[part.texts].max()), cache)
                logits[part.pairs] = matched.to(logits.dtype)
        return PairScores(logits=logits, probabilities=logits.softmax(dim=-1)[:, 1])

    def compare(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        match_head: MatchHead,
        interpolate_pos_encoding: bool,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """
        Similarities and matching logits without a loss, as fields of the output; with images alone their states
        `image_embeds`, which is what transformers' pipeline `image-feature-extraction` asks for.
        """
        if match_head not in ("itc", "itm", "both"):
            raise ValueError(f"match_head is {match_head!r}; it can be 'itc', 'itm' or 'both'.")
        if pixel_values is not None and input_ids is None and match_head == "itc":
            return {"image_embeds": self.encode_images(pixel_values, interpolate_pos_encoding)}
        pixel_values, input_ids = image_and_text(pixel_values, input_ids)
        image_embeds = self.encode_images(pixel_values, interpolate_pos_encoding)
        fields: dict[str, Any] = {"image_embeds": image_embeds}
        if match_head != "itm":
            # What is to be recorded is recorded in the matching pass, or in the only one that there is.
            recorded = kwargs if match_head == "itc" else {}
            fields.update(self.contrast_fields(image_embeds, input_ids, attention_mask, **recorded))
            fields["logits_per_text"] = fields["logits_per_image"].T
        if match_head != "itc":
            if image_embeds.shape[0] != input_ids.shape[0]:
                raise ValueError(
                    f"Matching takes pairs, but got {image_embeds.shape[0]} images and {input_ids.shape[0]} texts. "
                    "Give as many texts as images, or use score_pairs for any combination."
                )
            logits, output = self.match(
                image_embeds, input_ids, attention_mask, text_embeds=fields.get("text_embeds"), **kwargs
            )
            fields.update(
                logits=logits,
                multimodal_embeds=output.last_hidden_state,
                hidden_states=output.hidden_states,
                attentions=getattr(output, self.recorded_attentions),
            )
        return fields


__all__ = ["MatchHead", "PairMatchingMixin"]
