# SPDX-License-Identifier: Apache-2.0
"""Pictures, texts and answers in, model inputs and labels out: what processors of images and texts share.

Letters: B batch, T text tokens, A answers in a list, S sum of the numbers of answers of a batch, L answer tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.image_processing_base import BatchFeature

from .image_processing_lavis import flatten_images
from .processing_lavis import LavisProcessorMixin, list_of_texts, to_batch

IGNORED = -100


class ImageTextProcessorMixin(LavisProcessorMixin):
    """Base of the processors of images and texts. A family adds its special tokens and its prompts."""

    @property
    def bos_token_id(self) -> int:
        """Id of the token that starts what is decoded."""
        raise NotImplementedError(f"{type(self).__name__} does not say what starts an answer.")

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
            text: a string or a list of strings. Of processors with a prompt it may be left out: every picture gets
                the prompt then, and one prompt for several pictures is given to each of them.
            answers: a flat list of strings, to be ranked, or one list of strings per question, to learn from.
            cleaning: "caption", "question" or None, instead of the processor's own.
            text_format: instead of the processor's own; "encoder" is known to all, "prompt" to captioners.
            kwargs: options of the tokenizer (`padding`, `truncation`, `max_length`, ...) and of the image processor
                (`size`, ...), and `return_tensors`. Texts are padded to the longest and truncated by default.

        Returns:
            Of what was given: `pixel_values` (B, 3, H, W) or (B, 2, 3, H, W), `input_ids` and `attention_mask`
            (B, T), and for answers what `answer_candidates` or `answer_labels` return.
        """
        text_format = self._text_format(kwargs.pop("text_format", None))
        cleaning = kwargs.pop("cleaning", "own")
        text_kwargs, image_kwargs, return_tensors = self._split_kwargs(self._with_limit(kwargs, text_format))
        data: dict[str, Any] = {}
        if images is not None:
            pictures, in_pairs = flatten_images(images)
            data.update(self.image_processor(images, return_tensors=return_tensors, **image_kwargs))
            text = self._text_for_pictures(text, answers, text_format, len(pictures), in_pairs)
            if in_pairs and text is not None and len(list_of_texts(text)) != len(pictures) // 2:
                raise ValueError(f"{len(list_of_texts(text))} texts do not fit {len(pictures) // 2} pairs of pictures.")
        if text is not None:
            data.update(self._text_inputs(text, text_format, cleaning, text_kwargs, return_tensors))
        if answers is not None:
            build: Any = self.answer_candidates if _is_flat(answers) else self.answer_labels
            data.update(build(answers, return_tensors=return_tensors))
        if not data:
            raise ValueError(f"{type(self).__name__} was called with nothing; give it images, text or answers.")
        return BatchFeature(data)

    def _with_limit(self, kwargs: dict[str, Any], text_format: str) -> dict[str, Any]:
        """Options of a call, completed by the limit of texts where it is not the processor's own."""
        return kwargs

    def _text_format(self, asked: str | None) -> str:
        """The layout of texts in a call; `ValueError` for one that this processor does not know."""
        if asked not in (None, "encoder"):
            raise ValueError(f"text_format is {asked!r}; {type(self).__name__} knows 'encoder' only.")
        return "encoder"

    def _text_for_pictures(
        self, text: Any, answers: Any, text_format: str, num_pictures: int, in_pairs: bool
    ) -> str | Sequence[str] | None:
        """The texts that belong to a call with pictures."""
        return text

    def _text_inputs(
        self, text: Any, text_format: str, cleaning: str | None, text_kwargs: Mapping[str, Any], return_tensors: Any
    ) -> BatchFeature:
        """`input_ids` and `attention_mask` (B, T) of texts."""
        return to_batch(self._tokenize(self.clean(text, cleaning), text_kwargs), return_tensors)

    # ---- question answering ----

    def _tokenize_answers(self, answers: list[str], options: Mapping[str, Any]) -> dict[str, list[list[int]]]:
        # parity: the length limit is that of questions; answers are read whole.
        if options.get("max_length") is None and options.get("padding") != "max_length":
            options = {"truncation": False, "max_length": None, **options}
        return self._tokenize_from(answers, self.bos_token_id, options, keep_end=True)

    def answer_candidates(self, answers: Sequence[str], return_tensors: Any = "pt", **kwargs: Any) -> BatchFeature:
        """Ids of a closed list of answers, to be ranked by `rank_answers`.

        Args:
            answers: A strings, not cleaned.
            kwargs: `padding`, `max_length` and other options of the tokenizer; answers are not cut by default.

        Returns:
            `answer_input_ids`, `answer_attention_mask` (A, L), what starts an answer in slot 0, padded to the longest.
        """
        rows = self._tokenize_answers(list_of_texts(answers, "answers"), kwargs)
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
            kwargs: `padding`, `max_length` and other options of the tokenizer; answers are not cut by default.

        Returns:
            `labels` (S, L): start, answer, `[SEP]`, -100 on pads; `answer_counts` (B,): answers of each question;
            `answer_weights` (S,).
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
        rows = self._tokenize_answers(list_of_texts(flat, "answers"), kwargs)
        labels = [
            [token if seen else IGNORED for token, seen in zip(*row, strict=True)]
            for row in zip(rows["input_ids"], rows["attention_mask"], strict=True)
        ]
        return to_batch({"labels": labels, "answer_counts": counts, "answer_weights": shares}, return_tensors)


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


__all__ = ["IGNORED", "ImageTextProcessorMixin", "answer_shares"]
