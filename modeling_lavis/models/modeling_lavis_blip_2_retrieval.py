# SPDX-License-Identifier: Apache-2.0
"""BLIP-2 for retrieval and matching.

Letters: B pairs, Q queries, T text tokens, P width of the common space.
"""

from typing import Any

from torch import Tensor
from transformers.utils import can_return_tuple

from .configuration_lavis_blip_2 import LavisBlip2Config
from .modeling_lavis_blip_2_matching import MatchHead
from .modeling_lavis_blip_2_objectives import QFormerObjectivesMixin
from .outputs import LavisImageTextRetrievalOutput


class LavisBlip2ForImageTextRetrieval(QFormerObjectivesMixin):
    """
    BLIP-2 for retrieval and matching (https://arxiv.org/abs/2301.12597, section 3.2): the LAVIS architecture
    `blip2_image_text_matching`. It is trained by contrast and matching; with captioning beside them the original trains
    [`LavisBlip2ForPreTraining`], whose checkpoints this class loads.

    Args:
        config ([`LavisBlip2Config`]): without a language model.
    """

    def __init__(self, config: LavisBlip2Config) -> None:
        super().__init__(config)
        self.build_matching(config)
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
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisImageTextRetrievalOutput:
        r"""
        Args:
            pixel_values (`Tensor` of shape `(images, channels, height, width)`): images.
            input_ids (`Tensor` of shape `(texts, T)`, *optional*): texts; slot 0 is set to `[CLS]`.
                Images alone give `image_embeds` alone.
            attention_mask (`Tensor` of shape `(texts, T)`, *optional*): 1 for tokens.
            image_ids (`Tensor` of shape `(B,)`, *optional*): rows with equal ids are positives of each other; ignored
                with the objective of 1.0.2.
            match_head (`str`, *optional*, defaults to `"itc"`): `"itc"` compares all images with all texts, `"itm"`
                matches the pairs, `"both"` does both. Ignored with `return_loss`.
            return_loss (`bool`, *optional*, defaults to `False`): training losses of the pairs.
            output_intermediates (`bool`, *optional*, defaults to `False`): also return what the losses were made of.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.
            token_type_ids: accepted for transformers' pipelines, without effect.

        Returns:
            [`LavisImageTextRetrievalOutput`]: `image_features` are (images, queries, P); `multimodal_embeds` are the
            states of the queries that have read image and text.
        """
        if return_loss:
            pairs = self.learn_pairs(
                pixel_values, input_ids, attention_mask, image_ids, output_intermediates, interpolate_pos_encoding
            )
            return LavisImageTextRetrievalOutput(**pairs.fields, intermediates=pairs.intermediates or None)
        return LavisImageTextRetrievalOutput(
            **self.compare(pixel_values, input_ids, attention_mask, match_head, interpolate_pos_encoding, **kwargs)
        )


__all__ = ["LavisBlip2ForImageTextRetrieval"]
