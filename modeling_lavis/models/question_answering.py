# SPDX-License-Identifier: Apache-2.0
"""Visual question answering: an encoder that reads image and question, a decoder that answers.

Letters: B questions, N image tokens, T question tokens, A answers, L answer tokens, V vocabulary, k candidates.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from .answer_ranking import rank_answers
from .cache_names import returned, takes_cache
from .generation import ImageGroundedGenerationMixin, SharedCrossAttentionCache, with_first_token
from .image_text_base import ImageTextPreTrainedModel, build_encoders
from .language_loss import next_token_loss, soft_next_token_loss
from .modeling_base import check_labels
from .momentum import resize_twins, update_twins
from .momentum_contrast import MomentumContrastMixin
from .outputs import LavisGenerationOutput, RankedAnswers
from .text_bert import LavisBertLMHeadModel


class QuestionAnsweringMixin(ImageGroundedGenerationMixin, MomentumContrastMixin, ImageTextPreTrainedModel):
    """
    Towers, decoder and forward pass of heads that answer questions: open answers by `generate`, the best of a closed
    list by `rank_answers` (ALBEF, section 4, https://arxiv.org/abs/2107.07651).
    """

    #: whether momentum twins give soft targets
    distils: bool = False

    def build_answerer(self, config: PreTrainedConfig, decoder_config: PreTrainedConfig, distils: bool) -> None:
        """Give the head its towers and decoder, and their momentum twins."""
        self.distils = distils
        build_encoders(self, config, distils)
        for suffix in ("", "_m") if distils else ("",):
            setattr(self, f"text_decoder{suffix}", LavisBertLMHeadModel._from_config(decoder_config))

    @property
    def answers_attend_padding(self) -> bool:
        """Whether answers that are generated attend to the padding of shorter questions."""
        return False

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the vocabulary of encoder and decoder, which share no weights here, and return the encoder's."""
        self.text_decoder.resize_token_embeddings(*args, **kwargs)
        self.text_encoder.resize_token_embeddings(*args, **kwargs)
        self.config.text_config.vocab_size = self.text_encoder.config.vocab_size
        self.config.get_text_config(decoder=True).vocab_size = self.text_decoder.config.vocab_size
        resize_twins(self.momentum_pairs)
        self.tie_weights()
        return self.get_input_embeddings()

    def encode_questions(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Tensor:
        """States (B, T, D) of questions that have read their images."""
        if pixel_values.shape[0] != input_ids.shape[0]:
            raise ValueError(
                f"Got {pixel_values.shape[0]} images and {input_ids.shape[0]} questions; give one image per question."
            )
        image_embeds = self.encode_images(pixel_values, interpolate_pos_encoding)
        return self.read_images(image_embeds, input_ids, attention_mask).last_hidden_state

    def encode_for_generation(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Question states (B, T, D) and their mask, which is left out if padding is attended to."""
        if inputs.get("input_ids") is None:
            raise ValueError("Answering needs questions as input_ids; the processor makes them from text.")
        mask = inputs.pop("attention_mask", None)
        states = self.encode_questions(
            inputs.pop("pixel_values"),
            inputs.pop("input_ids"),
            mask,
            inputs.pop("interpolate_pos_encoding", False),
        )
        return states, None if self.answers_attend_padding else mask

    @torch.no_grad()
    def rank_answers(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        answer_input_ids: Tensor | None = None,
        answer_attention_mask: Tensor | None = None,
        num_candidates: int = 128,
        interpolate_pos_encoding: bool = False,
    ) -> RankedAnswers:
        r"""
        Rank a closed list of answers for each question.

        Args:
            pixel_values (`Tensor` of shape `(B, channels, height, width)`): one image per question.
            input_ids, attention_mask (`Tensor` of shape `(B, T)`): questions.
            answer_input_ids, answer_attention_mask (`Tensor` of shape `(A, L)`): the list of answers.
            num_candidates (`int`, *optional*, defaults to 128): answers per question that are scored whole.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.

        Returns:
            [`RankedAnswers`]: rows of the list, best first, with their scores.
        """
        if answer_input_ids is None:
            raise ValueError("Ranking needs the list of answers as answer_input_ids; the processor tokenises it.")
        states = self.encode_questions(pixel_values, input_ids, attention_mask, interpolate_pos_encoding)
        return rank_answers(
            self.text_decoder,
            states,
            attention_mask,
            answer_input_ids,
            answer_attention_mask,
            self.config.bos_token_id,
            num_candidates,
            self.config.label_smoothing,
        )

    @takes_cache
    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        answer_counts: Tensor | None = None,
        answer_weights: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        alpha: float | None = None,
        update_state: bool | None = None,
        output_intermediates: bool = False,
        interpolate_pos_encoding: bool = False,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisGenerationOutput:
        r"""
        Args:
            pixel_values (`Tensor` of shape `(B, channels, height, width)`): one image per question.
            input_ids, attention_mask (`Tensor` of shape `(B, T)`): questions.
            labels (`Tensor` of shape `(A, L)`, *optional*): all answers of all questions, question by question, -100
                for padding; the decoder's start token is set in slot 0.
            answer_counts (`Tensor` of shape `(B,)`, *optional*): answers of each question; evenly many by default.
            answer_weights (`Tensor` of shape `(A,)`, *optional*): weight of each answer, 1 by default. The loss is the
                weighted sum of the answers' summed, smoothed losses over B.
            decoder_input_ids, decoder_attention_mask, decoder_position_ids: what the decoder reads instead of labels.
            encoder_outputs (`BaseModelOutput`, *optional*): question states in place of images and questions.
            encoder_attention_mask (`Tensor` of shape `(B, T)`, *optional*): padding of those states.
            past_key_values (`Cache`, *optional*), use_cache (`bool`, *optional*): keys and values of earlier tokens.
            logits_to_keep (`int`, *optional*, defaults to 0): logits of the last tokens only; 0 for all.
            alpha (`float`, *optional*): weight of the twins' soft targets; `distill_alpha`, then the configuration's.
            update_state (`bool`, *optional*): whether the twins move; only while training by default.
            output_intermediates (`bool`, *optional*, defaults to `False`): also return what the loss was made of.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.
            token_type_ids: accepted for transformers' pipelines, without effect.

        Returns:
            [`LavisGenerationOutput`].
        """
        image_embeds = None
        if encoder_outputs is None:
            if pixel_values is None or input_ids is None:
                raise ValueError(
                    "Questions are answered from pixel_values and input_ids; at least one of them is missing. "
                    "The processor makes both from pictures and texts."
                )
            image_embeds = self.encode_images(pixel_values, interpolate_pos_encoding)
            states = self.read_images(image_embeds, input_ids, attention_mask).last_hidden_state
            encoder_attention_mask = attention_mask
        else:
            states = encoder_outputs[0]
        rows = None
        if labels is not None:
            labels = check_labels(labels, self.config.text_config.vocab_size)
            answers = labels.masked_fill(labels == -100, self.config.pad_token_id)
            decoder_input_ids = with_first_token(answers, self.config.bos_token_id)
            decoder_attention_mask = (labels != -100).long()
            rows = self._question_of_each_answer(answer_counts, states.shape[0], labels.shape[0])
            logits_to_keep = 0
        if decoder_input_ids is None:
            raise ValueError(
                "The decoder needs labels (to train) or decoder_input_ids; generate and rank_answers give answers."
            )
        if past_key_values is None and use_cache:
            own = self.text_decoder.config
            past_key_values = SharedCrossAttentionCache(DynamicCache(config=own), DynamicCache(config=own))
        reading = {
            "attention_mask": decoder_attention_mask,
            "encoder_attention_mask": encoder_attention_mask,
            "encoder_index": rows,
        }
        logits, output = self.text_decoder(
            decoder_input_ids,
            position_ids=decoder_position_ids,
            encoder_hidden_states=states,
            past_key_values=past_key_values,
            logits_to_keep=logits_to_keep,
            **reading,
            **kwargs,
        )
        loss, intermediates = None, None
        if labels is not None:
            row_losses = next_token_loss(logits, labels, self.config.label_smoothing).sum(dim=1)
            kept: dict[str, Any] = {}
            if self.distils and pixel_values is not None and input_ids is not None:
                if self.training if update_state is None else update_state:
                    update_twins(self.momentum_pairs, self.config.momentum)
                soft_logits = self._momentum_logits(
                    pixel_values, input_ids, attention_mask, interpolate_pos_encoding, decoder_input_ids, reading, kept
                )
                weight = self.soft_target_weight(alpha)
                soft_losses = soft_next_token_loss(logits, soft_logits, labels).sum(dim=1)
                row_losses = (1 - weight) * row_losses + weight * soft_losses
            weighted = row_losses if answer_weights is None else row_losses * answer_weights.to(row_losses.dtype)
            loss = weighted.sum() / states.shape[0]
            if output_intermediates:
                decoder_labels = decoder_input_ids.masked_fill(labels == -100, -100)
                intermediates = {
                    "decoder_logits": logits,
                    "decoder_labels": decoder_labels,
                    "decoder_loss": row_losses,
                    "multimodal_embeds": states,
                    **kept,
                }
        return LavisGenerationOutput(
            loss=loss,
            loss_lm=loss,
            logits=logits,
            encoder_last_hidden_state=states,
            image_embeds=image_embeds,
            decoder_hidden_states=output.hidden_states,
            decoder_attentions=output.attentions,
            cross_attentions=output.cross_attentions,
            intermediates=intermediates,
            **returned(past_key_values),
        )

    @torch.no_grad()
    def _momentum_logits(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        interpolate_pos_encoding: bool,
        decoder_input_ids: Tensor,
        reading: dict[str, Any],
        kept: dict[str, Any],
    ) -> Tensor:
        """Logits (A, L, V) of the twins; their states are added to `kept`."""
        image_embeds = self.vision_model_m(
            pixel_values, interpolate_pos_encoding=interpolate_pos_encoding
        ).last_hidden_state
        question_ids = with_first_token(input_ids, self.config.enc_token_id)
        states = self.text_encoder_m(question_ids, attention_mask, encoder_hidden_states=image_embeds).last_hidden_state
        kept.update(image_embeds_m=image_embeds, multimodal_embeds_m=states)
        return self.text_decoder_m(decoder_input_ids, encoder_hidden_states=states, **reading)[0]

    @staticmethod
    def _question_of_each_answer(counts: Tensor | None, num_questions: int, num_answers: int) -> Tensor | None:
        """Row of the question that each answer belongs to: (A,); `None` when each question has as many."""
        if counts is None:
            if num_answers % num_questions:
                raise ValueError(
                    f"{num_answers} answers do not share {num_questions} questions evenly; give answer_counts."
                )
            return None
        if not torch.compiler.is_compiling() and (counts.numel() != num_questions or int(counts.sum()) != num_answers):
            raise ValueError(
                f"answer_counts {counts.tolist()} speak of {counts.numel()} questions and {int(counts.sum())} answers, "
                f"but there are {num_questions} questions and {num_answers} rows of labels."
            )
        rows = torch.arange(num_questions, device=counts.device)
        return rows.repeat_interleave(counts.reshape(-1).long(), output_size=num_answers)


__all__ = ["QuestionAnsweringMixin"]
