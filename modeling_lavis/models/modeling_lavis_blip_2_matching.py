# SPDX-License-Identifier: Apache-2.0
"""How BLIP-2 compares images and texts: similarity of queries and texts, and the matching head.

Letters: B images, R rows of text, N image tokens, Q queries, T text tokens, E width of the image tower, D width of the
Q-Former, P width of the common space, K pairs.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .configuration_lavis_blip_2 import LavisBlip2Config
from .generation import with_first_token
from .heads import project
from .modeling_lavis_blip_2_base import QFormerFeaturesMixin
from .outputs import PairScores
from .pair_scoring import check_pairs, chunk_pairs

MatchHead = Literal["itc", "itm", "both"]


class QFormerMatchingMixin(QFormerFeaturesMixin):
    """Similarity and matching, for heads with projections and a matching head."""

    def build_matching(self, config: LavisBlip2Config) -> None:
        """Give the head all its parts."""
        self.build_trunk(config)
        self.build_projections(config)
        self.itm_head = nn.Linear(config.qformer_config.hidden_size, 2)

    def match(
        self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        """
        Let the queries read image and text together.

        Args:
            image_embeds (`Tensor` of shape `(B, N, E)`): what [`encode_images`] has made of the images.
            input_ids, attention_mask (`Tensor` of shape `(R, T)`): texts, `R / B` for each image in its order, or any
                with `encoder_index` (R,), the image of each.
            kwargs: other options of the Q-Former; `queries_only=False` works out the states of the texts as well.

        Returns:
            logits (R, 2), the mean over the queries, and the output of the Q-Former.
        """
        kwargs.setdefault("queries_only", True)
        input_ids = with_first_token(input_ids, self.config.cls_token_id)
        output = self.query_images(image_embeds, input_ids, attention_mask, **kwargs)
        queries = output.last_hidden_state[:, : self.config.num_query_tokens]
        return self.itm_head(queries).mean(dim=1), output

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
        texts.

        Args:
            images (`Tensor` of shape `(images, channels, height, width)` or `(images, N, E)`): pixels, or states that
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
        logits = torch.empty(pairs.shape[0], 2, dtype=self.itm_head.weight.dtype, device=images.device)
        for chunk in chunk_pairs(pairs, lengths, max_rows):
            longest = int(lengths[chunk.texts].max())
            ids, mask = input_ids[chunk.texts, :longest], attention_mask[chunk.texts, :longest]
            matched, _ = self.match(images[chunk.images], ids, mask)
            real = chunk.pairs >= 0
            logits[chunk.pairs[real]] = matched[real]
        return PairScores(logits=logits, probabilities=logits.softmax(dim=-1)[:, 1])

    def compare(
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
            # What is to be recorded is recorded in the matching pass, or in the only one over the image.
            alone = kwargs if match_head == "itc" else {}
            read = self.query_images(image_embeds, **alone)
            image_features = project(read.last_hidden_state, self.vision_proj)
            text_features = self.project_texts(text_embeds)
            per_image = self.compare_features(image_features, text_features) / self.temp.to(image_features.dtype)
            fields.update(
                text_embeds=text_embeds,
                image_features=image_features,
                text_features=text_features,
                logits_per_image=per_image,
                logits_per_text=per_image.T,
                hidden_states=read.hidden_states,
                attentions=read.attentions,
            )
        if match_head != "itc":
            if image_embeds.shape[0] != input_ids.shape[0]:
                raise ValueError(
                    f"Matching takes pairs, but got {image_embeds.shape[0]} images and {input_ids.shape[0]} texts. "
                    "Give as many texts as images, or use score_pairs for any combination."
                )
            logits, output = self.match(image_embeds, input_ids, attention_mask, **kwargs)
            fields.update(
                logits=logits,
                multimodal_embeds=output.last_hidden_state,
                hidden_states=output.hidden_states,
                attentions=output.attentions,
            )
        return fields


__all__ = ["MatchHead", "QFormerMatchingMixin"]
