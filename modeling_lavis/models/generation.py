# SPDX-License-Identifier: Apache-2.0
"""transformers' `generate` for decoders that cross-attend to an image, or to an image-grounded question; and the
likelihood of texts that continue the prompts of a language model.

Shapes: B images, n beams or returned sequences per image, N encoder tokens, T prompt tokens, R prompts, A texts, U
tokens of a text, k candidates per prompt, c of them that run together, V vocabulary size, D hidden size.
"""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from .generation_options import (
    add_guidance,
    check_token_options,
    into_generation_config,
    original_beam_search,
    stated,
    with_one_form_of_lengths,
)
from .losses import at_least_float32
from .outputs import IGNORE_INDEX, RankedAnswers, vision_fields
from .task_base import ImageTextModel
from .transformers_compat import CACHE_NAME

# inputs with one row per sequence, which `generate` expands
_PER_SEQUENCE = ("decoder_attention_mask", "decoder_position_ids")
# inputs of the training loss that a Trainer passes along with the images
_TRAINING_INPUTS = ("labels", "image_ids", "return_loss", "answer_counts", "answer_weights", "token_type_ids")


class SharedCrossAttentionCache(EncoderDecoderCache):
    """
    A cache whose cross-attention keys and values keep one row per image.

    Beams are reordered only among the beams of their image, so the cross-attention part stays as it is.
    """

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the self-attention cache."""
        self.self_attention_cache.reorder_cache(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat the rows of the self-attention cache."""
        self.self_attention_cache.batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Select rows of the self-attention cache."""
        self.self_attention_cache.batch_select_indices(indices)


def shared_cross_attention_cache(config: Any) -> SharedCrossAttentionCache:
    """An empty cache for a decoder with the given configuration."""
    return SharedCrossAttentionCache(DynamicCache(config=config), DynamicCache(config=config))


def move_padding_to_left(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """
    Move padding, wherever it is, to the left; the order of the tokens is kept.

    Args:
        input_ids (`Tensor` of shape `(B, T)`): token ids.
        attention_mask (`Tensor` of shape `(B, T)`): 0 or `False` for padding.

    Returns:
        Ids and mask, `(B, T)` each.
    """
    order = attention_mask.to(torch.uint8).argsort(dim=1, stable=True)
    return input_ids.gather(1, order), attention_mask.gather(1, order)


def move_padding_to_right(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The same as [`move_padding_to_left`], to the right."""
    order = (~attention_mask.bool()).to(torch.uint8).argsort(dim=1, stable=True)
    return input_ids.gather(1, order), attention_mask.gather(1, order)


def text_positions(attention_mask: Tensor, num_prefix_tokens: int = 0) -> Tensor:
    """
    Positions of tokens, from 0 and without padding.

    Args:
        attention_mask (`Tensor` of shape `(B, T)`): 0 for padding.
        num_prefix_tokens (`int`, *optional*, defaults to 0): number of first columns that are not text.

    Returns:
        `Tensor` of shape `(B, T)`: 0 for the prefix and for padding before the text.
    """
    return (attention_mask.long().cumsum(dim=1) - 1 - num_prefix_tokens).clamp(min=0)


def as_prompt(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    start_token_id: int | list[int] | Tensor,
    end_token_id: int,
    pad_token_id: int,
) -> tuple[Tensor, Tensor | None]:
    """
    Turn tokenized texts into decoder prompts: start token first, no end token, left padding.

    Args:
        input_ids (`Tensor` of shape `(B, T)`): texts as a tokenizer returns them, padded on either side.
        attention_mask (`Tensor` of shape `(B, T)`, *optional*): 0 for padding; pad tokens are padding in any case.
        start_token_id (`int`, or one for each text): the first token.
        end_token_id, pad_token_id (`int`): other special tokens.

    Returns:
        Ids `(B, T')` and their mask, which is `None` without padding.
    """
    keep = (input_ids != pad_token_id) & (input_ids != end_token_id)
    if attention_mask is not None:
        keep = keep & attention_mask.bool()
    # an empty prompt consists of the start token
    empty = ~keep.any(dim=1)
    keep[:, 0] |= empty
    ids, mask = move_padding_to_left(input_ids, keep)
    length = int(keep.sum(dim=1).max())
    ids, mask = ids[:, -length:], mask[:, -length:]
    ids = ids.masked_fill(~mask, pad_token_id)
    first = mask & (mask.cumsum(dim=1) == 1)
    start = torch.as_tensor(start_token_id, dtype=ids.dtype, device=ids.device).reshape(-1, 1)
    ids = torch.where(first, start, ids)
    return ids, None if bool(mask.all()) else mask.to(input_ids.dtype)


