# SPDX-License-Identifier: Apache-2.0
"""Visual question answering: an encoder fuses image and question, a decoder generates the answer or ranks a list.

Shapes: B questions, N image tokens, T question tokens, A answers, L answer tokens, V vocabulary size, D hidden size, k
candidates per question, g of them that run together.
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from .configuration_text import LavisBertConfig
from .forward_options import head_forward
from .generation import GroundedGenerationMixin, SharedCrossAttentionCache, shared_cross_attention_cache
from .losses import next_token_loss, soft_next_token_loss, token_loss
from .modeling_base import check_labels, mask_padding, set_first_token, update_feature_counts
from .momentum import ModulePairs, resize_momentum_modules, schedule_update
from .outputs import IGNORE_INDEX, LavisGenerationOutput, RankedAnswers, vision_fields
from .text_bert import LavisBertLMHeadModel
from .transformers_compat import accepts_cache, cache_output

if TYPE_CHECKING:

    class _AnsweringModel(Protocol):
        """What the mixin needs from the head and its other bases."""

        text_encoder: Any
        momentum_pairs: ModulePairs
        vision_model_m: nn.Module
        text_encoder_m: nn.Module
        text_decoder_m: nn.Module

        def momentum_autocast(self) -> AbstractContextManager[Any]: ...
        def soft_target_weight(self, alpha: float | None) -> float: ...
        def get_input_embeddings(self) -> nn.Embedding: ...
        def tie_weights(self, *args: Any, **kwargs: Any) -> None: ...
else:
    _AnsweringModel = object


class QuestionAnsweringMixin(GroundedGenerationMixin, _AnsweringModel):
    """
    Encoders, decoder and forward pass of question answering heads: open answers by `generate`, the best of a closed
    list by `rank_answers` (ALBEF, section 4, https://arxiv.org/abs/2107.07651).
    """

    #: as published
    default_max_new_tokens = 10

    def build_question_answering(
        self, config: PreTrainedConfig, decoder_config: PreTrainedConfig, momentum: bool
    ) -> None:
        """Create the encoders and the answer decoder and, with `momentum`, their momentum copies."""
        self.build_encoders(config, momentum)
        for suffix in ("", "_m") if momentum else ("",):
            setattr(self, f"text_decoder{suffix}", LavisBertLMHeadModel._from_config(decoder_config))

    @property
    def attends_question_padding(self) -> bool:
        """Whether generated answers attend to the padding of shorter questions."""
        return False

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the vocabularies of encoder and decoder, which share no weights, and return the encoder's."""
        self.text_decoder.resize_token_embeddings(*args, **kwargs)
        self.text_encoder.resize_token_embeddings(*args, **kwargs)
        self.config.text_config.vocab_size = self.text_encoder.config.vocab_size
        self.config.get_text_config(decoder=True).vocab_size = self.text_decoder.config.vocab_size
        self.vocab_size = self.text_encoder.config.vocab_size  # as transformers' method does
        resize_momentum_modules(getattr(self, "momentum_pairs", []))
        self.tie_weights()
        update_feature_counts(self)
        return self.get_input_embeddings()

    def encode_questions(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Tensor:
        """Multimodal hidden states `(B, T, D)` of questions and their images."""
        if pixel_values.shape[0] != input_ids.shape[0]:
            raise ValueError(
                f"Got {pixel_values.shape[0]} images and {input_ids.shape[0]} questions; pass one image per question."
            )
        image_embeds = self.encode_images(pixel_values, interpolate_pos_encoding)
        return self.fuse(image_embeds, input_ids, attention_mask).last_hidden_state

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        inputs: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> Any:
        r"""
        Generate answers by transformers' `generate`.

        Args:
            inputs (`Tensor` of shape `(batch_size, num_channels, height, width)`, *optional*): images, the same as
                `pixel_values`.
            input_ids, attention_mask (`Tensor` of shape `(batch_size, sequence_length)`): questions.
            pixel_values (`Tensor` of shape `(batch_size, num_channels, height, width)`, *optional*): images, one per
                question.
            encoder_outputs (`BaseModelOutput`, *optional*): hidden states from `encode_questions` instead of images and
                questions; `encoder_attention_mask` is their padding mask.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): accept images of another size by
                interpolating the position embeddings.
            kwargs: options of transformers' `generate`. A length of the call replaces that of the model's
                configuration. `bos_token_id` is another name of `decoder_start_token_id`. `guidance_scale` compares
                with a blank image, see [`ImageGuidance`]. Inputs of the training loss, such as `labels`, are ignored.

        Returns:
            Token ids of the answers, or an output object with `return_dict_in_generate=True`.

        Raises:
            ValueError: Images or questions are missing, a token id is not in the vocabulary, or an option is not
                supported.
        """
        kwargs = self._checked_options(kwargs)
        encode_blank = None
        if encoder_outputs is None:
            pixel_values = pixel_values if inputs is None else inputs
            if pixel_values is None or input_ids is None:
                missing = "pixel_values" if pixel_values is None else "questions as input_ids"
                raise ValueError(f"generate needs {missing}; the processor makes both from images and questions.")
            states = self.encode_questions(pixel_values, input_ids, attention_mask, interpolate_pos_encoding)
            encoder_outputs = BaseModelOutput(last_hidden_state=states)
            if not self.attends_question_padding:
                kwargs["encoder_attention_mask"] = mask_padding(input_ids, attention_mask, self.config.pad_token_id)
            blank_image = torch.zeros_like(pixel_values)  # normalized, so zero is the mean color

            def encode_blank() -> Tensor:
                return self.encode_questions(blank_image, input_ids, attention_mask, interpolate_pos_encoding)

        return self.generate_from_encoder_outputs(encoder_outputs, encode_blank, **kwargs)

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
            pixel_values (`Tensor` of shape `(batch_size, num_channels, height, width)`): images, one per question.
            input_ids, attention_mask (`Tensor` of shape `(batch_size, sequence_length)`): questions.
            answer_input_ids, answer_attention_mask (`Tensor` of shape `(A, L)`): the answer list.
            num_candidates (`int`, *optional*, defaults to 128): answers per question that are scored completely.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): accept images of another size by
                interpolating the position embeddings.

        Returns:
            [`RankedAnswers`]: indices into the answer list, best first, with their scores.
        """
        if answer_input_ids is None:
            raise ValueError("Ranking needs the answer list as answer_input_ids; the processor tokenizes it.")
        states = self.encode_questions(pixel_values, input_ids, attention_mask, interpolate_pos_encoding)
        return rank_answers(
            self.text_decoder,
            states,
            mask_padding(input_ids, attention_mask, self.config.pad_token_id),
            answer_input_ids,
            answer_attention_mask,
            self.config.bos_token_id,
            num_candidates,
            self.config.label_smoothing,
        )

    @accepts_cache
    @head_forward
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
            labels (`Tensor` of shape `(A, L)` or `(batch_size, K, L)`, *optional*):
                All answers of all questions, question by question, with -100 for padding. The decoder's start token
                replaces the first token. In three dimensions, questions with fewer than K answers have rows of -100;
                this form has one row per question, which a Trainer that evaluates needs.
            answer_counts (`Tensor` of shape `(batch_size,)`, *optional*):
                Number of answers of each question; equal by default.
            answer_weights (`Tensor` of shape `(A,)` or `(batch_size, K)`, *optional*):
                Weight of each answer, 1 by default. The loss is the weighted sum of the label-smoothed answer losses,
                each summed over its tokens, divided by the number of questions.
            encoder_outputs (`BaseModelOutput`, *optional*):
                Hidden states from `encode_questions` instead of images and questions.

        Returns:
            [`LavisGenerationOutput`]: `logits` of shape `(A, L, V)`, or `(batch_size, K, L, V)` for labels of three
            dimensions, with zeros where a question has no answer.
        """
        image_embeds, vision = None, {}
        if encoder_outputs is None:
            if pixel_values is None or input_ids is None:
                raise ValueError(
                    "Question answering needs pixel_values and input_ids; at least one of them is missing. The "
                    "processor makes both from images and texts."
                )
            attention_mask = mask_padding(input_ids, attention_mask, self.config.pad_token_id)
            encoded = self.image_encoder_outputs(pixel_values, interpolate_pos_encoding, **kwargs)
            image_embeds, vision = encoded.last_hidden_state, vision_fields(encoded)
            states = self.fuse(image_embeds, input_ids, attention_mask).last_hidden_state
            encoder_attention_mask = attention_mask
        else:
            states = encoder_outputs[0]
        question_index = None
        answer_places = None
        if labels is not None:
            labels = check_labels(labels, self.config.text_config.vocab_size)
            if labels.ndim == 3:
                answer_places = _places_of_answers(labels, answer_counts, answer_weights)
                answer_counts = answer_places.sum(dim=1)
                labels = labels[answer_places]
                answer_weights = None if answer_weights is None else answer_weights[answer_places]
            answers = labels.masked_fill(labels == IGNORE_INDEX, self.config.pad_token_id)
            decoder_input_ids = set_first_token(answers, self.config.bos_token_id)
            decoder_attention_mask = (labels != IGNORE_INDEX).long()
            decoder_attention_mask[:, 0] = 1  # the start token, which labels may leave out
            question_index = _question_of_each_answer(answer_counts, states.shape[0], labels.shape[0])
            logits_to_keep = 0
        if decoder_input_ids is None:
            raise ValueError(
                "The decoder needs labels (for training) or decoder_input_ids; to get answers, call generate or "
                "rank_answers."
            )
        if past_key_values is None and use_cache:
            past_key_values = shared_cross_attention_cache(self.text_decoder.config)
        attention = {
            "attention_mask": decoder_attention_mask,
            "encoder_attention_mask": encoder_attention_mask,
            "encoder_index": question_index,
        }
        logits, output = self.text_decoder(
            decoder_input_ids,
            position_ids=decoder_position_ids,
            encoder_hidden_states=states,
            past_key_values=past_key_values,
            logits_to_keep=logits_to_keep,
            **attention,
            **kwargs,
        )
        loss, intermediates = None, None
        if labels is not None:
            answer_losses = next_token_loss(logits, labels, self.config.label_smoothing).sum(dim=1)
            momentum: dict[str, Any] = {}
            if hasattr(self, "vision_model_m") and pixel_values is not None and input_ids is not None:
                schedule_update(self, update_state)
                with torch.no_grad(), self.momentum_autocast():
                    image_m = self.vision_model_m(
                        pixel_values, interpolate_pos_encoding=interpolate_pos_encoding
                    ).last_hidden_state
                    question_ids = set_first_token(input_ids, self.config.enc_token_id)
                    states_m = self.text_encoder_m(
                        question_ids, attention_mask, encoder_hidden_states=image_m
                    ).last_hidden_state
                    logits_m, _ = self.text_decoder_m(decoder_input_ids, encoder_hidden_states=states_m, **attention)
                momentum = {"image_embeds_m": image_m, "multimodal_embeds_m": states_m}
                weight = self.soft_target_weight(alpha)
                soft_losses = soft_next_token_loss(logits, logits_m, labels).sum(dim=1)
                answer_losses = (1 - weight) * answer_losses + weight * soft_losses
            weights = 1.0 if answer_weights is None else answer_weights.to(answer_losses.dtype)
            loss = (answer_losses * weights).sum() / states.shape[0]
            if output_intermediates:
                intermediates = {
                    "decoder_logits": logits,
                    "decoder_labels": decoder_input_ids.masked_fill(labels == IGNORE_INDEX, IGNORE_INDEX),
                    "decoder_loss": answer_losses,
                    "multimodal_embeds": states,
                    **momentum,
                }
        if answer_places is not None and logits is not None:
            rows = logits.new_zeros(*answer_places.shape, *logits.shape[1:])
            logits = rows.masked_scatter(answer_places[:, :, None, None], logits)
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
            **vision,
            **cache_output(past_key_values),
        )


