# SPDX-License-Identifier: Apache-2.0
"""The second stage of BLIP-2: a frozen language model with the Q-Former's query tokens in front of its prompt.

Shapes: B images, R prompts (a multiple of B), N image tokens, Q query tokens, T text tokens, U target tokens, D hidden
size of the Q-Former, L hidden size of the language model, V vocabulary size, A answers, k candidates per question.
"""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import TransformersKwargs

from .configuration_base import FrozenPart
from .configuration_lavis_blip_2 import LavisBlip2Config
from .forward_options import RECORDED, head_forward
from .generation import (
    CausalPrompts,
    EncodedPrompts,
    mask_targets,
    move_padding_to_left,
    move_padding_to_right,
    pad_after_end,
    rank_continuations,
    text_positions,
)
from .generation_options import LENGTHS, add_guidance, check_token_options, stated, with_original_beam_search
from .losses import causal_lm_loss
from .modeling_base import check_input_ids, check_labels
from .modeling_lavis_blip_2_base import LavisBlip2PreTrainedModel
from .outputs import IGNORE_INDEX, LavisGenerationOutput, RankedAnswers, vision_fields
from .transformers_compat import CACHE_NAME, CACHE_NAMES, cache_output, return_logits_on_input_device

# inputs of the training loss that a Trainer passes along with the images
_TRAINING_INPUTS = ("labels", "decoder_attention_mask", "image_ids", "return_loss", "token_type_ids")
# Model types whose tokenizers have no BOS token, although some of their configurations name one.
_WITHOUT_BOS_TOKEN = ("qwen",)
# inputs of the language model that come from images and prompts
_MADE_FROM_PROMPT = {"inputs_embeds", "decoder_inputs_embeds", "encoder_outputs", "kwargs"}
_NORMALIZATIONS = ("sum", "mean")


