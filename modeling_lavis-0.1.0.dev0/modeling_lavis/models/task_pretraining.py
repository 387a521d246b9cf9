# SPDX-License-Identifier: Apache-2.0
"""Pretraining heads that learn from pairs and also generate captions (BLIP, and BLIP-2 stage 1)."""

from typing import Any

from torch import Tensor

from .generation import GroundedGenerationMixin
from .losses import causal_lm_loss
from .outputs import IGNORE_INDEX, LavisGenerationOutput, LavisPreTrainingOutput
from .task_retrieval import ImageTextRetrievalMixin, PairLoss
from .transformers_compat import CACHE_NAME, cache_output


class ImageTextPreTrainingMixin(ImageTextRetrievalMixin, GroundedGenerationMixin):
    """Contrastive and matching losses, captioning loss and caption generation in one head."""

    @staticmethod
    def decoder_fields(output: LavisGenerationOutput) -> dict[str, Any]:
        """Fields of the pretraining output for a pass of the caption decoder."""
        return {
            "logits": output.logits,
            "lm_logits": output.logits,
            "image_embeds": output.encoder_last_hidden_state,
            "decoder_hidden_states": output.decoder_hidden_states,
            "decoder_attentions": output.decoder_attentions,
            "cross_attentions": output.cross_attentions,
            "vision_hidden_states": output.vision_hidden_states,
            "vision_attentions": output.vision_attentions,
            **cache_output(output.get(CACHE_NAME)),
        }

    def add_caption_loss(
        self, pair_loss: PairLoss, logits: Tensor, decoder_input_ids: Tensor, is_padding: Tensor
    ) -> LavisPreTrainingOutput:
        """
        The output with the captioning loss added to the others.

        Args:
            pair_loss ([`PairLoss`]): contrastive and matching losses.
            logits (`Tensor` of shape `(B, T, vocab_size)`): logits of the caption decoder.
            decoder_input_ids (`Tensor` of shape `(B, T)`): captions, with the decoder's start token first.
            is_padding (`Tensor` of shape `(B, T)`): boolean, positions that the loss ignores.
        """
        labels = decoder_input_ids.masked_fill(is_padding, IGNORE_INDEX)
        loss_lm = causal_lm_loss(logits, labels, self.config.label_smoothing)
        fields = {**pair_loss.fields, "loss": pair_loss.fields["loss"] + loss_lm}
        if fields["intermediates"] is not None:
            intermediates = {"decoder_logits": logits, "decoder_labels": labels}
            fields["intermediates"] = {**fields["intermediates"], **intermediates}
        return LavisPreTrainingOutput(loss_lm=loss_lm, lm_logits=logits, **fields)


__all__ = ["ImageTextPreTrainingMixin"]