def _places_of_answers(labels: Tensor, counts: Tensor | None, weights: Tensor | None) -> Tensor:
    """Boolean `(B, K)`: which rows of labels `(B, K, L)` are answers."""
    if counts is not None:
        raise ValueError(
            f"Got answer_counts and labels of shape {tuple(labels.shape)}. Labels of three dimensions mark missing "
            "answers by rows of -100; leave answer_counts out."
        )
    if weights is not None and weights.shape != labels.shape[:2]:
        raise ValueError(
            f"Got answer_weights of shape {tuple(weights.shape)} for labels of shape {tuple(labels.shape)}; expected "
            f"{tuple(labels.shape[:2])}, one weight per answer."
        )
    return (labels != IGNORE_INDEX).any(dim=2)


def _question_of_each_answer(counts: Tensor | None, num_questions: int, num_answers: int) -> Tensor | None:
    """Question of each answer, `(A,)`; `None` if all questions have the same number of answers."""
    if counts is None:
        if num_answers % num_questions:
            raise ValueError(
                f"{num_answers} answers cannot be split evenly among {num_questions} questions; pass answer_counts."
            )
        return None
    if not torch.compiler.is_compiling() and (counts.numel() != num_questions or int(counts.sum()) != num_answers):
        raise ValueError(
            f"answer_counts {counts.tolist()} describe {counts.numel()} questions and {int(counts.sum())} answers, but "
            f"there are {num_questions} questions and {num_answers} rows of labels."
        )
    rows = torch.arange(num_questions, device=counts.device)
    return rows.repeat_interleave(counts.reshape(-1).long(), output_size=num_answers)