def mask_targets(
    input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor | None, start_token_id: int | None = None
) -> Tensor | None:
    """
    Mask the tokens of training texts that `labels` mark as targets, so that the prompt is left.

    Args:
        input_ids (`Tensor` of shape `(B, T)`): prompts followed by targets.
        attention_mask (`Tensor` of shape `(B, T)`, *optional*): 0 for padding.
        labels (`Tensor`, *optional*): the same ids with -100 at positions that the loss ignores. Labels of another
            shape or with other ids, such as captions beside their prompts, belong to another text and mask nothing.
        start_token_id (`int`, *optional*): the first token of each text is not a target if it has this id; by default,
            whatever its id is.

    Returns:
        The mask `(B, T)`, 0 for padding and targets; `attention_mask` itself if there is no target.
    """
    if labels is None or labels.shape != input_ids.shape:
        return attention_mask
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    targets = labels != IGNORE_INDEX
    if start_token_id is None:
        start = (mask != 0) & (mask.cumsum(dim=1) == 1)
    else:
        start = targets & (targets.cumsum(dim=1) == 1) & (input_ids == start_token_id)
    targets = targets & ~start
    if not bool(targets.any()) or bool((targets & (labels != input_ids)).any()):
        return attention_mask
    return mask.masked_fill(targets, 0)


def images_for_decoder(
    model: ImageTextModel,
    pixel_values: Tensor | None,
    encoder_outputs: BaseModelOutput | None,
    interpolate_pos_encoding: bool,
    **kwargs: Any,
) -> tuple[Tensor, dict[str, Any]]:
    """Image hidden states `(B, N, D)` that captions attend to, given or computed, and what `kwargs` ask to record."""
    if encoder_outputs is not None:
        return encoder_outputs[0], {}
    if pixel_values is None:
        raise ValueError("The decoder needs pixel_values, or encoder_outputs computed from them.")
    vision = model.image_encoder_outputs(pixel_values, interpolate_pos_encoding, **kwargs)
    return vision.last_hidden_state, vision_fields(vision)


def pad_after_end(
    output: Any, end_token_id: int | list[int] | Tensor, pad_token_id: int, prompt_length: int = 1
) -> Any:
    """
    Replace tokens after the end token by padding. transformers' beam search fills up with end tokens where the pad
    token is 0.

    Args:
        output (`Tensor` of shape `(B, T)`, or an output with `sequences`): token ids.
        end_token_id (`int`, or several): end tokens.
        pad_token_id (`int`): padding.
        prompt_length (`int`, *optional*, defaults to 1): number of tokens that nothing ends: those of the prompt, and
            the start token, which is BART's end token.

    Returns:
        The same as `output`.
    """
    sequences = output if isinstance(output, Tensor) else output.sequences
    ends = torch.isin(sequences, torch.as_tensor(end_token_id, device=sequences.device))
    ends[:, :prompt_length] = False
    ended = ends.cumsum(dim=1)
    after = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], dim=1) > 0
    sequences = sequences.masked_fill(after, pad_token_id)
    if isinstance(output, Tensor):
        return sequences
    output.sequences = sequences
    return output


if TYPE_CHECKING:

    class _GenerativeModel(ImageTextModel, Protocol):
        """What the mixin needs from the head and its other bases."""

        text_decoder: Any
        generation_config: GenerationConfig
else:
    _GenerativeModel = object