@dataclass
class Prompt:
    """
    Input of the language model.

    Args:
        inputs_embeds (`Tensor` of shape `(R, Q + T, L)`): embeddings of query tokens and text.
        attention_mask (`Tensor` of shape `(R, Q + T)`): 0 for padding.
        input_ids (`Tensor` of shape `(R, T)`): token ids of the text.
        image_embeds (`Tensor` of shape `(B, Q, D)`): hidden states of the query tokens.
        has_prefix (`bool`): whether the query tokens come before the text, not in the place of placeholders.
        recorded (`dict`): what was recorded in the image encoder, as fields of the output.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    input_ids: Tensor
    image_embeds: Tensor
    has_prefix: bool
    recorded: dict[str, Any]


def build_language_model(config: PreTrainedConfig, untied_head: bool = False) -> PreTrainedModel:
    """A newly initialized language model; with `untied_head` its language modeling head has weights of its own."""
    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto_class.from_config(config)
    if untied_head and "lm_head.weight" in (model._tied_weights_keys or {}):
        ties = {name: source for name, source in model._tied_weights_keys.items() if name != "lm_head.weight"}
        model._tied_weights_keys = ties
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        model.all_tied_weights_keys.pop("lm_head.weight", None)
    return model


class LavisBlip2ForConditionalGeneration(GenerationMixin, LavisBlip2PreTrainedModel):
    """
    BLIP-2 with a language model, for captions and answers (https://arxiv.org/abs/2301.12597, section 3.3): the LAVIS
    architectures `blip2_opt` and `blip2_t5`. Works with any causal or sequence-to-sequence language model of
    transformers.

    Args:
        config ([`LavisBlip2Config`]): model configuration; `text_config` describes the language model.
    """

    #: whether questions can be asked as prompts
    answers_prompts = True
    #: length of texts for calls and configurations that state none, as published
    default_max_new_tokens = 30

    def __init__(self, config: LavisBlip2Config) -> None:
        super().__init__(config)
        if config.text_config is None:
            raise ValueError(
                "The configuration has no language model (text_config is None). Give the configuration of a causal or "
                "sequence-to-sequence model, or use LavisBlip2ForPreTraining, whose Q-Former generates captions itself."
            )
        self.build_encoders(config)
        self.language_model = build_language_model(config.text_config, config.untied_language_head)
        hidden_size = self.language_model.get_input_embeddings().embedding_dim
        self.language_projection = nn.Linear(config.qformer_config.hidden_size, hidden_size)
        self.post_init()
        # the special tokens of the top-level configuration are the Q-Former's
        self.generation_config = GenerationConfig.from_model_config(config.text_config)

    @classmethod
    def adapt_config(cls, config: Any, source: Any, saved: str, allow_new_weights: bool) -> Any:
        """
        The configuration for the second stage from a checkpoint of the first, with the language model in
        `frozen_parts`.

        Raises:
            ValueError: no language model is given.
        """
        if config.text_config is not None:
            return config
        place = (config.frozen_parts or {}).get("language_model")
        if place is None:
            raise ValueError(
                f"{source} is a checkpoint of {saved}, which has no language model (text_config is None), so "
                f"{cls.__name__} cannot load it. Give a checkpoint of {cls.__name__}, use LavisBlip2ForPreTraining, "
                "whose Q-Former generates captions itself, or start training the second stage by "
                'frozen_parts={"language_model": folder or Hub id} with allow_new_weights=True.'
            )
        part = FrozenPart.read("language_model", place)
        options = {"revision": part.revision, "subfolder": part.subfolder}
        config.text_config = AutoConfig.from_pretrained(part.source, **{k: v for k, v in options.items() if v})
        config.qformer_config.use_text = False
        config.is_encoder_decoder = bool(config.text_config.is_encoder_decoder)
        return config

    @property
    def passed_on_options(self) -> tuple[str, ...]:  # type: ignore[override]
        """Options of the language model's `forward`, and what transformers passes to every model's layers."""
        own = set(inspect.signature(self.language_model.forward).parameters)
        return tuple((own | set(TransformersKwargs.__annotations__)) - _MADE_FROM_PROMPT)

    def get_input_embeddings(self) -> nn.Embedding:
        """Word embeddings of the language model."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings of the language model."""
        self.language_model.set_input_embeddings(value)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the vocabulary of the language model, which may have more than word embeddings and a head."""
        embeddings: nn.Embedding = self.language_model.resize_token_embeddings(new_num_tokens, *args, **kwargs)
        size = self.language_model.config.get_text_config().vocab_size
        for module in self.language_model.modules():  # encoder and decoder may have copies of the configuration
            config: Any = getattr(module, "config", None)
            if getattr(config, "vocab_size", None) is not None:
                config.vocab_size = size
        self.config.text_config.get_text_config().vocab_size = size
        self.vocab_size = size
        self.tie_weights()
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        """The language modeling head."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the language modeling head."""
        self.language_model.set_output_embeddings(value)

    def build_prompt(
        self,
        pixel_values: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> Prompt:
        r"""
        Encode images and put their query tokens before the prompts, or in place of `config.image_token_id` in them.

        Args:
            pixel_values (`Tensor` of shape `(B, num_channels, height, width)`): normalized images.
            input_ids (`Tensor` of shape `(R, T)`, *optional*): prompts, `R / B` for each image; by default an empty one
                for each, which consists of the language model's special tokens. T may be 0.
            attention_mask (`Tensor` of shape `(R, T)`, *optional*): 1 for tokens, 0 for padding; see [`generate`].
            kwargs: what to record in the image encoder.
        """
        vision = self.image_encoder_outputs(pixel_values, interpolate_pos_encoding, **kwargs)
        image_embeds = self.query_images(vision.last_hidden_state).last_hidden_state
        if input_ids is None:
            input_ids, attention_mask = self._empty_prompts(image_embeds), None
        if _has_no_tokens(input_ids):
            input_ids = input_ids.long()  # torch.tensor([[]]) is a tensor of floats
            attention_mask = torch.ones_like(input_ids)
        else:
            check_input_ids(input_ids, attention_mask, getattr(self.get_input_embeddings(), "num_embeddings", None))
        if attention_mask is None:
            attention_mask = self._prompt_mask(input_ids)
        batch, rows = image_embeds.shape[0], input_ids.shape[0]
        if rows % batch:
            raise ValueError(
                f"Got {rows} prompts for {batch} images; pass the same number for each image, in the images' order."
            )
        placeholder = self.config.image_token_id
        positions = None if placeholder is None else input_ids == placeholder
        has_prefix = positions is None or not bool(positions.any())
        if has_prefix and self.config.is_encoder_decoder:
            # Encoders with relative positions, such as T5, see the distance of the text from the query tokens. Prompts
            # with placeholders stay, as in transformers.
            input_ids, attention_mask = move_padding_to_right(input_ids, attention_mask)
        text_embeds = self.get_input_embeddings()(input_ids)
        queries = self.language_projection(image_embeds.to(self.language_projection.weight.dtype))
        queries = queries.to(text_embeds.device, text_embeds.dtype).repeat_interleave(rows // batch, dim=0)
        if positions is not None and not has_prefix:
            if bool((positions.sum(dim=1) != queries.shape[1]).any()):
                raise ValueError(
                    f"Every prompt needs {queries.shape[1]} image placeholders (id {placeholder}), one per query "
                    f"token, or none; found {sorted(set(positions.sum(dim=1).tolist()))}. Make the prompts with "
                    "the processor."
                )
            embeds = text_embeds.masked_scatter(positions.unsqueeze(-1), queries)
        else:
            embeds = torch.cat([queries, text_embeds], dim=1)
            ones = attention_mask.new_ones(rows, queries.shape[1])
            attention_mask = torch.cat([ones.to(attention_mask.device), attention_mask], dim=1)
        self._check_length(input_ids.shape[1], embeds.shape[1])
        return Prompt(embeds, attention_mask, input_ids, image_embeds, has_prefix, vision_fields(vision))

    def _vocab_size(self) -> int:
        return getattr(self.get_input_embeddings(), "num_embeddings", self.config.text_config.vocab_size)

    def _prompt_mask(self, input_ids: Tensor) -> Tensor:
        """
        Padding mask of prompts without one: by the pad token, unless it is also the first or the last token of texts
        (as in GPT-2), where it cannot be told from them.
        """
        config = self.config.text_config
        pad, bos, ends = (getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos"))
        if pad is None or pad == bos or pad in (ends if isinstance(ends, list) else [ends]):
            return torch.ones_like(input_ids)
        return (input_ids != pad).to(input_ids.dtype)

    def _empty_prompts(self, image_embeds: Tensor) -> Tensor:
        """An empty prompt for each image, as the processor makes it: `(B, T)` special tokens, possibly none."""
        config = self.config.text_config
        bos, eos, pad = (getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad"))
        eos = eos[0] if isinstance(eos, list) else eos
        if self.config.is_encoder_decoder:
            # T5's configurations name no BOS token, or the padding
            tokens = [None if bos == pad else bos, eos]
        else:
            tokens = [None if config.model_type.startswith(_WITHOUT_BOS_TOKEN) else bos]
        row = [token for token in tokens if token is not None]
        return torch.tensor(row, dtype=torch.long, device=image_embeds.device).expand(image_embeds.shape[0], len(row))

    def _without_targets(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Prompts and their mask without the tokens that `labels` mark as targets."""
        config = self.config.text_config
        bos = getattr(config, "bos_token_id", None)
        mask = mask_targets(input_ids, attention_mask, labels, -1 if bos is None else bos)
        if mask is attention_mask or mask is None:
            return input_ids, attention_mask
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        # as in transformers' generate, where a language model without a pad token is padded with its end token
        pad = next((token for token in (config.pad_token_id, *ends) if token is not None), 0)
        input_ids, mask = move_padding_to_left(input_ids.masked_fill(mask == 0, pad), mask)
        length = int(mask.sum(dim=1).max())
        first = input_ids.shape[1] - length
        return input_ids[:, first:], mask[:, first:]

    def _check_length(self, prompt_length: int, length: int) -> None:
        limit = getattr(self.config.text_config, "max_position_embeddings", None)
        if limit is not None and length > limit:
            raise ValueError(
                f"The prompt has {prompt_length} tokens, {length} with the query tokens, but the language model has "
                f"{limit} position embeddings. Shorten the prompt, for instance with truncation=True and max_length in "
                "the processor."
            )

    @head_forward
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        output_intermediates: bool = False,
        interpolate_pos_encoding: bool = False,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisGenerationOutput:
        r"""
        Args:
            input_ids (`Tensor` of shape `(R, T)`, *optional*):
                Prompts, a multiple of the images; for a causal language model in training, followed by the targets.
            attention_mask (`Tensor` of shape `(R, T)`, *optional*):
                1 for tokens, 0 for padding; see [`generate`].
            labels (`Tensor`, *optional*):
                Token ids with -100 at positions that the loss ignores: of the shape of `input_ids` for a causal
                language model, `(R, U)` for a sequence-to-sequence one.
            decoder_input_ids (`Tensor` of shape `(R, U)`, *optional*):
                For a sequence-to-sequence language model; by default the shifted labels.
            decoder_attention_mask (`Tensor` of shape `(R, U)`, *optional*):
                1 for tokens of `decoder_input_ids`, 0 for padding.
            output_intermediates (`bool`, *optional*, defaults to `False`):
                Also return the inputs of the language model as `intermediates`.
            kwargs:
                Further arguments of the language model.

        Returns:
            [`LavisGenerationOutput`]: `logits` of shape `(R, Q + T, V)` or `(R, U, V)`, and `image_embeds` of shape
            `(B, Q, D)`, the hidden states of the query tokens.
        """
        if pixel_values is None:
            raise ValueError("pixel_values is missing; the processor makes it from images.")
        recording = {name: kwargs[name] for name in RECORDED if name in kwargs}
        prompt = self.build_prompt(pixel_values, input_ids, attention_mask, interpolate_pos_encoding, **recording)
        inputs = {"inputs_embeds": prompt.inputs_embeds, "attention_mask": prompt.attention_mask}
        loss = encoder_states = None
        if labels is not None:
            labels = check_labels(labels, self._vocab_size())
        if self.config.is_encoder_decoder:
            output = self.language_model(
                **inputs,
                labels=labels,
                decoder_input_ids=decoder_input_ids,
                decoder_attention_mask=decoder_attention_mask,
                **kwargs,
            )
            loss, encoder_states = output.loss, output.encoder_last_hidden_state
        else:
            if labels is not None and labels.shape != prompt.input_ids.shape:
                raise ValueError(
                    f"Got labels of shape {tuple(labels.shape)} for input_ids of shape "
                    f"{tuple(prompt.input_ids.shape)}; "
                    f"a causal language model needs one label per token, {IGNORE_INDEX} at positions to ignore."
                )
            if labels is not None and prompt.has_prefix:
                unlabelled = labels.new_full((labels.shape[0], self.config.num_query_tokens), IGNORE_INDEX)
                labels = torch.cat([unlabelled, labels], dim=1)
            output = self.language_model(**inputs, **kwargs)
            if labels is not None:
                labels = labels.to(output.logits.device)
                loss = causal_lm_loss(output.logits, labels, label_smoothing=0.0)
        return LavisGenerationOutput(
            loss=loss,
            loss_lm=loss,
            logits=output.logits,
            encoder_last_hidden_state=encoder_states,
            image_embeds=prompt.image_embeds,
            decoder_hidden_states=output.get("decoder_hidden_states", output.get("hidden_states")),
            decoder_attentions=output.get("decoder_attentions", output.get("attentions")),
            cross_attentions=output.get("cross_attentions"),
            intermediates={**inputs, "labels": labels} if output_intermediates else None,
            **prompt.recorded,
            **cache_output(output.get(CACHE_NAME)),
        )

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        generation_config: Any = None,
        **kwargs: Any,
    ) -> Any:
        r"""
        Generate text by the language model's `generate`.

        Args:
            inputs (`Tensor` of shape `(B, num_channels, height, width)`, *optional*): images, the same as
                `pixel_values`.
            input_ids, attention_mask (`Tensor` of shape `(R, T)`, *optional*): prompts, padded on either side: padding
                is moved to where the processor puts it. Without a mask, pad tokens are padding, unless the language
                model's pad token is also its first or last token.
            pixel_values (`Tensor` of shape `(B, num_channels, height, width)`, *optional*): images.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): accept images of another size by
                interpolating the position embeddings.
            generation_config (`GenerationConfig`, *optional*): instead of the model's own.
            kwargs: options of transformers' `generate`. Lengths of a causal language model include the prompt, but not
                the query tokens, unless the prompt has placeholders for them. A batch for training can be passed as it
                is: for a causal language model, the tokens of `input_ids` that `labels` mark as targets are left out,
                and other inputs of the training loss are ignored. `guidance_scale` compares with a blank image, see
                [`ImageGuidance`].

        Returns:
            Token ids that begin with the prompt (causal) or the decoder's start token (sequence-to-sequence), or an
            output object with `return_dict_in_generate=True`.

        Raises:
            ValueError: There are no images, a token id is not in the vocabulary, or an option is not supported.
        """
        for name in _MADE_FROM_PROMPT:
            if kwargs.get(name) is not None:
                raise TypeError(
                    f"generate got {name}, but the input of the language model is computed from pixel_values and "
                    "input_ids; pass those."
                )
            kwargs.pop(name, None)
        labels = kwargs.get("labels")
        for name in _TRAINING_INPUTS:
            kwargs.pop(name, None)
        pixel_values = pixel_values if inputs is None else inputs
        if pixel_values is None:
            raise ValueError("generate needs pixel_values; the processor makes them from images.")
        if input_ids is not None and not _has_no_tokens(input_ids) and not self.config.is_encoder_decoder:
            check_input_ids(input_ids, attention_mask)
            attention_mask = self._prompt_mask(input_ids) if attention_mask is None else attention_mask
            input_ids, attention_mask = self._without_targets(input_ids, attention_mask, labels)
            # With padding on the right, the text would continue after the padding. Between placeholders and text it
            # stays, as in transformers.
            is_kept = attention_mask[:, -1:].bool()
            moved_ids, moved_mask = move_padding_to_left(input_ids, attention_mask)
            input_ids = torch.where(is_kept, input_ids, moved_ids)
            attention_mask = torch.where(is_kept, attention_mask, moved_mask)
        prompt = self.build_prompt(pixel_values, input_ids, attention_mask, interpolate_pos_encoding)
        kwargs["inputs_embeds"], kwargs["attention_mask"] = prompt.inputs_embeds, prompt.attention_mask
        config = copy.deepcopy(generation_config or self.generation_config)
        for length, new_tokens in LENGTHS:  # a length of the call overrides both forms of it in the configuration
            if kwargs.get(length) is not None and kwargs.get(new_tokens) is None:
                setattr(config, new_tokens, None)
            elif kwargs.get(new_tokens) is not None and kwargs.get(length) is None:
                setattr(config, length, None)
        if not self.config.is_encoder_decoder:
            kwargs["input_ids"] = prompt.input_ids
            if prompt.has_prefix:
                kwargs["inputs_embeds"], kwargs["attention_mask"] = _padding_before_empty_prompts(prompt)
                # transformers includes the query tokens in these lengths, and not in others
                _lengths_without_prompt(config, kwargs, prompt.input_ids.shape[1])
        check_token_options(kwargs, config, self._vocab_size())

        def make_blank_logits() -> Callable[[Tensor], Tensor]:
            blank = torch.zeros_like(pixel_values)  # normalized, so zero is the mean color
            return self._logits_after(self.build_prompt(blank, input_ids, attention_mask, interpolate_pos_encoding))

        kwargs = add_guidance(kwargs, config, make_blank_logits)
        if stated(kwargs, config, "max_length") is None and stated(kwargs, config, "max_new_tokens") is None:
            kwargs["max_new_tokens"] = self.default_max_new_tokens
        kwargs = config.update(**kwargs)
        if self.config.original_beam_scores:
            kwargs = with_original_beam_search(kwargs, config)
        _add_cache_for_other_depth(self.language_model.config, config, kwargs)
        return_logits_on_input_device(self.language_model)
        try:
            output = self.language_model.generate(generation_config=config, **kwargs)
        except IndexError as error:
            limit = getattr(self.config.text_config, "max_position_embeddings", None)
            if limit is None or self.config.is_encoder_decoder:
                raise
            raise ValueError(
                f"The text grew beyond the {limit} position embeddings of the language model, of which query tokens "
                f"and prompt use {prompt.inputs_embeds.shape[1]}. Ask for fewer new tokens (max_new_tokens)."
            ) from error
        if config.eos_token_id is None or config.pad_token_id is None:
            return output
        prompt_length = 1 if self.config.is_encoder_decoder else prompt.input_ids.shape[1]
        return pad_after_end(output, config.eos_token_id, config.pad_token_id, prompt_length)

    @torch.no_grad()
    def rank_answers(
        self,
        pixel_values: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        answer_input_ids: Tensor | None = None,
        answer_attention_mask: Tensor | None = None,
        num_candidates: int | None = None,
        interpolate_pos_encoding: bool = False,
        length_normalization: str = "sum",
        chunk_size: int = 64,
    ) -> RankedAnswers:
        r"""
        Rank a closed list of answers by the log-likelihood that the language model gives to each of them after image
        and question.

        Query tokens and question run once, and all answers continue from their keys and values. Language models whose
        cache cannot be continued exactly, such as those with recurrent layers, run the question with each answer. A
        score does not depend on the other questions and answers.

        Args:
            pixel_values (`Tensor` of shape `(B, num_channels, height, width)`): images.
            input_ids, attention_mask (`Tensor` of shape `(R, T)`, *optional*): questions as prompts, `R / B` for each
                image, as the processor's `question_inputs` makes them, padded on either side.
            answer_input_ids, answer_attention_mask (`Tensor` of shape `(A, U)`): the answer list, as the processor's
                `answer_candidates` makes it. The tokens that end an answer belong to it. Without a mask, pad tokens are
                padding, unless they are also the language model's first or last token.
            num_candidates (`int`, *optional*): number of answers per question that are scored completely, those with
                the most likely first token; all by default.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): accept images of another size by
                interpolating the position embeddings.
            length_normalization (`str`, *optional*, defaults to `"sum"`): `"sum"` or `"mean"` of the log-likelihoods of
                an answer's tokens; the sum favours short answers.
            chunk_size (`int`, *optional*, defaults to 64): pairs of a question and an answer that run at once, at least
                one answer of every question. Each has a copy of the question's keys and values.

        Returns:
            [`RankedAnswers`]: indices into the answer list, best first, with their scores, `(R, k)`.

        Raises:
            ValueError: There are no answers, an option is not supported, a token id is not in the vocabulary, or
                question and answer are longer than the language model allows.
        """
        if answer_input_ids is None:
            raise ValueError("Ranking needs the answer list as answer_input_ids; the processor tokenizes it.")
        check_input_ids(
            answer_input_ids, answer_attention_mask, getattr(self.get_input_embeddings(), "num_embeddings", None)
        )
        for name, value in (("num_candidates", num_candidates), ("chunk_size", chunk_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1.")
        if length_normalization not in _NORMALIZATIONS:
            raise ValueError(f"length_normalization is {length_normalization!r}; expected one of {_NORMALIZATIONS}.")
        if answer_attention_mask is None:
            answer_attention_mask = self._prompt_mask(answer_input_ids)
        lengths = answer_attention_mask.bool().sum(dim=1)
        if bool((lengths == 0).any()):
            raise ValueError(f"The answer {int((lengths == 0).nonzero()[0])} has no tokens; expected at least one.")
        prompt = self.build_prompt(pixel_values, input_ids, attention_mask, interpolate_pos_encoding)
        return_logits_on_input_device(self.language_model)
        prompts_class = EncodedPrompts if self.config.is_encoder_decoder else CausalPrompts
        prompts = prompts_class(self.language_model, prompt.inputs_embeds, prompt.attention_mask)
        # the decoder of a sequence-to-sequence model starts with one token, and has no question
        before = 1 if self.config.is_encoder_decoder else int(prompts.lengths.max())
        longest = before + int(lengths.max()) - 1
        limit = getattr(self.config.text_config, "max_position_embeddings", None)
        if limit is not None and longest > limit:
            raise ValueError(
                f"The longest answer has {int(lengths.max())} tokens, {longest} with what is before it, but the "
                f"language model has {limit} position embeddings. Shorten the questions or the answers."
            )
        return rank_continuations(
            prompts,
            move_padding_to_right(answer_input_ids, answer_attention_mask)[0],
            lengths,
            num_candidates or len(lengths),
            chunk_size,
            length_normalization == "mean",
        )

    def _logits_after(self, prompt: Prompt) -> Callable[[Tensor], Tensor]:
        """Function from token ids `(rows, T)`, as `generate` extends them, to the next token's logits `(rows, V)`."""
        model = self.language_model
        embeds, mask = prompt.inputs_embeds, prompt.attention_mask
        if self.config.is_encoder_decoder:
            states = model.get_encoder()(inputs_embeds=embeds, attention_mask=mask).last_hidden_state

            def decoder_logits(input_ids: Tensor) -> Tensor:
                copies = input_ids.shape[0] // mask.shape[0]
                output = model(
                    encoder_outputs=BaseModelOutput(last_hidden_state=states.repeat_interleave(copies, dim=0)),
                    attention_mask=mask.repeat_interleave(copies, dim=0),
                    decoder_input_ids=input_ids,
                    use_cache=False,
                )
                return output.logits[:, -1]

            return decoder_logits

        if prompt.has_prefix:
            embeds, mask = _padding_before_empty_prompts(prompt)
        takes_positions = "position_ids" in inspect.signature(model.forward).parameters

        def logits(input_ids: Tensor) -> Tensor:
            copies = input_ids.shape[0] // mask.shape[0]
            new_embeds = self.get_input_embeddings()(input_ids[:, prompt.input_ids.shape[1] :])
            full_mask = F.pad(mask.repeat_interleave(copies, dim=0), (0, new_embeds.shape[1]), value=1)
            positions = {"position_ids": text_positions(full_mask)} if takes_positions else {}
            output = model(
                inputs_embeds=torch.cat([embeds.repeat_interleave(copies, dim=0), new_embeds], dim=1),
                attention_mask=full_mask,
                use_cache=False,
                **positions,
            )
            return output.logits[:, -1]

        return logits


def _has_no_tokens(input_ids: Any) -> bool:
    """Whether prompts of shape `(R, 0)` are given, after which text follows the query tokens immediately."""
    return isinstance(input_ids, Tensor) and input_ids.ndim == 2 and len(input_ids) > 0 and input_ids.shape[1] == 0


def _padding_before_empty_prompts(prompt: Prompt) -> tuple[Tensor, Tensor]:
    """Embeddings and mask, in which text without a prompt follows the query tokens, not the padding after them."""
    embeds, mask, length = prompt.inputs_embeds, prompt.attention_mask, prompt.input_ids.shape[1]
    empty = ~mask[:, mask.shape[1] - length :].bool().any(dim=1)
    if length and bool(empty.any()):
        embeds = torch.where(empty[:, None, None], embeds.roll(length, dims=1), embeds)
        mask = torch.where(empty[:, None], mask.roll(length, dims=1), mask)
    return embeds, mask


def _lengths_without_prompt(config: Any, options: dict[str, Any], prompt_length: int) -> None:
    """Convert lengths that include the prompt to numbers of new tokens, in-place."""
    for length, new_tokens in LENGTHS:
        given = options.pop(length, None)
        if given is None and options.get(new_tokens) is None and getattr(config, new_tokens) is None:
            given = getattr(config, length)
        setattr(config, length, None)
        if given is not None and options.get(new_tokens) is None:
            options[new_tokens] = max(given - prompt_length, 0 if length == "min_length" else 1)


def _add_cache_for_other_depth(model_config: PreTrainedConfig, config: Any, options: dict[str, Any]) -> None:
    """
    Add a cache to the options, in-place, when the decoder has another number of layers than the encoder.

    transformers creates a cache with `num_hidden_layers` layers, which for T5 is the number of encoder layers.
    """
    depth = getattr(model_config, "num_decoder_layers", None)
    if depth in (None, model_config.num_hidden_layers) or config.use_cache is False or config.cache_implementation:
        return
    if all(options.get(name) is None for name in CACHE_NAMES):
        options[CACHE_NAME] = EncoderDecoderCache(DynamicCache(), DynamicCache())


__all__ = ["LavisBlip2ForConditionalGeneration", "Prompt", "build_language_model"]