# ---- ranking ----

# Candidates of one length run together, because padding costs as much as tokens. A smaller group would lose more by
# reading all weights for it than padding costs; a larger one would only need more memory.
_MIN_GROUP, _MAX_TOKENS = 16, 4096


@torch.no_grad()
def rank_answers(
    decoder: LavisBertLMHeadModel,
    encoder_hidden_states: Tensor,
    encoder_attention_mask: Tensor | None,
    answer_input_ids: Tensor,
    answer_attention_mask: Tensor | None,
    start_token_id: int,
    num_candidates: int = 128,
    label_smoothing: float = 0.1,
    chunk_size: int = 1024,
) -> RankedAnswers:
    """
    Select for each question the answers with the most likely first token, then rank them by the loss of the complete
    answer (ALBEF, section 4, https://arxiv.org/abs/2107.07651).

    All candidates of a question share the start token, which runs once, and the keys and values of the question. The
    last token of an answer predicts nothing and does not run, and neither does padding beyond the longest answer of a
    group.

    Args:
        decoder ([`LavisBertLMHeadModel`]): causal decoder.
        encoder_hidden_states (`Tensor` of shape `(B, N, D)`): encoder hidden states, one row per question.
        encoder_attention_mask (`Tensor` of shape `(B, N)`, *optional*): padding mask of the encoder.
        answer_input_ids (`Tensor` of shape `(A, L)`): start token (any), answer, end token, right padding.
        answer_attention_mask (`Tensor` of shape `(A, L)`, *optional*): 1 for tokens; by default pad tokens are padding.
        start_token_id (`int`): start token of the decoder.
        num_candidates (`int`, *optional*, defaults to 128): k, at most A.
        label_smoothing (`float`, *optional*, defaults to 0.1): parity: ranking uses the label smoothing of training.
        chunk_size (`int`, *optional*, defaults to 1024): number of tokens whose logits are in memory at once.

    Returns:
        [`RankedAnswers`]: best first.
    """
    num_answers, length = answer_input_ids.shape
    if num_answers == 0 or length < 2:
        raise ValueError(
            f"Got answers of shape {(num_answers, length)}; expected at least one answer with a start token and "
            "another token. Tokenize the answer list with the processor."
        )
    if num_candidates < 1:
        raise ValueError(f"num_candidates is {num_candidates}; expected at least 1.")
    k = min(num_candidates, num_answers)
    batch = encoder_hidden_states.shape[0]
    config = decoder.config
    if answer_attention_mask is None:
        answer_attention_mask = answer_input_ids.ne(config.pad_token_id or 0)
    labels = answer_input_ids.masked_fill(~answer_attention_mask.bool(), IGNORE_INDEX)

    cache = shared_cross_attention_cache(config)
    start = torch.full((batch, 1), start_token_id, dtype=torch.long, device=encoder_hidden_states.device)
    question = {
        "encoder_hidden_states": encoder_hidden_states,
        "encoder_attention_mask": encoder_attention_mask,
    }
    logits = decoder(start, past_key_values=cache, **question)[0][:, 0].float()  # (B, V)
    first_tokens = answer_input_ids[:, 1]
    candidates = logits.softmax(dim=-1)[:, first_tokens].topk(k, dim=1).indices  # (B, k)

    losses = _first_token_losses(logits, first_tokens[candidates], label_smoothing)  # (B, k)
    lengths = (labels != IGNORE_INDEX).sum(dim=1)[candidates]  # (B, k)
    by_length = lengths.argsort(dim=1, stable=True)
    longest_of = lengths.gather(1, by_length).amax(dim=0).tolist()  # of all questions, per position of the order, (k,)
    for places in by_length.split(_group_sizes(longest_of, batch), dim=1):
        longest = int(lengths.gather(1, places).max())
        if longest <= 2:  # the start token and one more, whose loss is known already
            continue
        answers = candidates.gather(1, places).flatten()  # (B * g,)
        group_cache = _repeat_self_attention_cache(cache, places.shape[1], config)
        inputs = answer_input_ids[answers, 1 : longest - 1]
        states = decoder.bert(inputs, causal=True, past_key_values=group_cache, **question).last_hidden_state
        rest = _summed_token_losses(decoder, states, labels[answers, 2:longest], label_smoothing, chunk_size)
        losses = losses.scatter_add(1, places, rest.view(batch, -1))

    scores, order = (-losses).sort(dim=1, descending=True, stable=True)
    candidates = candidates.gather(1, order)
    return RankedAnswers(best=candidates[:, 0], candidates=candidates, scores=scores)


