# SPDX-License-Identifier: Apache-2.0
"""Processor of BLIP-2.

Models without a language model use BERT's vocabulary and `[DEC]`; their texts have the formats of the other families,
`[CLS] text [SEP]` or, as a prompt, `[DEC] text`. With a language model, its own tokenizer is used:

* causal: the prompt with the special tokens that the tokenizer prepends, padded on the left; captions and answers end
  with a newline;
* sequence-to-sequence: the prompt and its end token, padded on the right.

The model prepends the query tokens to the prompt. Prompts of repositories in transformers' format contain placeholders
for them instead, which the processor inserts if `num_query_tokens` is set.

Shapes: B batch size, T text tokens, U target tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.image_processing_base import BatchFeature

from .processing_image_text import PromptProcessorMixin, mask_labels
from .processing_lavis import generated_rows, list_of_texts, pad_rows, padded_length, to_batch
from .tokenization_lavis import add_blip_tokens, bert_tokenizer

QUESTION_TEMPLATE = "Question: {} Short answer:"
_LANGUAGE_MODEL_KINDS = ("causal", "seq2seq")
_SEQ2SEQ_MODEL_TYPES = ("t5", "mt5", "umt5", "bart", "mbart", "pegasus", "longt5", "switch_transformers")
_IMAGE_TOKEN = "<image>"


class LavisBlip2Processor(PromptProcessorMixin):
    """
    Processor of all BLIP-2 models ([Li et al., 2023](https://arxiv.org/abs/2301.12597)).

    Args:
        image_processor (`LavisImageProcessor` or `LavisImageProcessorTorchvision`): exact or faster image processor.
        tokenizer (`PreTrainedTokenizerBase`):
            tokenizer of the language model; without one, a BERT tokenizer, to which `[DEC]` is added in-place.
        language_model (`str`, *optional*): `"causal"`, `"seq2seq"`, or `None` for models without a language model.
        prompt (`str`, *optional*, defaults to `""`):
            start of every caption, `"a photo of"` for the published captioning models.
        question_template (`str`, *optional*, defaults to `"Question: {} Short answer:"`):
            prompt for questions, with one `"{}"` for the question.
        max_text_length (`int`, *optional*, defaults to 32):
            maximum number of tokens of a text, special tokens included; `None` uses the limit of the tokenizer. Prompts
            are truncated only to a `max_length` that the call gives.
        max_words (`int`, *optional*, defaults to 50): maximum number of words of a cleaned text; `None` keeps all.
        cleaning (`str`, *optional*, defaults to `"caption"`):
            `"caption"`, `"question"` or `None`: how texts are cleaned before tokenization. Prompts are never cleaned.
        text_format (`str`, *optional*):
            `"encoder"` or `"prompt"`: format of the `text` of a call. Defaults to `"prompt"` if there is a language
            model or a prompt, else `"encoder"`.
        num_query_tokens (`int`, *optional*):
            number of placeholders to insert before every prompt; `None` for models that prepend the query tokens.

    Raises:
        ValueError: an option has an unsupported value.
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        language_model: str | None = None,
        prompt: str = "",
        question_template: str = QUESTION_TEMPLATE,
        max_text_length: int | None = 32,
        max_words: int | None = 50,
        cleaning: str | None = "caption",
        text_format: str | None = None,
        num_query_tokens: int | None = None,
    ) -> None:
        if language_model not in (None, *_LANGUAGE_MODEL_KINDS):
            raise ValueError(f"language_model is {language_model!r}; expected one of {_LANGUAGE_MODEL_KINDS}, or None.")
        if not isinstance(question_template, str) or question_template.count("{}") != 1:
            raise ValueError(f"question_template is {question_template!r}; expected a string with one '{{}}'.")
        super().__init__(image_processor, tokenizer)
        self.language_model = language_model
        self.question_template = question_template
        self.num_query_tokens = num_query_tokens
        self.set_text_options(prompt, max_text_length, max_words, cleaning, text_format)
        if language_model is None:
            add_blip_tokens(self.tokenizer, enc_token=False)
        elif self.tokenizer.pad_token_id is None:
            # Padding is masked, so any token works.
            self.tokenizer.pad_token = self.tokenizer.eos_token

    @property
    def bos_token_id(self) -> int:
        """Id of `[DEC]`, which starts captions of the Q-Former. Only without a language model."""
        return self.tokenizer.bos_token_id

    @property
    def newline_token_id(self) -> int:
        """Id of the newline, which ends captions and answers of a causal language model."""
        return self.tokenizer("\n", add_special_tokens=False)["input_ids"][0]

    @property
    def requires_prompt(self) -> bool:
        """Whether the model needs a prompt with every image, even an empty one: every language model does."""
        return self.language_model is not None

    # ---- prompts ----

    def prompt_inputs(
        self, prompt: str | Sequence[str] | None = None, return_tensors: Any = "pt", **kwargs: Any
    ) -> BatchFeature:
        """
        Tokenize prompts for `generate`.

        Args:
            prompt (`str` or `Sequence[str]`, *optional*, defaults to the processor's `prompt`):
                one prompt, or one per image; prompts are not cleaned.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"`, `"np"`, or `None` for lists.
            kwargs: options of the tokenizer (`padding`, `max_length`, `truncation`, ...). Prompts are truncated only to
                a `max_length` given here, not to `max_text_length`.

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask` of shape `(B, T)`, padded on the left, for
            sequence-to-sequence models on the right. Without a language model, prompts start with `[DEC]` and have no
            final `[SEP]`.

        Raises:
            ValueError: a prompt is not a string.
        """
        if self.language_model is None:
            return super().prompt_inputs(prompt, return_tensors, **kwargs)
        prompts = list_of_texts(self.prompt if prompt is None else prompt, "prompt")
        max_length, truncation = kwargs.pop("max_length", None), kwargs.pop("truncation", True)
        padding_side = "right" if self.language_model == "seq2seq" else "left"
        rows = self._tokenize_for_language_model(prompts, max_length if truncation else None, padding_side, kwargs)
        return to_batch(rows, return_tensors)

    def question_inputs(
        self, questions: str | Sequence[str], template: str | None = None, return_tensors: Any = "pt", **kwargs: Any
    ) -> BatchFeature:
        """
        Tokenize questions for `generate`; see [`prompt_inputs`].

        Args:
            questions (`str` or `Sequence[str]`): one question, or one per image.
            template (`str`, *optional*, defaults to the processor's `question_template`): prompt with one `"{}"`.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"`, `"np"`, or `None` for lists.
            kwargs: options of the tokenizer (`padding`, `max_length`, `truncation`, ...).

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask` of shape `(B, T)`.

        Raises:
            ValueError: a question is not a string.
        """
        return self.prompt_inputs(self.question_prompts(questions, template), return_tensors, **kwargs)

    def question_prompts(self, questions: str | Sequence[str], template: str | None = None) -> list[str]:
        """
        Insert questions into the template.

        Args:
            questions (`str` or `Sequence[str]`): one question or several.
            template (`str`, *optional*, defaults to the processor's `question_template`): prompt with one `"{}"`.

        Returns:
            `list[str]`: one prompt per question.

        Raises:
            ValueError: a question is not a string.
        """
        template = self.question_template if template is None else template
        return [template.replace("{}", question) for question in list_of_texts(questions, "questions")]

    def caption_labels(
        self,
        captions: str | Sequence[str],
        return_tensors: Any = "pt",
        add_prompt: bool = True,
        cleaning: str | None = "own",
        prompt: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Inputs and labels for training on captions or answers.

        Args:
            captions (`str` or `Sequence[str]`): one caption or answer per image, without the prompt.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"`, `"np"`, or `None` for lists.
            add_prompt (`bool`, *optional*, defaults to `True`):
                whether to prepend the prompt; `False` for captions that already start with it. Ignored by
                sequence-to-sequence models, which get prompts and captions separately.
            cleaning (`str`, *optional*, defaults to the processor's `cleaning`): `"caption"`, `"question"` or `None`.
            prompt (`str` or `Sequence[str]`, *optional*, defaults to the processor's `prompt`):
                one prompt, or one per caption; only with a language model.
            kwargs: options of the tokenizer (`padding`, `max_length`, ...). Texts are truncated to `max_text_length` by
                default.

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask` of shape `(B, T)`, and `labels`. For causal language
            models and the Q-Former, `labels` has shape `(B, T)`, -100 for the prompt and the padding. For
            sequence-to-sequence models, the inputs are the prompts, and `labels` and `decoder_attention_mask`, of shape
            `(B, U)`, are the captions, -100 for padding.

        Raises:
            ValueError: the numbers of prompts and captions differ, or a prompt is given without a language model.
        """
        if self.language_model is None:
            if prompt is not None:
                raise ValueError(
                    f"Got prompt={prompt!r}, but without a language model the processor's own prompt is used; give none"
                    " here."
                )
            return super().caption_labels(captions, return_tensors, add_prompt, cleaning, **kwargs)
        texts = self.clean(captions, cleaning)
        prompts = list_of_texts(self.prompt if prompt is None else prompt, "prompt")
        prompts = prompts * len(texts) if len(prompts) == 1 else prompts
        if len(prompts) != len(texts):
            raise ValueError(f"{len(prompts)} prompts do not fit {len(texts)} captions; give one, or one per caption.")
        max_length = kwargs.pop("max_length", self.max_text_length)
        if self.language_model == "seq2seq":
            rows = self._tokenize_for_language_model(prompts, max_length, "right", kwargs)
            targets = self._tokenize_for_language_model(texts, max_length, "right", kwargs)
            rows["labels"] = mask_labels(targets["input_ids"], targets["attention_mask"])
            rows["decoder_attention_mask"] = targets["attention_mask"]
            return to_batch(rows, return_tensors)
        prompted = [
            f"{start.rstrip()} {text}\n" if add_prompt and start else f"{text}\n"
            for start, text in zip(prompts, texts, strict=True)
        ]
        rows = self._tokenize_for_language_model(prompted, max_length, "right", kwargs)
        # parity: the bos token of the tokenizer counts as part of the prompt, and is not ignored if there is no prompt
        prompt_lengths = [len(self.tokenizer(start)["input_ids"]) if start else 0 for start in prompts]
        rows["labels"] = mask_labels(rows["input_ids"], rows["attention_mask"], prompt_lengths)
        return to_batch(rows, return_tensors)

    def _tokenize_for_language_model(
        self, texts: list[str], max_length: int | None, padding_side: str, text_kwargs: Mapping[str, Any]
    ) -> dict[str, list[list[int]]]:
        """Tokenize, truncate to `max_length` unless it is `None`, pad, and insert the placeholders of the queries."""
        options = dict(text_kwargs)
        padding, multiple = options.pop("padding", True), options.pop("pad_to_multiple_of", None)
        options.pop("padding_side", None)
        options.pop("truncation", None)
        if max_length is not None:
            options = {"truncation": True, "max_length": max_length, **options}
        token_ids = self._tokenize(texts, options)["input_ids"]
        length = padded_length(token_ids, padding, max_length, multiple)
        rows = pad_rows(token_ids, length, self.pad_token_id or 0, padding_side)
        num_placeholders = self.num_query_tokens or 0
        placeholders = [self.image_token_id or 0] * num_placeholders
        rows["input_ids"] = [placeholders + row for row in rows["input_ids"]]
        rows["attention_mask"] = [[1] * num_placeholders + row for row in rows["attention_mask"]]
        return rows

    @property
    def image_token_id(self) -> int | None:
        """Id of the placeholder of a query token; `None` if the tokenizer has none."""
        token = self.tokenizer.convert_tokens_to_ids(_IMAGE_TOKEN)
        return None if token == self.tokenizer.unk_token_id else token

    # ---- post-processing ----

    def post_process_captions(
        self, outputs: Any, prompt: str | Sequence[str] | None = None, cut: str = "prompt"
    ) -> list[str]:
        """
        Decode generated captions and remove the prompt.

        Args:
            outputs (`torch.Tensor` of shape `(B, T)`, or `ModelOutput`): token ids, or the output of `generate`.
            prompt (`str` or `Sequence[str]`, *optional*, defaults to the processor's `prompt`):
                the prompt that `generate` got, or one per input. Several returned sequences per input share its prompt.
            cut (`str`, *optional*, defaults to `"prompt"`):
                only without a language model, see [`LavisBlipProcessor`]: `"prompt"` or `"characters"`.

        Returns:
            `list[str]`: one caption per sequence.

        Raises:
            ValueError: the number of sequences is not a multiple of the number of prompts, or `cut` is unknown.
        """
        if self.language_model is None:
            return super().post_process_captions(outputs, prompt, cut)
        if self.language_model == "seq2seq":
            # parity: the original strips the output of causal language models only
            return self._decode(outputs)
        rows = generated_rows(outputs)
        prompts = list_of_texts(self.prompt if prompt is None else prompt, "prompt")
        if len(rows) % len(prompts):
            raise ValueError(f"{len(prompts)} prompts do not fit {len(rows)} texts; give one, or one per input.")
        num_per_prompt = len(rows) // len(prompts)
        prompt_ids = [self.tokenizer(text)["input_ids"] for text in prompts]
        rows = [self._remove_prompt(row, prompt_ids[index // num_per_prompt]) for index, row in enumerate(rows)]
        return [text.strip() for text in self._decode(rows)]

    def _remove_prompt(self, row: list[int], prompt_ids: list[int]) -> list[int]:
        """Remove the padding, the placeholders and the prompt at the start of a row of token ids."""
        start, ignored_ids = 0, {self.pad_token_id, self.image_token_id}
        while start < len(row) and row[start] in ignored_ids and row[start : start + len(prompt_ids)] != prompt_ids:
            start += 1
        end = start + len(prompt_ids)
        return row[end:] if row[start:end] == prompt_ids else row

    def post_process_answers(self, outputs: Any, prompt: str | Sequence[str] | None = None) -> list[str]:
        """Decode generated answers and remove the prompts; see [`post_process_captions`]."""
        return self.post_process_captions(outputs, prompt)

    # ---- loading ----

    @classmethod
    def _options_from_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        architecture = (config.get("architectures") or [""])[0]
        if architecture not in ("Blip2ForConditionalGeneration", "Blip2Model"):
            return {}
        model_type = (config.get("text_config") or {}).get("model_type", "opt")
        return {"language_model": "seq2seq" if model_type in _SEQ2SEQ_MODEL_TYPES else "causal"}


def qformer_tokenizer(source: Any, **kwargs: Any) -> PreTrainedTokenizerBase:
    """
    Create the Q-Former's tokenizer: an uncased BERT tokenizer with `[DEC]` as bos token.

    Args:
        source: see [`bert_tokenizer`].
        kwargs: options of the tokenizer class.

    Returns:
        `PreTrainedTokenizerBase`: the tokenizer; the id of `[DEC]` is 30522 for bert-base-uncased.
    """
    return add_blip_tokens(bert_tokenizer(source, **kwargs), enc_token=False)


__all__ = ["LavisBlip2Processor", "qformer_tokenizer"]