class GroundedGenerationMixin(GenerationMixin, _GenerativeModel):
    """
    Text generation from images by transformers' `generate`, for heads whose `forward` takes `decoder_input_ids` and
    `encoder_outputs`.

    Encoder hidden states keep one row per image through beams and returned sequences, and their keys and values are
    computed once. By default `input_ids` are prompts; question answering overrides `generate` to encode questions.
    """

    #: number of cache entries before the prompt that are not text
    num_prefix_tokens = 0
    #: length of texts for calls and configurations that state none, as published for captions
    default_max_new_tokens = 30
    # `generate` passes what it knows of the encoder to every decoder
    passed_on_options: tuple[str, ...] = ("encoder_attention_mask",)

    @classmethod
    def can_generate(cls) -> bool:
        """`True`; transformers' own check needs `GenerationMixin` among the direct bases."""
        return True

    def get_output_embeddings(self) -> nn.Module:
        """The language modeling head of the decoder."""
        return self.text_decoder.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the language modeling head of the decoder."""
        self.text_decoder.set_output_embeddings(value)

    @torch.no_grad()
    def generate(
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
        Generate captions by transformers' `generate`.

        Args:
            inputs (`Tensor` of shape `(batch_size, num_channels, height, width)`, *optional*): images, the same as
                `pixel_values`.
            input_ids (`Tensor` of shape `(batch_size, sequence_length)`, *optional*): prompts as the tokenizer or the
                processor returns them, one or several for each image, in the images' order. The first token is replaced
                by the decoder's start token, an end token is removed, and padding is moved to the left.
            attention_mask (`Tensor` of shape `(batch_size, sequence_length)`, *optional*): 1 for prompt tokens.
            pixel_values (`Tensor` of shape `(batch_size, num_channels, height, width)`, *optional*): images.
            encoder_outputs (`BaseModelOutput`, *optional*): hidden states from `encode_images` instead of images.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): accept images of another size by
                interpolating the position embeddings.
            kwargs: options of transformers' `generate`. Lengths include the prompt; a length of the call replaces that
                of the model's configuration. `bos_token_id` is another name of `decoder_start_token_id`.
                `guidance_scale` compares with a blank image, see [`ImageGuidance`]. A batch for training can be passed
                as it is: the tokens of `input_ids` that `labels` mark as targets are left out, all of them with
                `return_loss=True`, and other inputs of the training loss are ignored.

        Returns:
            Token ids that begin with the prompt, or an output object with `return_dict_in_generate=True`.

        Raises:
            ValueError: There are no images, a token id is not in the vocabulary, or an option is not supported.
        """
        kwargs = self._checked_options(kwargs)
        encode_blank = None
        labels, return_loss = kwargs.pop("labels", None), kwargs.pop("return_loss", None)
        if encoder_outputs is None:
            pixel_values = pixel_values if inputs is None else inputs
            if pixel_values is None:
                raise ValueError("generate needs pixel_values; the processor makes them from images.")
            states = self.encode_images(pixel_values, interpolate_pos_encoding)
            encoder_outputs = BaseModelOutput(last_hidden_state=states)
            blank_image = torch.zeros_like(pixel_values)  # normalized, so zero is the mean color

            def encode_blank() -> Tensor:
                return self.encode_images(blank_image, interpolate_pos_encoding)

        if input_ids is None:
            input_ids = kwargs.pop("decoder_input_ids", None)
            attention_mask = kwargs.pop("decoder_attention_mask", attention_mask)
        if return_loss and labels is None:
            input_ids = None  # the whole texts are targets
        if input_ids is not None and input_ids.shape[1]:
            config = self.config
            attention_mask = mask_targets(input_ids, attention_mask, labels)
            start = stated(kwargs, None, "decoder_start_token_id")
            input_ids, mask = as_prompt(
                input_ids,
                attention_mask,
                config.bos_token_id if start is None else start,
                config.eos_token_id,
                config.pad_token_id,
            )
            kwargs["decoder_input_ids"] = input_ids
            if mask is not None:
                kwargs["decoder_attention_mask"] = F.pad(mask, (self.num_prefix_tokens, 0), value=1)
            encoder_outputs = self._one_for_each_prompt(encoder_outputs, input_ids.shape[0])
        return self.generate_from_encoder_outputs(encoder_outputs, encode_blank, **kwargs)

    def _one_for_each_prompt(self, encoder_outputs: BaseModelOutput, prompts: int) -> BaseModelOutput:
        """Hidden states of images, repeated if each has several prompts; prompts of a single image can share them."""
        states = encoder_outputs[0]
        images = states.shape[0]
        if prompts % images:
            raise ValueError(
                f"Got {prompts} prompts for {images} images; pass the same number for each image, in the images' order."
            )
        if prompts == images or (images == 1 and not self.num_prefix_tokens):
            return encoder_outputs
        return BaseModelOutput(last_hidden_state=states.repeat_interleave(prompts // images, dim=0))

    def _checked_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options of `generate` with checked token ids, and `bos_token_id` as `decoder_start_token_id`."""
        check_token_options(options, self.generation_config, self.config.get_text_config(decoder=True).vocab_size)
        if options.get("bos_token_id") is not None and options.get("decoder_start_token_id") is None:
            options = {**options, "decoder_start_token_id": options["bos_token_id"]}
        return options

    def generate_from_encoder_outputs(
        self, encoder_outputs: BaseModelOutput, encode_blank: Callable[[], Tensor] | None = None, **kwargs: Any
    ) -> Any:
        """
        transformers' `generate` from encoder hidden states, which it would otherwise repeat for each beam.

        Args:
            encoder_outputs (`BaseModelOutput`): hidden states.
            encode_blank (`Callable`, *optional*): function that returns those for blank images, for guidance.
            kwargs: options of transformers' `generate`.
        """
        for name in _TRAINING_INPUTS:
            kwargs.pop(name, None)
        default, given = self.generation_config, frozenset(kwargs)
        prompt: Tensor | None = kwargs.get("decoder_input_ids")
        prompt_length = 1 if prompt is None else prompt.shape[1]
        kwargs = with_one_form_of_lengths(kwargs, default, prompt_length, self.default_max_new_tokens)
        make_logits = None if encode_blank is None else lambda: self._logits_from(encode_blank(), kwargs)
        kwargs = add_guidance(kwargs, default, make_logits)
        ends, pad = (stated(kwargs, default, f"{name}_token_id") for name in ("eos", "pad"))
        kwargs = into_generation_config(kwargs, given)
        output = GenerationMixin.generate(self, encoder_outputs=encoder_outputs, **kwargs)
        if ends is None:
            return output
        return pad_after_end(output, ends, self.config.pad_token_id if pad is None else int(pad), prompt_length)

    def _logits_from(self, states: Tensor, options: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
        """Function from token ids `(rows, T)` to the logits `(rows, V)` of the next token, given encoder states."""
        encoder_outputs = BaseModelOutput(last_hidden_state=states)
        prompt_mask: Tensor | None = options.get("decoder_attention_mask")
        inputs = {name: options[name] for name in ("encoder_attention_mask",) if options.get(name) is not None}

        def next_token_logits(input_ids: Tensor) -> Tensor:
            masks = {}
            if prompt_mask is not None:
                mask = prompt_mask.repeat_interleave(input_ids.shape[0] // prompt_mask.shape[0], dim=0)
                new_tokens = input_ids.shape[1] + self.num_prefix_tokens - mask.shape[1]
                mask = F.pad(mask, (0, new_tokens), value=1)
                positions = text_positions(mask, self.num_prefix_tokens)[:, -input_ids.shape[1] :]
                masks = {"decoder_attention_mask": mask, "decoder_position_ids": positions}
            output = self(
                decoder_input_ids=input_ids, encoder_outputs=encoder_outputs, logits_to_keep=1, **masks, **inputs
            )
            return output.logits[:, -1]

        return next_token_logits

    # ---- hooks of transformers' generate ----

    def _beam_search(self, *args: Any, **kwargs: Any) -> Any:
        if self.config.original_beam_scores:
            return original_beam_search(self, *args, **kwargs)
        return super()._beam_search(*args, **kwargs)

    @staticmethod
    def _expand_inputs_for_generation(
        expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **model_kwargs: Any
    ) -> tuple[Tensor | None, dict[str, Any]]:
        if expand_size > 1:
            if input_ids is not None:
                input_ids = input_ids.repeat_interleave(expand_size, dim=0)
            for name in _PER_SEQUENCE:
                if model_kwargs.get(name) is not None:
                    model_kwargs[name] = model_kwargs[name].repeat_interleave(expand_size, dim=0)
        return input_ids, model_kwargs

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        result = super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        cache: Any = model_kwargs.get(CACHE_NAME)
        if type(cache) is EncoderDecoderCache:
            model_kwargs[CACHE_NAME] = SharedCrossAttentionCache(
                cache.self_attention_cache, cache.cross_attention_cache
            )
        return result

    def _prefill(
        self,
        input_ids: Tensor,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Run each prompt once: beams and returned sequences start with the same prompt, so its cache is repeated."""
        copies = max(generation_config.num_beams or 1, generation_config.num_return_sequences or 1)
        cache: Any = model_kwargs.get(CACHE_NAME)
        can_share = (
            copies > 1
            and input_ids.shape[0] % copies == 0
            and isinstance(cache, SharedCrossAttentionCache)
            and isinstance(cache.self_attention_cache, DynamicCache)
            and cache.get_seq_length() == 0
            and not (generation_config.output_attentions or generation_config.output_hidden_states)
        )
        if not can_share:
            return super()._prefill(input_ids, generation_config, model_kwargs, *args, **kwargs)
        once = dict(model_kwargs)
        for name in _PER_SEQUENCE:
            if once.get(name) is not None:
                once[name] = once[name][::copies]
        output = super()._prefill(input_ids[::copies], generation_config, once, *args, **kwargs)
        cache.batch_repeat_interleave(copies)
        output.logits = output.logits.repeat_interleave(copies, dim=0)
        return output

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, next_sequence_length: int | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """
        Inputs of one decoding step; positions of left-padded prompts start at their first token, and do not count what
        is before the text.
        """
        kwargs.pop("tokenizer", None)  # of stop strings; transformers passes it on to the model
        mask = kwargs.get("decoder_attention_mask")
        if mask is not None and mask.ndim == 2:
            length = next_sequence_length or input_ids.shape[1]
            kwargs["decoder_position_ids"] = text_positions(mask, self.num_prefix_tokens)[:, -length:]
        return super().prepare_inputs_for_generation(input_ids, next_sequence_length=next_sequence_length, **kwargs)


# ---- ranking texts that continue the prompts of a language model ----


def rank_continuations(
    prompts: "CausalPrompts | EncodedPrompts",
    answers: Tensor,
    lengths: Tensor,
    num_candidates: int,
    chunk_size: int,
    mean: bool,
) -> RankedAnswers:
    """
    Rank texts by the log-likelihood that a language model gives to them after each prompt.

    Args:
        prompts ([`CausalPrompts`] or [`EncodedPrompts`]): R prompts.
        answers (`Tensor` of shape `(A, U)`): token ids of the texts, padded on the right.
        lengths (`Tensor` of shape `(A,)`): number of tokens of each text, at least 1.
        num_candidates (`int`): number of texts per prompt that are scored, those with the most likely first token.
        chunk_size (`int`): pairs of a prompt and a text that run at once, at least one text of every prompt.
        mean (`bool`): whether log-likelihoods are divided by the number of tokens.

    Returns:
        [`RankedAnswers`]: best first, `(R, k)`.
    """
    rows = prompts.logits.shape[0]
    first = _log_probabilities(prompts.logits)[:, answers[:, 0]]  # (R, A)
    candidates = first.argsort(dim=1, descending=True, stable=True)[:, :num_candidates]  # (R, k)
    if candidates.shape[1] == answers.shape[0]:  # the same for all questions, so that equal lengths run together
        candidates = torch.arange(answers.shape[0], device=answers.device).expand(rows, -1)
    # answers of similar lengths run together, because padding costs as much as tokens
    candidates = candidates.gather(1, lengths[candidates].argsort(dim=1, stable=True))
    scores = first.gather(1, candidates)
    rest = []
    for chunk in candidates.split(max(1, chunk_size // rows), dim=1):  # (R, c)
        tokens = answers[chunk.flatten()][:, : int(lengths[chunk].max())]  # (R * c, longest)
        likelihoods = scores.new_zeros(tokens.shape[0])
        if tokens.shape[1] > 1:
            logits = prompts.logits_after(tokens[:, :-1], chunk.shape[1])
            targets = tokens[:, 1:]
            of_tokens = _log_probabilities(logits).gather(2, targets[..., None]).squeeze(2)
            places = torch.arange(1, tokens.shape[1], device=tokens.device)
            is_padding = places >= lengths[chunk.flatten()][:, None]
            likelihoods = of_tokens.masked_fill(is_padding, 0.0).sum(dim=1)
        rest.append(likelihoods.view(rows, -1))
    scores = scores + torch.cat(rest, dim=1)
    if mean:
        scores = scores / lengths[candidates]
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    candidates = candidates.gather(1, order)
    return RankedAnswers(best=candidates[:, 0], candidates=candidates, scores=scores)


def _log_probabilities(logits: Tensor) -> Tensor:
    """Logarithms of the probabilities of the last dimension, at least in float32."""
    return at_least_float32(logits).log_softmax(dim=-1)


class CausalPrompts:
    """
    Prompts after one pass through a causal language model.

    Padding comes first, also before what is not text, so that distances between tokens are those without padding.

    Args:
        model (`PreTrainedModel`): the language model.
        inputs_embeds (`Tensor` of shape `(R, T, D)`): embeddings of the prompts.
        attention_mask (`Tensor` of shape `(R, T)`): 0 for padding, wherever it is.

    Attributes:
        logits (`Tensor` of shape `(R, V)`): logits of the token after each prompt.
        lengths (`Tensor` of shape `(R,)`): number of tokens of each prompt.
    """

    def __init__(self, model: PreTrainedModel, inputs_embeds: Tensor, attention_mask: Tensor) -> None:
        self.model = model
        parameters = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in parameters
        is_token = attention_mask.bool()
        self.lengths = is_token.sum(dim=1)
        first = is_token.shape[1] - int(self.lengths.max())
        order = is_token.to(torch.uint8).argsort(dim=1, stable=True)[:, first:]
        self.mask = attention_mask.gather(1, order)
        self.embeds = inputs_embeds.gather(1, order[..., None].expand(-1, -1, inputs_embeds.shape[2]))
        self.cache: Any = None
        if _continues_exactly(DynamicCache(config=model.config), model.config):
            last = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
            inputs = {"inputs_embeds": self.embeds, "attention_mask": self.mask, **self._positions(self.mask), **last}
            output = model(**inputs, use_cache=True)
            self.cache = output.get(CACHE_NAME)
            self.logits = output.logits[:, -1]
        # with recomputing in the backward pass, models return no cache
        if not (type(self.cache) is DynamicCache and _continues_exactly(self.cache, model.config)):
            self.cache = None
            nothing = self.lengths.new_empty(len(self.lengths), 0)
            self.logits = self._logits_from_start(nothing, 1)[:, 0]

    def logits_after(self, tokens: Tensor, copies: int) -> Tensor:
        """
        Continue each prompt by several texts.

        Args:
            tokens (`Tensor` of shape `(R * copies, U)`): token ids of the texts, `copies` for each prompt.
            copies (`int`): number of texts for each prompt.

        Returns:
            `Tensor` of shape `(R * copies, U, V)`: logits of the token after each of the tokens.
        """
        if self.cache is None:
            return self._logits_from_start(tokens, copies)[:, 1:]
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(copies)
        mask = F.pad(self.mask.repeat_interleave(copies, dim=0), (0, tokens.shape[1]), value=1)
        inputs = {"attention_mask": mask, **self._positions(mask, tokens.shape[1]), CACHE_NAME: cache}
        return self.model(input_ids=tokens, use_cache=True, **inputs).logits

    def _logits_from_start(self, tokens: Tensor, copies: int) -> Tensor:
        """
        Logits `(R * copies, 1 + U, V)` after the prompts and after each of the tokens, without a cache. Prompts of one
        length run together, without padding, which recurrent layers would read.
        """
        parts, places = [], []
        new_embeds = self.model.get_input_embeddings()(tokens).to(self.embeds.dtype)
        lengths = self.lengths.repeat_interleave(copies)
        for length in self.lengths.unique().tolist():
            rows = (lengths == length).nonzero().flatten()
            embeds = torch.cat([self.embeds[rows // copies, -length:], new_embeds[rows]], dim=1)
            mask = self.mask.new_ones(embeds.shape[:2])
            output = self.model(inputs_embeds=embeds, attention_mask=mask, use_cache=False, **self._positions(mask))
            parts.append(output.logits[:, length - 1 :])
            places.append(rows)
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _positions(self, mask: Tensor, count: int | None = None) -> dict[str, Tensor]:
        """Positions of the last `count` tokens (all by default), counted without padding, if the model takes them."""
        if not self.takes_positions:
            return {}
        positions = text_positions(mask)
        return {"position_ids": positions if count is None else positions[:, -count:]}


class EncodedPrompts:
    """
    Prompts after one pass through the encoder of a sequence-to-sequence language model, whose decoder writes the texts
    and has the keys and values of each prompt once; see [`CausalPrompts`].
    """

    def __init__(self, model: PreTrainedModel, inputs_embeds: Tensor, attention_mask: Tensor) -> None:
        self.model = model
        self.mask = attention_mask
        self.lengths = attention_mask.bool().sum(dim=1)
        encoded = model.get_encoder()(inputs_embeds=inputs_embeds, attention_mask=attention_mask)
        self.states = encoded.last_hidden_state
        config: Any = model.config.get_text_config(decoder=True)
        names = ("decoder_start_token_id", "bos_token_id")
        given = [getattr(source, name, None) for name in names for source in (model.generation_config, config)]
        start = next((token for token in given if token is not None), 0)
        self.start = torch.full((len(self.lengths), 1), start, dtype=torch.long, device=self.lengths.device)
        # Without a configuration, whose number of layers may be the encoder's, a cache keeps all keys.
        output = self._decode(self.start, 1, EncoderDecoderCache(DynamicCache(), DynamicCache()))
        self.logits = output.logits[:, -1]
        cache: Any = output.get(CACHE_NAME)
        parts = [] if cache is None else [cache.self_attention_cache, cache.cross_attention_cache]
        self.cache: Any = cache if parts and all(_continues_exactly(part, config) for part in parts) else None

    def logits_after(self, tokens: Tensor, copies: int) -> Tensor:
        """Start `copies` texts for each prompt, see [`CausalPrompts.logits_after`]."""
        if self.cache is None:
            tokens = torch.cat([self.start.repeat_interleave(copies, dim=0), tokens], dim=1)
            return self._decode(tokens, copies).logits[:, 1:]
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(copies)
        return self._decode(tokens, copies, cache).logits

    def _decode(self, tokens: Tensor, copies: int, cache: EncoderDecoderCache | None = None) -> Any:
        states = BaseModelOutput(last_hidden_state=self.states.repeat_interleave(copies, dim=0))
        mask = self.mask.repeat_interleave(copies, dim=0)
        caching: dict[str, Any] = {"use_cache": cache is not None, CACHE_NAME: cache}
        return self.model(encoder_outputs=states, attention_mask=mask, decoder_input_ids=tokens, **caching)


def _continues_exactly(cache: DynamicCache, config: PreTrainedConfig) -> bool:
    """
    Whether several tokens that continue a cache give the logits that the whole text gives: a cache of keys and values
    does, one of recurrent states, or of attention in chunks, does not always.
    """
    kinds = set(getattr(config.get_text_config(decoder=True), "layer_types", None) or ())
    return kinds <= {"full_attention", "sliding_attention"} and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )


__all__ = [
    "CausalPrompts",
    "EncodedPrompts",
    "GroundedGenerationMixin",
    "SharedCrossAttentionCache",
    "as_prompt",
    "images_for_decoder",
    "mask_targets",
    "move_padding_to_left",
    "move_padding_to_right",
    "pad_after_end",
    "rank_continuations",
    "shared_cross_attention_cache",
    "text_positions",
]
