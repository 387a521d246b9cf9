# SPDX-License-Identifier: Apache-2.0
"""The second stage of BLIP-2: a frozen language model that reads the queries of the Q-Former in front of its prompt.

Letters: B images, R prompts (a multiple of B), N image tokens, Q queries, T text tokens, U target tokens, D width of
the Q-Former, L width of the language model, V vocabulary.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import can_return_tuple

from .cache_names import CACHE_NAME, CACHE_NAMES, returned
from .configuration_lavis_blip_2 import LavisBlip2Config
from .generation import pad_after_end, with_original_beams
from .language_loss import mean_over_tokens, next_token_loss
from .modeling_base import check_text
from .modeling_lavis_blip_2_base import LavisBlip2PreTrainedModel
from .outputs import LavisGenerationOutput

# Training inputs that a Trainer hands over together with the pictures.
_IGNORED_BY_GENERATE = ("labels", "decoder_attention_mask", "image_ids", "return_loss", "token_type_ids")
# Names for a length with the prompt and for one without.
_LENGTHS = (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))


@dataclass
class Prompt:
    """
    What the language model reads.

    Args:
        inputs_embeds (`Tensor` of shape `(R, Q + T, L)`): queries and words.
        attention_mask (`Tensor` of shape `(R, Q + T)`): 0 for padding.
        input_ids (`Tensor` of shape `(R, T)`): the words.
        image_embeds (`Tensor` of shape `(B, Q, D)`): states of the queries.
        in_front (`bool`): whether the queries stand in front, not in the place of placeholders.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    input_ids: Tensor
    image_embeds: Tensor
    in_front: bool


def build_language_model(config: PreTrainedConfig, untied_head: bool = False) -> PreTrainedModel:
    """The language model that a configuration describes, freshly initialised, on request with a head of its own."""
    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto_class.from_config(config)
    if untied_head and "lm_head.weight" in (model._tied_weights_keys or {}):
        ties = {name: source for name, source in model._tied_weights_keys.items() if name != "lm_head.weight"}
        model._tied_weights_keys = ties
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        model.all_tied_weights_keys.pop("lm_head.weight", None)
    return model


