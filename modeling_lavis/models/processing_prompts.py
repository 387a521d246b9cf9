# SPDX-License-Identifier: Apache-2.0
"""Prompts and captions, for processors whose models write text from a start token with BERT's vocabulary.

Letters: B batch, T text tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.image_processing_base import BatchFeature

from .processing_image_text import IGNORED, ImageTextProcessorMixin
from .processing_lavis import list_of_texts, to_batch

FORMATS = ("encoder", "prompt")


class PromptProcessorMixin(ImageTextProcessorMixin):
    """Base of the processors of captioners. A subclass calls [`set_text_options`] in its `__init__`."""

    prompt: str
    text_format: str | None

    def set_text_options(
        self,
        prompt: str,
        max_text_length: int | None,
        max_words: int | None,
        cleaning: str | None,
        text_format: str | None,
    ) -> None:
        """Check and keep the options that all captioners' processors have."""
        if not isinstance(prompt, str):
            raise ValueError(f"prompt is {prompt!r}; expected a string, '' for none.")
        if text_format not in (None, *FORMATS):
            raise ValueError(f"text_format is {text_format!r}; expected one of {FORMATS}, or None.")
        self.prompt = prompt
        self.max_text_length = max_text_length
        self.max_words = max_words
        self.cleaning = cleaning
        self.text_format = text_format
        self._check_text_options()

    def _text_format(self, asked: str | None) -> str:
        text_format = asked or self.text_format or ("prompt" if self.prompt else "encoder")
        if text_format not in FORMATS:
            raise ValueError(f"text_format is {text_format!r}; expected one of {FORMATS}.")
        return text_format

    def _with_limit(self, kwargs: dict[str, Any], text_format: str) -> dict[str, Any]:
        # A prompt that is cut is another one: only a limit that the call gives counts.
        given = {**(kwargs.get("text_kwargs") or {}), **kwargs}
        return kwargs if text_format != "prompt" or "max_length" in given else {**kwargs, "max_length": None}

    def _text_for_pictures(
        self, text: Any, answers: Any, text_format: str, num_pictures: int, in_pairs: bool
    ) -> str | Sequence[str] | None:
        if text is None and answers is None and self.prompt and text_format == "prompt" and not in_pairs:
            text = self.prompt
        if text_format == "prompt" and isinstance(text, str):
            text = [text] * num_pictures
        return text

    def _text_inputs(
        self, text: Any, text_format: str, cleaning: str | None, text_kwargs: Mapping[str, Any], return_tensors: Any
    ) -> BatchFeature:
        if text_format == "prompt":
            return self.prompt_inputs(text, return_tensors=return_tensors, **text_kwargs)
        return super()._text_inputs(text, text_format, cleaning, text_kwargs, return_tensors)

    # ---- captioning ----

    def prompt_inputs(
        self, prompt: str | Sequence[str] | None = None, return_tensors: Any = "pt", **kwargs: Any
    ) -> BatchFeature:
        """Ids for `generate` to go on from: `[DEC]` and the prompt, without the final `[SEP]`.

        Args:
            prompt: one string or one per picture; None takes the processor's. It is not cleaned.
            return_tensors: "pt", "np" or None for lists.
            kwargs: `padding`, `max_length` and other options of the tokenizer. As in the original, prompts are not cut
                at the processor's `max_text_length`, only at a `max_length` given here.

        Returns:
            `input_ids`, `attention_mask` (B, T); shorter prompts are padded on the left.
        """
        prompts = list_of_texts(self.prompt if prompt is None else prompt, "prompt")
        if kwargs.get("max_length") is None:
            kwargs = {"truncation": False, **kwargs}
        rows = self._tokenize_from(prompts, self.bos_token_id, kwargs, keep_end=False, padding_side="left")
        return to_batch(rows, return_tensors)

    def caption_labels(
        self,
        captions: str | Sequence[str],
        return_tensors: Any = "pt",
        add_prompt: bool = True,
        cleaning: str | None = "own",
        **kwargs: Any,
    ) -> BatchFeature:
        """Ids and labels to train a captioning model on.

        Args:
            captions: one string per picture, without the prompt.
            add_prompt: whether the prompt is put in front; False for captions that start with it already.
            cleaning: instead of the processor's own.
            kwargs: `padding`, `max_length` and other options of the tokenizer.

        Returns:
            `input_ids` and `attention_mask` (B, T), `[DEC]` in slot 0; `labels` (B, T), -100 on pads, in slot 0 and
            on the tokens of the prompt, so that only the caption and its `[SEP]` are learnt.
        """
        texts = [(self.prompt if add_prompt else "") + caption for caption in self.clean(captions, cleaning)]
        rows = self._tokenize_from(texts, self.bos_token_id, kwargs, keep_end=True)
        prompt_length = len(self.tokenizer(self.prompt)["input_ids"]) - 1
        rows["labels"] = [
            [
                token if seen and slot >= prompt_length else IGNORED
                for slot, (token, seen) in enumerate(zip(*row, strict=True))
            ]
            for row in zip(rows["input_ids"], rows["attention_mask"], strict=True)
        ]
        return to_batch(rows, return_tensors)

    def post_process_captions(
        self, outputs: Any, prompt: str | Sequence[str] | None = None, cut: str = "prompt"
    ) -> list[str]:
        """Decode captions and take the prompt off.

        Args:
            outputs: ids (B, T) from `generate`, which begin with the prompt's, or its output object.
            prompt: what `generate` was given, one string or one per input; None stands for the processor's. With
                several returned sequences per input, each keeps its input's prompt.
            cut: "prompt" removes the prompt where the text starts with it. "characters" is the parity setting: as
                many characters as the prompt has are cut off, whatever they are.
        """
        captions = self._decode(outputs)
        prompts = list_of_texts(self.prompt if prompt is None else prompt, "prompt")
        if len(captions) % len(prompts):
            raise ValueError(f"{len(prompts)} prompts do not fit {len(captions)} captions; give one, or one per input.")
        per_prompt = len(captions) // len(prompts)
        if cut == "characters":
            return [text[len(prompts[number // per_prompt]) :] for number, text in enumerate(captions)]
        if cut != "prompt":
            raise ValueError(f"cut is {cut!r}; expected 'prompt' or 'characters'.")
        # a prompt comes back from the tokenizer in lower case and with its own spacing
        starts = self._decode([self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts])
        return [text.removeprefix(starts[number // per_prompt]).strip() for number, text in enumerate(captions)]


__all__ = ["FORMATS", "PromptProcessorMixin"]