def _first_token_losses(logits: Tensor, tokens: Tensor, label_smoothing: float) -> Tensor:
    """Label-smoothed losses `(B, k)` of the candidates' first tokens `(B, k)`, from one logits row per question."""
    log_probs = logits.log_softmax(dim=-1)
    likelihood = log_probs.gather(1, tokens)
    return -((1 - label_smoothing) * likelihood + label_smoothing * log_probs.mean(dim=-1, keepdim=True))


def _summed_token_losses(
    decoder: LavisBertLMHeadModel, hidden_states: Tensor, labels: Tensor, label_smoothing: float, chunk: int
) -> Tensor:
    """Loss of each row, summed over its tokens; the language modeling head skips padding."""
    rows, columns = (labels != IGNORE_INDEX).nonzero(as_tuple=True)
    losses = torch.cat(
        [
            token_loss(decoder.cls(hidden_states[r, c]), labels[r, c], label_smoothing)
            for r, c in zip(rows.split(chunk), columns.split(chunk), strict=True)
        ]
    )
    return torch.zeros(labels.shape[0], dtype=losses.dtype, device=losses.device).index_add_(0, rows, losses)


def _repeat_self_attention_cache(
    cache: SharedCrossAttentionCache, size: int, config: LavisBertConfig
) -> SharedCrossAttentionCache:
    """The start token's keys and values for `size` candidates per question; those of the question are shared."""
    repeated = DynamicCache(config=config)
    for index, layer in enumerate(cache.self_attention_cache.layers):
        repeated.update(layer.keys.repeat_interleave(size, dim=0), layer.values.repeat_interleave(size, dim=0), index)
    return SharedCrossAttentionCache(repeated, cache.cross_attention_cache)


def _group_sizes(lengths: list[int], batch: int) -> list[int]:
    """
    Sizes of the groups of candidates that run together.

    Args:
        lengths (`list[int]`): number of tokens of each candidate, ascending.
        batch (`int`): number of questions, each of which has that many candidates.

    Returns:
        `list[int]`: sizes that add up to the number of candidates.
    """
    sizes: list[int] = []
    start = 0
    for end in range(1, len(lengths) + 1):
        size, left = end - start, len(lengths) - end
        length_changes = left == 0 or lengths[end] != lengths[end - 1]
        is_full = (size + 1) * batch * lengths[end - 1] > _MAX_TOKENS
        if left == 0 or (length_changes or is_full) and min(size, left) >= _MIN_GROUP:
            sizes.append(size)
            start = end
    return sizes


__all__ = ["QuestionAnsweringMixin", "rank_answers"]