class LavisBlip2ForConditionalGeneration(LavisBlip2PreTrainedModel, GenerationMixin):
    """
    BLIP-2 with a language model, for captions and answers (https://arxiv.org/abs/2301.12597, section 3.3): the LAVIS
    architectures `blip2_opt` and `blip2_t5`. Any causal or sequence-to-sequence language model of transformers will do.

    Args:
        config ([`LavisBlip2Config`]): `text_config` describes the language model.
    """

    #: questions can be put to it as prompts
    answers_prompts = True

    def __init__(self, config: LavisBlip2Config) -> None:
        super().__init__(config)
        if config.text_config is None:
            raise ValueError(
                "There is no language model: text_config is missing from the configuration. Give that of any causal or "
                "sequence-to-sequence model, or use LavisBlip2ForPreTraining, whose Q-Former writes captions itself."
            )
        self.build_trunk(config)
        self.language_model = build_language_model(config.text_config, config.untied_language_head)
        width = self.language_model.get_input_embeddings().embedding_dim
        self.language_projection = nn.Linear(config.qformer_config.hidden_size, width)
        self.post_init()
        # the special tokens of the outer configuration are the Q-Former's
        self.generation_config = GenerationConfig.from_model_config(config.text_config)

    def get_input_embeddings(self) -> nn.Embedding:
        """Word embeddings of the language model."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings of the language model."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's map to the vocabulary."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's map to the vocabulary."""
        self.language_model.set_output_embeddings(value)

    def build_prompt(
        self,
        pixel_values: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Prompt:
        r"""
        Encode images and put their queries in front of the prompts, or where `config.image_token_id` stands in them.

        Args:
            pixel_values (`Tensor` of shape `(B, channels, height, width)`): images.
            input_ids (`Tensor` of shape `(R, T)`, *optional*): prompts, `R / B` for each image; the language model's
                first token by default.
            attention_mask (`Tensor` of shape `(R, T)`, *optional*): 1 for tokens.
        """
        states = self.encode_images(pixel_values, interpolate_pos_encoding)
        image_embeds = self.query_images(states).last_hidden_state
        if input_ids is None:
            input_ids, attention_mask = self._first_token(image_embeds), None
        check_text(input_ids, attention_mask, getattr(self.get_input_embeddings(), "num_embeddings", None))
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        batch, rows = image_embeds.shape[0], input_ids.shape[0]
        if rows % batch:
            raise ValueError(
                f"{rows} prompts do not fit {batch} images; give the same number for each image, in their order."
            )
        words = self.get_input_embeddings()(input_ids)
        queries = self.language_projection(image_embeds.to(self.language_projection.weight.dtype))
        queries = queries.to(words.device, words.dtype).repeat_interleave(rows // batch, dim=0)
        placeholder = self.config.image_token_id
        places = None if placeholder is None else input_ids == placeholder
        if places is not None and bool(places.any()):
            if bool((places.sum(dim=1) != queries.shape[1]).any()):
                raise ValueError(
                    f"Every prompt needs {queries.shape[1]} image placeholders (id {placeholder}), one for each query, "
                    f"or none; found {sorted(set(places.sum(dim=1).tolist()))}. Let the processor make the prompts."
                )
            embeds = words.masked_scatter(places.unsqueeze(-1), queries)
            in_front = False
        else:
            embeds = torch.cat([queries, words], dim=1)
            ones = attention_mask.new_ones(rows, queries.shape[1])
            attention_mask = torch.cat([ones.to(attention_mask.device), attention_mask], dim=1)
            in_front = True
        self._check_length(input_ids.shape[1], embeds.shape[1])
        return Prompt(embeds, attention_mask, input_ids, image_embeds, in_front)

    def _first_token(self, image_embeds: Tensor) -> Tensor:
        config = self.config.text_config
        token = config.eos_token_id if self.config.is_encoder_decoder else config.bos_token_id
        token = token[0] if isinstance(token, list) else token
        if token is None:
            raise ValueError("This language model has no first token of its own; give a prompt as input_ids.")
        return torch.full((image_embeds.shape[0], 1), token, device=image_embeds.device)

    def _check_length(self, prompt_length: int, length: int) -> None:
        limit = getattr(self.config.text_config, "max_position_embeddings", None)
        if limit is not None and length > limit:
            raise ValueError(
                f"The prompt has {prompt_length} tokens, {length} with the queries, but the language model knows "
                f"{limit} positions. Shorten the prompt, for instance with truncation=True and max_length in the "
                "processor."
            )

    @can_return_tuple
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
            pixel_values (`Tensor` of shape `(B, channels, height, width)`): images.
            input_ids (`Tensor` of shape `(R, T)`, *optional*): for a causal language model prompts with what follows
                them, for a sequence-to-sequence one the prompts.
            attention_mask (`Tensor` of shape `(R, T)`, *optional*): 1 for tokens.
            labels (`Tensor`, *optional*): what is to be learnt, -100 where nothing is: of shape `(R, T)` beside
                `input_ids` for a causal language model, `(R, U)` for a sequence-to-sequence one.
            decoder_input_ids, decoder_attention_mask (`Tensor` of shape `(R, U)`, *optional*): for a
                sequence-to-sequence language model; made of the labels by default.
            output_intermediates (`bool`, *optional*, defaults to `False`): also return what the language model got.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.
            token_type_ids: accepted for transformers' pipelines, without effect.
            kwargs: other options of the language model.

        Returns:
            [`LavisGenerationOutput`]: `logits` (R, Q + T, V) or (R, U, V); `image_embeds` (B, Q, D).
        """
        if pixel_values is None:
            raise ValueError("pixel_values are missing; the processor makes them from pictures.")
        prompt = self.build_prompt(pixel_values, input_ids, attention_mask, interpolate_pos_encoding)
        inputs = {"inputs_embeds": prompt.inputs_embeds, "attention_mask": prompt.attention_mask}
        loss = encoder_states = None
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
                    f"Got labels of shape {tuple(labels.shape)} for input_ids of shape {tuple(input_ids.shape)}; "
                    "a causal language model needs one label per token, -100 where nothing is to be learnt."
                )
            if labels is not None and prompt.in_front:
                unlabelled = labels.new_full((labels.shape[0], self.config.num_query_tokens), -100)
                labels = torch.cat([unlabelled, labels], dim=1)
            output = self.language_model(**inputs, **kwargs)
            if labels is not None:
                labels = labels.to(output.logits.device)
                loss = mean_over_tokens(next_token_loss(output.logits, labels, 0.0), labels)
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
            **returned(output.get(CACHE_NAME)),
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
        Generate text by the language model's own `generate`.

        Args:
            inputs (`Tensor` of shape `(B, C, H, W)`, *optional*): images; `pixel_values=` is the same.
            input_ids, attention_mask (`Tensor` of shape `(R, T)`, *optional*): prompts, padded on the left for a causal
                language model, as the processor does.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.
            generation_config (`GenerationConfig`, *optional*): in place of the model's own.
            kwargs: options of `generate`. Lengths of a causal language model count the prompt, but not the queries.

        Returns:
            ids that begin with the prompt (causal) or the decoder's first token, or what `return_dict_in_generate` asks
            for.
        """
        for name in _IGNORED_BY_GENERATE:
            kwargs.pop(name, None)
        pixel_values = pixel_values if inputs is None else inputs
        if pixel_values is None:
            raise ValueError("generate needs pixel_values; the processor makes them from pictures.")
        prompt = self.build_prompt(pixel_values, input_ids, attention_mask, interpolate_pos_encoding)
        kwargs["inputs_embeds"], kwargs["attention_mask"] = prompt.inputs_embeds, prompt.attention_mask
        config = copy.deepcopy(generation_config or self.generation_config)
        for length, new_tokens in _LENGTHS:  # a length that the call gives beats one that the repository brings
            if kwargs.get(length) is not None and kwargs.get(new_tokens) is None and generation_config is None:
                setattr(config, new_tokens, None)
        if not self.config.is_encoder_decoder:
            kwargs["input_ids"] = prompt.input_ids
            if prompt.in_front:
                # transformers would count the queries in these lengths, and not in others
                _count_new_tokens(config, kwargs, prompt.input_ids.shape[1])
        kwargs = config.update(**kwargs)
        if self.config.original_beam_scores:
            kwargs = with_original_beams(kwargs, config)
        _add_cache_of_deeper_decoder(self.language_model.config, config, kwargs)
        hook = getattr(self.language_model, "_hf_hook", None)
        if hook is not None:  # a model over several devices returns its logits where the ids are
            hook.io_same_device = True
        try:
            output = self.language_model.generate(generation_config=config, **kwargs)
        except IndexError as error:
            limit = getattr(self.config.text_config, "max_position_embeddings", None)
            if limit is None or self.config.is_encoder_decoder:
                raise
            raise ValueError(
                f"The text grew beyond the {limit} positions that the language model knows, "
                f"{prompt.inputs_embeds.shape[1]} of which queries and prompt take. Ask for fewer new tokens "
                "(max_new_tokens)."
            ) from error
        ends = config.eos_token_id
        if self.config.is_encoder_decoder and isinstance(ends, int) and config.pad_token_id is not None:
            output = pad_after_end(output, ends, config.pad_token_id)
        return output


def _count_new_tokens(config: Any, options: dict[str, Any], prompt_length: int) -> None:
    """Say lengths that count the prompt as numbers of new tokens, in place."""
    for length, new_tokens in _LENGTHS:
        given = options.pop(length, None)
        if given is None and options.get(new_tokens) is None and getattr(config, new_tokens) is None:
            given = getattr(config, length)
        setattr(config, length, None)
        if given is not None and options.get(new_tokens) is None:
            options[new_tokens] = max(given - prompt_length, 0 if length == "min_length" else 1)


def _add_cache_of_deeper_decoder(model_config: PreTrainedConfig, config: Any, options: dict[str, Any]) -> None:
    """
    Hand over a cache when the decoder is not as deep as the encoder, in place.

    transformers counts the layers of a cache by `num_hidden_layers`, which for T5 are those of the encoder.
    """
    depth = getattr(model_config, "num_decoder_layers", None)
    if depth in (None, model_config.num_hidden_layers) or config.use_cache is False or config.cache_implementation:
        return
    if all(options.get(name) is None for name in CACHE_NAMES):
        options[CACHE_NAME] = EncoderDecoderCache(DynamicCache(), DynamicCache())


__all__ = ["LavisBlip2ForConditionalGeneration", "Prompt", "build_language_model"]
