# SPDX-License-Identifier: Apache-2.0
"""The processor of the BLIP-2 family: pictures and texts in, model inputs and labels out, and results back to text.

Letters: B batch, T text tokens, U target tokens, Q queries.

Models without a language model read texts with BERT's vocabulary and `[DEC]`, laid out as those of the other families:
`[CLS] text [SEP]`, or `[DEC] text` as a prompt. With a language model, the tokenizer is that of the language model:

* causal: the prompt with what the tokenizer puts in front, padded on the left; captions and answers end with a newline;
* sequence to sequence: the prompt and its end token, padded on the right.

The queries stand in front of the prompt. Repositories in transformers' format have placeholders for them in the prompt
instead, which are put there when `num_query_tokens` is set.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.image_processing_base import BatchFeature

from .processing_image_text import IGNORED
from .processing_lavis import list_of_texts, padded_length, to_batch
from .processing_prompts import PromptProcessorMixin
from .tokenization_lavis import add_blip_tokens, bert_tokenizer

QUESTION_TEMPLATE = "Question: {} Short answer:"
_KINDS = ("causal", "seq2seq")
_SEQ2SEQ_TYPES = ("t5", "mt5", "umt5", "bart", "mbart", "pegasus", "longt5", "switch_transformers")
_IMAGE_TOKEN = "<image>"


class LavisBlip2Processor(PromptProcessorMixin):
    """Processor of all BLIP-2 models.

    Args:
        image_processor: a `LavisImageProcessor` (exact) or a `LavisImageProcessorTorchvision` (faster).
        tokenizer: that of the language model; without one a BERT tokenizer, to which `[DEC]` is added in place.
        language_model: "causal", "seq2seq", or None for models without a language model.
        prompt (default ""): what captions start with, "a photo of" for the published captioning models.
        question_template (default "Question: {} Short answer:"): the prompt that a question is put into.
        max_text_length (default 32): tokens kept of a text, the special ones included; prompts of a language model are
            not cut unless a call says so.
        max_words (default 50): words kept by the cleaning; None keeps all.
        cleaning (default "caption"): "caption", "question" or None; how texts are cleaned before tokenisation.
            Prompts and answers are never cleaned.
        text_format: "encoder" or "prompt", the layout of `text=` in a call; None, the default, stands for "prompt" with
            a language model or a prompt, else "encoder".
        num_query_tokens: placeholders put in front of prompts; None for models that have the queries in front.
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
        if language_model not in (None, *_KINDS):
            raise ValueError(f"language_model is {language_model!r}; expected one of {_KINDS}, or None.")
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
            # Padding is masked, so any token will do.
            self.tokenizer.pad_token = self.tokenizer.eos_token

    @property
    def bos_token_id(self) -> int:
        """Id of `[DEC]`, which starts captions of the Q-Former."""
        return self.tokenizer.bos_token_id

    @property
    def newline_token_id(self) -> int:
        """Id of the newline, which ends what a causal language model writes."""
        return self.tokenizer("\n", add_special_tokens=False)["input_ids"][0]

    def _text_format(self, asked: str | None) -> str:
        if self.language_model is not None and asked is None and self.text_format is None:
            return "prompt"
        return super()._text_format(asked)

    def _text_for_pictures(
        self, text: Any, answers: Any, text_format: str, num_pictures: int, in_pairs: bool
    ) -> str | Sequence[str] | None:
        if text is None and self.language_model is not None and text_format == "prompt":
            text = self.prompt
        return super()._text_for_pictures(text, answers, text_format, num_pictures, in_pairs)

    # ---- prompts of a language model ----

    def prompt_inputs(
        self, prompt: str | Sequence[str] | None = None, return_tensors: Any = "pt", **kwargs: Any
    ) -> BatchFeature:
        """Ids for `generate` to go on from.

        Args:
            prompt: one string or one per picture; None takes the processor's. It is not cleaned.
            return_tensors: "pt", "np" or None for lists.
            kwargs: `padding`, `max_length`, `truncation` and other options of the tokenizer.

        Returns:
            `input_ids`, `attention_mask` (B, T). Without a language model `[DEC]` comes first and the final `[SEP]` is
            left out. Shorter prompts are padded on the left, for a sequence-to-sequence model on the right.
        """
        if self.language_model is None:
            return super().prompt_inputs(prompt, return_tensors, **kwargs)
        prompts = list_of_texts(self.prompt if prompt is None else prompt, "prompt")
        limit = kwargs.pop("max_length", None)
        cut = bool(kwargs.pop("truncation", True)) and limit is not None
        side = "right" if self.language_model == "seq2seq" else "left"
        return to_batch(self._rows(prompts, limit if cut else None, side, kwargs), return_tensors)

    def question_inputs(
        self, questions: str | Sequence[str], template: str | None = None, return_tensors: Any = "pt", **kwargs: Any
    ) -> BatchFeature:
        """Ids for `generate` to answer questions from; see [`prompt_inputs`].

        Args:
            questions: one string or one per picture.
            template: a string with one "{}"; None takes the processor's.
        """
        return self.prompt_inputs(self.question_prompts(questions, template), return_tensors, **kwargs)

    def question_prompts(self, questions: str | Sequence[str], template: str | None = None) -> list[str]:
        """The prompts of questions: each in the place of "{}" in the template."""
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
        """Ids and labels to train a model on captions or answers.

        Args:
            captions: one string per picture, without the prompt.
            add_prompt: whether the prompt is put in front; False for captions that start with it already.
            cleaning: instead of the processor's own.
            prompt: one string or one per picture; None takes the processor's. Only for a language model.
            kwargs: `padding`, `max_length` and other options of the tokenizer.

        Returns:
            `input_ids`, `attention_mask` (B, T) and `labels`. For a causal language model (and the Q-Former) labels
            are (B, T), -100 on pads and on the tokens of the prompt, and captions end with a newline. For a
            sequence-to-sequence one the ids are those of the prompts, labels (B, U) and `decoder_attention_mask` (B, U)
            those of the captions.
        """
        if self.language_model is None:
            if prompt is not None:
                raise ValueError("Without a language model the processor's own prompt is used; give none here.")
            return super().caption_labels(captions, return_tensors, add_prompt, cleaning, **kwargs)
        texts = self.clean(captions, cleaning)
        prompts = list_of_texts(self.prompt if prompt is None else prompt, "prompt")
        prompts = prompts * len(texts) if len(prompts) == 1 else prompts
        if len(prompts) != len(texts):
            raise ValueError(f"{len(prompts)} prompts do not fit {len(texts)} captions; give one, or one per caption.")
        limit = kwargs.pop("max_length", self.max_text_length)
        if self.language_model == "seq2seq":
            rows = self._rows(prompts, limit, "right", kwargs)
            targets = self._rows(texts, limit, "right", kwargs)
            rows["labels"] = _masked(targets["input_ids"], targets["attention_mask"])
            rows["decoder_attention_mask"] = targets["attention_mask"]
            return to_batch(rows, return_tensors)
        whole = [
            f"{start.rstrip()} {text}\n" if add_prompt and start else f"{text}\n"
            for start, text in zip(prompts, texts, strict=True)
        ]
        rows = self._rows(whole, limit, "right", kwargs)
        # parity: the first token of the tokenizer counts as part of the prompt, and is learnt where there is none
        starts = [len(self.tokenizer(start)["input_ids"]) if start else 0 for start in prompts]
        rows["labels"] = _masked(rows["input_ids"], rows["attention_mask"], starts)
        return to_batch(rows, return_tensors)

    def _rows(
        self, texts: list[str], limit: int | None, side: str, options: Mapping[str, Any]
    ) -> dict[str, list[list[int]]]:
        """Tokenise with the language model's tokenizer, put placeholders in front, and pad."""
        options = dict(options)
        padding, multiple = options.pop("padding", True), options.pop("pad_to_multiple_of", None)
        options.pop("padding_side", None)
        options.pop("truncation", None)
        cut = {"truncation": True, "max_length": limit} if limit is not None else {}
        ids = self._tokenize(texts, {**cut, **options})["input_ids"]
        length = padded_length(ids, padding, limit, multiple)
        front = [self.image_token_id or 0] * (self.num_query_tokens or 0)
        rows: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": []}
        for row in ids:
            blank, seen = [self.pad_token_id or 0] * max(0, length - len(row)), [1] * len(row)
            padded = blank + row if side == "left" else row + blank
            mask = [0] * len(blank) + seen if side == "left" else seen + [0] * len(blank)
            rows["input_ids"].append(front + padded)
            rows["attention_mask"].append([1] * len(front) + mask)
        return rows

    @property
    def image_token_id(self) -> int | None:
        """Id of the placeholder of a query; None where the tokenizer has none."""
        token = self.tokenizer.convert_tokens_to_ids(_IMAGE_TOKEN)
        return None if token == self.tokenizer.unk_token_id else token

    # ---- results back to text ----

    def post_process_captions(
        self, outputs: Any, prompt: str | Sequence[str] | None = None, cut: str = "prompt"
    ) -> list[str]:
        """Decode captions and take the prompt off.

        Args:
            outputs: ids (B, T) from `generate`, or its output object.
            prompt: what `generate` was given, one string or one per input; None stands for the processor's. With
                several returned sequences per input, each keeps its input's prompt.
            cut: without a language model also "characters" (see `LavisBlipProcessor`).
        """
        if self.language_model is None:
            return super().post_process_captions(outputs, prompt, cut)
        if self.language_model == "seq2seq":
            # parity: the original strips what causal models write, and leaves these as they are
            return self._decode(outputs)
        sequences = getattr(outputs, "sequences", outputs)
        sequences = sequences.tolist() if hasattr(sequences, "tolist") else list(sequences)
        sequences = [sequences] if sequences and isinstance(sequences[0], int) else sequences
        prompts = list_of_texts(self.prompt if prompt is None else prompt, "prompt")
        if len(sequences) % len(prompts):
            raise ValueError(f"{len(prompts)} prompts do not fit {len(sequences)} texts; give one, or one per input.")
        each = len(sequences) // len(prompts)
        starts = [self.tokenizer(text)["input_ids"] for text in prompts]
        rows = [self._without(starts[number // each], row) for number, row in enumerate(sequences)]
        return [text.strip() for text in self._decode(rows)]

    def _without(self, prompt: list[int], row: list[int]) -> list[int]:
        """A row of ids without the padding, the placeholders and the prompt that it begins with."""
        start, in_front = 0, {self.pad_token_id, self.image_token_id}
        while start < len(row) and row[start] in in_front and row[start : start + len(prompt)] != prompt:
            start += 1
        end = start + len(prompt)
        return row[end:] if row[start:end] == prompt else row

    def post_process_answers(self, outputs: Any, prompt: str | Sequence[str] | None = None) -> list[str]:
        """Decode answers and take the prompts off; see [`post_process_captions`]."""
        return self.post_process_captions(outputs, prompt)

    # ---- loading ----

    @classmethod
    def _options_for_foreign(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        architecture = (config.get("architectures") or [""])[0]
        if architecture not in ("Blip2ForConditionalGeneration", "Blip2Model"):
            return {}
        kind = (config.get("text_config") or {}).get("model_type", "opt")
        return {"language_model": "seq2seq" if kind in _SEQ2SEQ_TYPES else "causal"}


def _masked(ids: list[list[int]], mask: list[list[int]], starts: list[int] | None = None) -> list[list[int]]:
    """Ids with -100 on pads and on the first `starts` tokens of each row."""
    starts = starts or [0] * len(ids)
    return [
        [token if seen and slot >= start else IGNORED for slot, (token, seen) in enumerate(zip(row, own, strict=True))]
        for row, own, start in zip(ids, mask, starts, strict=True)
    ]


def qformer_tokenizer(source: Any, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Make the Q-Former's tokenizer: BERT's with `[DEC]` as bos token at the end (30522 for bert-base-uncased)."""
    return add_blip_tokens(bert_tokenizer(source, **kwargs), enc_token=False)


__all__ = ["LavisBlip2Processor", "qformer_tokenizer"]
