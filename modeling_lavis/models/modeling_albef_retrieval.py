# SPDX-License-Identifier: Apache-2.0
"""ALBEF heads that compare images and texts: retrieval and matching, and pretraining, which adds hidden words.

Letters: B rows of this process, N image tokens, T text tokens, D width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import can_return_tuple

from .configuration_albef import AlbefConfig
from .image_text_matching import ImageTextRetrievalMixin, MatchHead, MatchingBatch, MatchingMixin
from .masked_language import MaskDraws, draw_masks, mask_tokens, masked_token_loss
from .modeling_albef_base import AlbefPreTrainedModel
from .outputs import LavisPreTrainingOutput
from .text_bert import BertLMHead


class AlbefForImageTextRetrieval(ImageTextRetrievalMixin, AlbefPreTrainedModel):
    """
    ALBEF for retrieval and matching: contrastive features of images and texts, and a head that tells whether a text
    describes an image (https://arxiv.org/abs/2107.07651, section 4). The LAVIS architecture `albef_retrieval`.

    Args:
        config ([`AlbefConfig`]): with `use_momentum=False` the model has neither twins nor queues.
    """

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.build_matching(config, queue_has_ids=True)
        self.post_init()


class AlbefForPreTraining(MatchingMixin, AlbefPreTrainedModel):
    """
    ALBEF with all three objectives: contrast, matching and hidden words (https://arxiv.org/abs/2107.07651, sections
    3.2 and 3.3). The LAVIS architecture `albef_pretrain`.

    Args:
        config ([`AlbefConfig`]): with `use_momentum=False` the model has neither twins nor queues.
    """

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.build_matching(config, queue_has_ids=False)
        self._tied_weights_keys = {}
        for suffix in ("", "_m") if config.use_momentum else ("",):
            setattr(self, f"mlm_head{suffix}", BertLMHead(config.text_config))
            words = f"text_encoder{suffix}.embeddings.word_embeddings.weight"
            self._tied_weights_keys[f"mlm_head{suffix}.predictions.decoder.weight"] = words
            self._tied_weights_keys[f"mlm_head{suffix}.predictions.decoder.bias"] = f"mlm_head{suffix}.predictions.bias"
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The map to the vocabulary."""
        return self.mlm_head.predictions.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the map to the vocabulary, and the bias that is kept beside it."""
        self.mlm_head.predictions.decoder = value
        self.mlm_head.predictions.bias = value.bias

    def draw_masks(self, input_ids: Tensor, generator: torch.Generator | None = None) -> MaskDraws:
        """Draw which tokens of the texts (B, T) are hidden."""
        return draw_masks(input_ids, self.config.mlm_probability, self.config.text_config.vocab_size, generator)

    def _hide_words(self, batch: MatchingBatch) -> tuple[Tensor, Tensor]:
        """Put texts with hidden tokens into the pass that reads the images; return them and their labels (B, T)."""
        config = self.config
        hidden, labels = mask_tokens(
            batch.input_ids,
            self.draw_masks(batch.input_ids),
            config.mask_token_id,
            config.pad_token_id,
            config.cls_token_id,
        )
        batch.more_text_embeds = self.encode_texts(hidden, batch.attention_mask)
        batch.more_attention_mask = batch.attention_mask
        return hidden, labels

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
    ) -> LavisPreTrainingOutput:
        r"""
        As [`AlbefForImageTextRetrieval.forward`]; the loss has a third part, `loss_mlm`.

        Args:
            pixel_values (`Tensor` of shape `(images, channels, height, width)`): images.
            input_ids (`Tensor` of shape `(texts, T)`, *optional*): texts; `[CLS]` is set in slot 0.
                Images alone give `image_embeds` alone.
            attention_mask (`Tensor` of shape `(texts, T)`, *optional*): 1 for tokens.
            image_ids (`Tensor` of shape `(B,)`, *optional*): rows with equal ids are no negatives of each other.
            match_head (`str`, *optional*, defaults to `"itc"`): `"itc"`, `"itm"` or `"both"`; not with `return_loss`.
            return_loss (`bool`, *optional*, defaults to `False`): the three training losses of the pairs.
            alpha (`float`, *optional*): weight of the twins' soft targets; `distill_alpha`, then the configuration's.
            update_state (`bool`, *optional*): whether twins, queues and the clamp move; only while training by default.
            output_intermediates (`bool`, *optional*, defaults to `False`): also return what the losses were made of.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.
            token_type_ids: accepted for transformers' pipelines, without effect.

        Returns:
            [`LavisPreTrainingOutput`].
        """
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
        hidden, labels = self._hide_words(batch)
        fields, states = self.contrast_and_match(batch)
        if states is None:
            raise ValueError("The matching pass has read no hidden words; none were given to it.")
        teacher, teacher_states = None, None
        if self.config.use_momentum and self.config.use_distill:
            teacher = self.mlm_head_m
            with torch.no_grad():
                teacher_states = self.text_encoder_m(
                    hidden, batch.attention_mask, encoder_hidden_states=batch.momentum["image_embeds_m"]
                ).last_hidden_state
        loss_mlm = masked_token_loss(
            self.mlm_head, states, labels, teacher, teacher_states, self.soft_target_weight(alpha)
        )
        fields["loss"] = fields["loss"] + loss_mlm
        if fields["intermediates"] is not None:
            fields["intermediates"].update(
                mlm_input_ids=hidden, mlm_labels=labels, mlm_embeds=states, mlm_embeds_m=teacher_states
            )
        return LavisPreTrainingOutput(loss_mlm=loss_mlm, **fields)


__all__ = ["AlbefForImageTextRetrieval", "AlbefForPreTraining"]
