# SPDX-License-Identifier: Apache-2.0
"""The processor of the BLIP family: pictures and texts in, model inputs and labels out, and results back to text.

Letters: B batch, T text tokens, A answers in a list, S sum of the numbers of answers of a batch, L answer tokens.

How a text is laid out:

* "encoder": `[CLS] text [SEP]`, for features, retrieval, matching, questions, statements. The model puts `[ENC]` in
  slot 0 itself where a pass reads the text together with a picture.
* "prompt": `[DEC] text`, for `generate` to go on from. Prompts of different lengths are padded on the left.
* Labels of captions and answers: `[DEC] text [SEP]`, -100 where nothing is to be learnt.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.image_processing_base import BatchFeature

from .processing_image_text import IGNORED, ImageTextProcessorMixin
from .processing_lavis import list_of_texts, to_batch
from .tokenization_lavis import ENC_TOKEN, add_blip_tokens, blip_tokenizer

__all__ = ["LavisBlipProcessor", "blip_tokenizer"]

_FORMATS = ("encoder", "prompt")


class LavisBlipProcessor(ImageTextProcessorMixin):
    """Processor of all BLIP models.

    Args:
        image_processor: a `LavisImageProcessor` (exact) or a `LavisImageProcessorTorchvision` (faster).
        tokenizer: a BERT tokenizer; `[DEC]` and `[ENC]` are added to it, in place, where they are missing.
        prompt (default ""): what captions start with, "a picture of " for the published captioning models.
        max_text_length (default 35): tokens kept of a text, the special ones included; None keeps what the tokenizer
            allows (512).
        max_words (default 50): words kept by the cleaning; None keeps all.
        cleaning (default "caption"): "caption", "question" or None; how texts are cleaned before tokenisation.
            Prompts and answers are never cleaned.
        text_format: "encoder" or "prompt", the layout of `text=` in a call (see the head of this file). None, the
            default, stands for "prompt" where there is a prompt, else "encoder".

    Example:
        >>> inputs = processor(images="dog.jpg", return_tensors="pt")  # doctest: +SKIP
        >>> processor.post_process_captions(model.generate(**inputs))  # doctest: +SKIP
        ['a dog on the beach']
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        prompt: str = "",
        max_text_length: int | None = 35,
        max_words: int | None = 50,
        cleaning: str | None = "caption",
        text_format: str | None = None,
    ) -> None:
        if not isinstance(prompt, str):
            raise ValueError(f"prompt is {prompt!r}; expected a string, '' for none.")
        if text_format not in (None, *_FORMATS):
            raise ValueError(f"text_format is {text_format!r}; expected one of {_FORMATS}, or None.")
        super().__init__(image_processor, tokenizer)
        self.prompt = prompt
        self.max_text_length = max_text_length
        self.max_words = max_words
        self.cleaning = cleaning
        self.text_format = text_format
        self._check_text_options()
        add_blip_tokens(self.tokenizer)

    @property
    def bos_token_id(self) -> int:
        """Id of `[DEC]`, which starts captions and answers."""
        return self.tokenizer.bos_token_id

    @property
    def enc_token_id(self) -> int:
        """Id of `[ENC]`, slot 0 of a text that is read together with a picture."""
        return self.tokenizer.convert_tokens_to_ids(ENC_TOKEN)

    def _text_format(self, asked: str | None) -> str:
        text_format = asked or self.text_format or ("prompt" if self.prompt else "encoder")
        if text_format not in _FORMATS:
            raise ValueError(f"text_format is {text_format!r}; expected one of {_FORMATS}.")
        return text_format

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
            kwargs: `padding`, `max_length` and other options of the tokenizer.

        Returns:
            `input_ids`, `attention_mask` (B, T); shorter prompts are padded on the left.
        """
        prompts = list_of_texts(self.prompt if prompt is None else prompt, "prompt")
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

    @classmethod
    def _options_for_foreign(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        # transformers' captioners go on from the text, without a prompt of their own
        architecture = (config.get("architectures") or [""])[0]
        options: dict[str, dict[str, Any]] = {
            "BlipForConditionalGeneration": {"text_format": "prompt", "max_text_length": 40},
            "BlipForQuestionAnswering": {"cleaning": "question"},
        }
        return options.get(architecture, {})
