# SPDX-License-Identifier: Apache-2.0
"""How BLIP-2 compares images and texts: similarity of queries and texts, and the matching head.

Letters: B images, R rows of text, N image tokens, Q queries, T text tokens, E width of the image tower, D width of the
Q-Former, K pairs.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache

from .configuration_lavis_blip_2 import LavisBlip2Config
from .generation import with_first_token
from .heads import project
from .modeling_lavis_blip_2_base import QFormerFeaturesMixin
from .pair_matching import MatchHead, PairMatchingMixin
from .pair_scoring import TextPart


class QFormerMatchingMixin(PairMatchingMixin, QFormerFeaturesMixin):
    """Similarity and matching, for heads with projections and a matching head."""

    recorded_attentions = "attentions"
    parts_of_rows = 8  # the queries stand in every row

    def build_matching(self, config: LavisBlip2Config) -> None:
        """Give the head all its parts."""
        self.build_trunk(config)
        self.build_projections(config)
        self.itm_head = nn.Linear(config.qformer_config.hidden_size, 2)

    def match(
        self,
        image_embeds: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        text_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        """
        Let the queries read image and text together.

        Args:
            image_embeds (`Tensor` of shape `(B, N, E)`): what [`encode_images`] has made of the images.
            input_ids, attention_mask (`Tensor` of shape `(R, T)`): texts, `R / B` for each image in its order, or any
                with `encoder_index` (R,), the image of each.
            text_embeds: without effect; texts are read anew, together with the queries.
            kwargs: other options of the Q-Former; `queries_only=False` works out the states of the texts as well.

        Returns:
            logits (R, 2), the mean over the queries, and the output of the Q-Former.
        """
        kwargs.setdefault("queries_only", True)
        input_ids = with_first_token(input_ids, self.config.cls_token_id)
        output = self.query_images(image_embeds, input_ids, attention_mask, **kwargs)
        queries = output.last_hidden_state[:, : self.config.num_query_tokens]
        return self.itm_head(queries).mean(dim=1), output

    def match_part(
        self, image_embeds: Tensor, texts: Mapping[str, Tensor], part: TextPart, length: int, cache: Cache | None
    ) -> Tensor:
        """Logits (r, 2) of texts that read their images (b, N, E), cut to `length` tokens."""
        # The first layer reads a text before it reads the image: once for all the images that the text comes with.
        rows, index = part.texts.unique(return_inverse=True)
        logits, _ = self.match(
            image_embeds,
            texts["input_ids"][rows, :length],
            texts["attention_mask"][rows, :length],
            encoder_index=part.index,
            text_index=index,
            past_key_values=cache,
        )
        return logits

    def contrast_fields(
        self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> dict[str, Any]:
        """Similarities of all images (B, N, E) with all texts (R, T), as fields of the output."""
        text_embeds = self.encode_texts(input_ids, attention_mask)
        read = self.query_images(image_embeds, **kwargs)
        image_features = project(read.last_hidden_state, self.vision_proj)
        text_features = self.project_texts(text_embeds)
        per_image = self.compare_features(image_features, text_features) / self.temp.to(image_features.dtype)
        return {
            "text_embeds": text_embeds,
            "image_features": image_features,
            "text_features": text_features,
            "logits_per_image": per_image,
            "hidden_states": read.hidden_states,
            "attentions": read.attentions,
        }


__all__ = ["MatchHead", "QFormerMatchingMixin"]
