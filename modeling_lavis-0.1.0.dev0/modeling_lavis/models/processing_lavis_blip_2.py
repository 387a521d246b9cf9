# SPDX-License-Identifier: Apache-2.0
"""Processor of BLIP-2.

Models without a language model use BERT's vocabulary and `[DEC]`; their texts have the formats of the other families,
`[CLS] text [SEP]` or, as a prompt, `[DEC] text`. With a language model, its own tokenizer is used:

* causal: the prompt after the special tokens that the tokenizer prepends, padded on the left. If the tokenizer has a
  BOS token, but does not prepend it (GPT-2), it is prepended here, because `generate` starts with it where no prompt is
  given; if it has none (Qwen), text follows the query tokens immediately. Captions and answers end with a newline, or
  with the EOS token if the tokenizer has no token for a newline;
* sequence-to-sequence: the prompt with the special tokens of the tokenizer, padded on the right.

The model prepends the query tokens to the prompt. Prompts of repositories in transformers' format contain placeholders
for them instead, which the processor inserts if `num_query_tokens` is set.

Shapes: B batch size, T text tokens, U target tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.image_processing_base import BatchFeature

from .processing_image_text import PromptProcessorMixin, mask_labels
from .processing_lavis import first_architecture, generated_rows, list_of_texts
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
            start of every caption, `"a photo of"` for the published captioning models. Spaces at its end are removed
            for causal language models, whose tokens contain the space before a word.
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
        join_ideographs (`bool`, *optional*, defaults to `False`):
            whether generated texts have no spaces between Chinese and Japanese characters, which BERT's tokenizers
            decode with spaces.

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
        join_ideographs: bool = False,
    ) -> None:
        own = {"language_model": language_model, "question_template": question_template}
        self.check_options({**own, "num_query_tokens": num_query_tokens})
        self.check_options({"join_ideographs": join_ideographs})
        super().__init__(image_processor, tokenizer)
        self.language_model = language_model
        self.question_template = question_template
        self.num_query_tokens = num_query_tokens
        self.join_ideographs = join_ideographs
        if language_model == "causal" and isinstance(prompt, str):
            prompt = prompt.rstrip()
        self.set_text_options(prompt, max_text_length, max_words, cleaning, text_format)
        if language_model is None:
            add_blip_tokens(self.tokenizer, enc_token=False)
        elif self.tokenizer.pad_token_id is None:
            # Padding is masked, so any token works.
            self.tokenizer.pad_token = self.tokenizer.eos_token

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """As in the base class, with `language_model`, `question_template` and `num_query_tokens`."""
        super().check_options(options)
        kind, template = options.get("language_model"), options.get("question_template", QUESTION_TEMPLATE)
        if kind not in (None, *_LANGUAGE_MODEL_KINDS):
            raise ValueError(f"language_model is {kind!r:.80}; expected one of {_LANGUAGE_MODEL_KINDS}, or None.")
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ValueError(f"question_template is {template!r:.80}; expected a string with one '{{}}'.")
        count = options.get("num_query_tokens")
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 4096):
            raise ValueError(f"num_query_tokens is {count!r:.80}; expected an int from 1 to 4096, or None.")

    @property
    def bos_token_id(self) -> int:
        """Id of `[DEC]`, which starts captions of the Q-Former. Only without a language model."""
        return self.tokenizer.bos_token_id

    @property
    def pad_token_id(self) -> int:
        """Id of the padding token; any, if the tokenizer of a language model has none."""
        return 0 if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    @property
    def newline_token_id(self) -> int | None:
        """
        Id of the newline, which ends captions and answers of a causal language model; `None` if the tokenizer has no
        token for it.
        """
        return find_newline_token(self.tokenizer)

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
            TypeError: an option is unknown. ValueError: a prompt is not a string.
        """
        if self.language_model is None:
            return super().prompt_inputs(prompt, return_tensors, **kwargs)
        prompts = list_of_texts(self.prompt if prompt is None else prompt, "prompt")
        options = self._text_options(kwargs, False, "right" if self.language_model == "seq2seq" else "left")
        rows = self._add_placeholders(self._pad(self._tokenize_prompts(prompts, options), options))
        return self._to_batch(rows, kwargs, return_tensors)

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
            TypeError: an option is unknown. ValueError: a question is not a string.
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
            TypeError: an option is unknown. ValueError: the numbers of prompts and captions differ, a prompt is given
                without a language model, or the prompts leave no room for captions.
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
        options = self._text_options(kwargs, truncates=True)
        if self.language_model == "seq2seq":
            rows = self._add_placeholders(self._pad(self._tokenize_prompts(prompts, options), options))
            targets = self._pad(self._tokenize_own(texts, options), options)
            rows["labels"] = mask_labels(targets["input_ids"], targets["attention_mask"])
            rows["decoder_attention_mask"] = targets["attention_mask"]
            return self._to_batch(rows, kwargs, return_tensors)
        starts = [start.rstrip() for start in prompts]
        if add_prompt:
            texts = [f"{start} {text}" if start else text for start, text in zip(starts, texts, strict=True)]
        rows = self._add_placeholders(self._pad(self._tokenize_captions(texts, options), options))
        prompt_ids = self._tokenize_prompts(starts, {"max_length": None})
        # parity: the special tokens count as part of the prompt, and are not ignored if there is no prompt
        prompt_lengths = [len(ids) if start else 0 for ids, start in zip(prompt_ids, starts, strict=True)]
        ignored = [(self.num_query_tokens or 0) + length for length in prompt_lengths]
        rows["labels"] = mask_labels(rows["input_ids"], rows["attention_mask"], ignored)
        return self._to_batch(rows, kwargs, return_tensors)

    def answer_candidates(
        self, answers: Sequence[str], return_tensors: Any = "pt", template: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """
        Tokenize a closed list of answers for `rank_answers`.

        Args:
            answers (`Sequence[str]`): A answers; they are not cleaned.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"`, `"np"`, or `None` for lists.
            template (`str`, *optional*, defaults to the processor's `question_template`): prompt with one `"{}"`, whose
                end the answers follow; only with a language model.
            kwargs: options of the tokenizer (`padding`, `max_length`, ...). Answers are not truncated by default.

        Returns:
            `BatchFeature` with `answer_input_ids` and `answer_attention_mask` of shape `(A, U)`, padded on the right:
            for a language model the tokens that [`caption_labels`] has as labels after a question, the last of which
            end the answer; without a language model see [`LavisBlipProcessor`].

        Raises:
            TypeError: an option is unknown. ValueError: the list is empty or contains something other than strings.
        """
        if self.language_model is None:
            return super().answer_candidates(answers, return_tensors, **kwargs)
        texts = list_of_texts(answers, "answers")
        options = self._text_options(kwargs, truncates=False)
        if self.language_model == "seq2seq":
            rows = self._tokenize_own(texts, options)
        else:
            # A text that follows another one can have other tokens than one at the start.
            start = (self.question_template if template is None else template).rpartition("{}")[2].rstrip() or "?"
            length = len(self._tokenize_prompts([start], {"max_length": None})[0])
            continued = self._tokenize_captions([f"{start} {text}" for text in texts], {"max_length": None})
            rows = self._truncate([row[length:] for row in continued], options, 0)
        padded = self._pad(rows, options)
        return self._to_batch({f"answer_{name}": value for name, value in padded.items()}, kwargs, return_tensors)

    def answer_labels(
        self,
        answers: Sequence[Sequence[str] | str],
        weights: Sequence[Sequence[float]] | None = None,
        return_tensors: Any = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Only without a language model, see [`LavisBlipProcessor`]; `ValueError` with one."""
        if self.language_model is None:
            return super().answer_labels(answers, weights, return_tensors, **kwargs)
        raise ValueError(
            "A language model is trained on one answer per question, which follows the question. Use"
            " caption_labels(answers, prompt=question_prompts(questions), cleaning=None)."
        )

    # ---- texts of a language model ----

    def _special_ids(self) -> tuple[list[int], list[int]]:
        """Ids of the special tokens before and after each text of a causal language model."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        first, last = list(self.tokenizer("")["input_ids"]), []
        # a single token that is both BOS and EOS (OPT) stands before the text
        if first and first[-1] == eos and (len(first) > 1 or eos != bos):
            first, last = first[:-1], [eos]
        if not first and bos is not None:
            first = [bos]
        return first, last

    def _tokenize_own(self, texts: list[str], options: Mapping[str, Any]) -> list[list[int]]:
        """Token ids of texts with the special tokens that the tokenizer adds."""
        truncation = options["max_length"] is not None and options["truncation"]
        limit = {"truncation": truncation, "max_length": options["max_length"]}
        return self._tokenize(texts, {"padding": False, "verbose": False, **limit})["input_ids"]

    def _tokenize_prompts(self, prompts: list[str], options: Mapping[str, Any]) -> list[list[int]]:
        """Token ids of prompts: for a causal language model without the special tokens that end a text."""
        if self.language_model == "seq2seq":
            return self._tokenize_own(prompts, options)
        first, _ = self._special_ids()
        return [[*first, *row] for row in self._truncate(self._tokenize_bare(prompts), options, len(first))]

    def _tokenize_captions(self, texts: list[str], options: Mapping[str, Any]) -> list[list[int]]:
        """Token ids of prompts with captions, for a causal language model, and the newline that ends them."""
        first, last = self._special_ids()
        end = self.newline_token_id
        if end is None:
            rows, last = self._tokenize_bare(texts), [self.tokenizer.eos_token_id]
        else:
            rows = self._tokenize_bare([f"{text}\n" for text in texts])
            # some tokenizers have tokens for a punctuation mark and a newline, after which no caption would end
            for index, row in enumerate(rows):
                if row[-1] != end:
                    rows[index] = [*self._tokenize_bare(texts[index : index + 1])[0], end]
        last = [token_id for token_id in last if token_id is not None]
        rows = self._truncate(rows, options, len(first) + len(last))
        return [[*first, *row, *last] for row in rows]

    def _add_placeholders(self, rows: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        """Insert the placeholders of the query tokens before padded texts, if the processor has them."""
        if not self.num_query_tokens:
            return rows
        if self.image_token_id is None:
            raise ValueError(
                f"num_query_tokens is {self.num_query_tokens}, but the tokenizer has no token {_IMAGE_TOKEN!r}. Add it"
                " with tokenizer.add_tokens, or set num_query_tokens=None for models that prepend the query tokens."
            )
        fills = {"input_ids": self.image_token_id, "attention_mask": 1}
        return {name: [[fill] * self.num_query_tokens + row for row in rows[name]] for name, fill in fills.items()}

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
        prompt_ids = self._tokenize_prompts(prompts, {"max_length": None})
        rows = [self._remove_prompt(row, prompt_ids[index // num_per_prompt]) for index, row in enumerate(rows)]
        # A newline ends a caption, where `generate` did not stop at it, too.
        return [text.strip().partition("\n")[0].rstrip() for text in self._decode(rows)]

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
        if first_architecture(config) not in ("Blip2ForConditionalGeneration", "Blip2Model"):
            return {}
        text = config.get("text_config")
        model_type = text.get("model_type", "opt") if isinstance(text, Mapping) else "opt"
        return {"language_model": "seq2seq" if model_type in _SEQ2SEQ_MODEL_TYPES else "causal"}


def find_newline_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """
    Find the token of a newline.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): tokenizer of a language model.

    Returns:
        `int`, *optional*: its id; `None` for tokenizers that drop newlines or replace them by spaces.
    """
    ids = tokenizer("\n", add_special_tokens=False)["input_ids"]
    return ids[-1] if ids and "\n" in tokenizer.decode(ids[-1:]) else None


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


__all__ = ["LavisBlip2Processor", "find_newline_token", "qformer_tokenizer"]
