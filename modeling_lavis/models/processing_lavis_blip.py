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

from .image_processing_lavis import rows_of_pictures
from .processing_lavis import LavisProcessorMixin, list_of_texts, to_batch
from .tokenization_lavis import ENC_TOKEN, add_blip_tokens, blip_tokenizer

__all__ = ["LavisBlipProcessor", "blip_tokenizer"]

_IGNORED = -100
_FORMATS = ("encoder", "prompt")


class LavisBlipProcessor(LavisProcessorMixin):
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

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values", "input_ids", "attention_mask"]

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        answers: Sequence[str] | Sequence[Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare pictures, texts and answers for a model.

        Args:
            images: one picture or a list; a list of pairs for NLVR. A picture is a path, a URL, a PIL image of any
                mode, a NumPy array or a tensor.
            text: a string or a list of strings. Left out where the processor has a prompt, every picture gets it;
                one prompt for several pictures is given to each of them.
            answers: a flat list of strings, to be ranked, or one list of strings per question, to learn from.
            cleaning: "caption", "question" or None, instead of the processor's own.
            text_format: "encoder" or "prompt", instead of the processor's own.
            kwargs: options of the tokenizer (`padding`, `truncation`, `max_length`, ...) and of the image processor
                (`size`, ...), and `return_tensors`. Texts are padded to the longest and truncated by default.

        Returns:
            Of what was given: `pixel_values` (B, 3, H, W) or (B, 2, 3, H, W), `input_ids` and `attention_mask`
            (B, T), and for answers what `answer_candidates` or `answer_labels` return.
        """
        text_format = kwargs.pop("text_format", None) or self.text_format or ("prompt" if self.prompt else "encoder")
        if text_format not in _FORMATS:
            raise ValueError(f"text_format is {text_format!r}; expected one of {_FORMATS}.")
        cleaning = kwargs.pop("cleaning", "own")
        text_kwargs, image_kwargs, return_tensors = self._split_kwargs(kwargs)
        data: dict[str, Any] = {}
        if images is not None:
            pictures, in_pairs = rows_of_pictures(images)
            data.update(self.image_processor(images, return_tensors=return_tensors, **image_kwargs))
            if text is None and answers is None and self.prompt and text_format == "prompt" and not in_pairs:
                text = self.prompt
            if text_format == "prompt" and isinstance(text, str):
                text = [text] * len(pictures)
            if in_pairs and text is not None and len(list_of_texts(text)) != len(pictures) // 2:
                raise ValueError(f"{len(list_of_texts(text))} texts do not fit {len(pictures) // 2} pairs of pictures.")
        if text is not None and text_format == "prompt":
            data.update(self.prompt_inputs(text, return_tensors=return_tensors, **text_kwargs))
        elif text is not None:
            data.update(to_batch(self._tokenize(self.clean(text, cleaning), text_kwargs), return_tensors))
        if answers is not None:
            build: Any = self.answer_candidates if _is_flat(answers) else self.answer_labels
            data.update(build(answers, return_tensors=return_tensors))
        if not data:
            raise ValueError(f"{type(self).__name__} was called with nothing; give it images, text or answers.")
        return BatchFeature(data)

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
                token if seen and slot >= prompt_length else _IGNORED
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

    # ---- question answering ----

    def answer_candidates(self, answers: Sequence[str], return_tensors: Any = "pt", **kwargs: Any) -> BatchFeature:
        """Ids of a closed list of answers, to be ranked by `rank_answers`.

        Args:
            answers: A strings, not cleaned.
            kwargs: `padding`, `max_length` and other options of the tokenizer.

        Returns:
            `answer_input_ids`, `answer_attention_mask` (A, L), `[DEC]` in slot 0, padded to the longest.
        """
        rows = self._tokenize_from(list_of_texts(answers, "answers"), self.bos_token_id, kwargs, keep_end=True)
        return to_batch({f"answer_{name}": value for name, value in rows.items()}, return_tensors)

    def answer_labels(
        self,
        answers: Sequence[Sequence[str] | str],
        weights: Sequence[Sequence[float]] | None = None,
        return_tensors: Any = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Labels to train a question-answering model on, from the answers that people gave.

        Args:
            answers: one list of strings (or one string) per question, not cleaned. Equal answers of a question are
                counted and learnt once, in the order in which they are first seen.
            weights: one number per answer; by default the share of an answer among those of its question, so that
                a question's weights sum to 1. With weights given, answers are taken as they are.
            kwargs: `padding`, `max_length` and other options of the tokenizer.

        Returns:
            `labels` (S, L): `[DEC]`, the answer, `[SEP]`, -100 on pads; `answer_counts` (B,): answers of each
            question; `answer_weights` (S,).
        """
        flat, counts, shares = [], [], []
        if weights is not None and len(weights) != len(answers):
            raise ValueError(f"weights are given for {len(weights)} questions, answers for {len(answers)}.")
        for number, given in enumerate(answers):
            given = list_of_texts(given, f"answers[{number}]")
            if weights is None:
                given, share = answer_shares(given)
            else:
                share = [float(weight) for weight in weights[number]]
            if len(share) != len(given):
                raise ValueError(f"Question {number} has {len(given)} answers and {len(share)} weights.")
            flat += given
            shares += share
            counts.append(len(given))
        rows = self._tokenize_from(list_of_texts(flat, "answers"), self.bos_token_id, kwargs, keep_end=True)
        labels = [
            [token if seen else _IGNORED for token, seen in zip(*row, strict=True)]
            for row in zip(rows["input_ids"], rows["attention_mask"], strict=True)
        ]
        return to_batch({"labels": labels, "answer_counts": counts, "answer_weights": shares}, return_tensors)

    @classmethod
    def _options_for_foreign(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        # transformers' captioners go on from the text, without a prompt of their own
        architecture = (config.get("architectures") or [""])[0]
        options: dict[str, dict[str, Any]] = {
            "BlipForConditionalGeneration": {"text_format": "prompt", "max_text_length": 40},
            "BlipForQuestionAnswering": {"cleaning": "question"},
        }
        return options.get(architecture, {})


def answer_shares(answers: list[str]) -> tuple[list[str], list[float]]:
    """Count the answers to one question.

    Args:
        answers: what people answered, with repetitions.

    Returns:
        The different answers in the order in which they are first seen, and the share of each among all.
    """
    unique = list(dict.fromkeys(answers))
    return unique, [answers.count(answer) / len(answers) for answer in unique]


def _is_flat(answers: Any) -> bool:
    return isinstance(answers, str) or all(isinstance(answer, str) for answer in answers)
