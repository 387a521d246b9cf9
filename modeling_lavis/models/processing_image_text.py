# SPDX-License-Identifier: Apache-2.0
"""Bases of the processors of images and texts.

[`ImageTextProcessorMixin`] prepares images, texts and answers. [`PromptProcessorMixin`] adds prompts and captions, for
models that generate text with BERT's vocabulary.

Texts have one of two formats:

* `"encoder"`: `[CLS] text [SEP]`, for features, retrieval, matching, questions and statements;
* `"prompt"`: the bos token and the text, for `generate`; without `[SEP]`, padded on the left.

Shapes: B batch size, T text tokens, A answers of a list, S total number of answers of a batch, L answer tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.image_processing_base import BatchFeature

from .image_processing_lavis import flatten_images
from .outputs import IGNORE_INDEX
from .processing_lavis import LavisProcessorMixin, encoder_padding_side, list_of_texts, to_batch


class ImageTextProcessorMixin(LavisProcessorMixin):
    """
    Base of the processors of images and texts.

    A subclass defines the token that starts an answer. The text format `"prompt"` needs [`PromptProcessorMixin`].
    """

    text_formats: tuple[str, ...] = ("encoder",)

    @property
    def default_text_format(self) -> str:
        """Format of the texts of a call that does not give one."""
        return "encoder"

    @property
    def bos_token_id(self) -> int:
        """Id of the token that starts generated text."""
        raise NotImplementedError(f"{type(self).__name__} does not define the token that starts an answer.")

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
        """
        Prepare images, texts and answers for a model.

        Args:
            images (*optional*):
                an image, a list of images, or a list of pairs of images (NLVR2). An image is a path, a URL, a PIL image
                of any mode, a NumPy array or a tensor.
            text (`str` or `Sequence[str]`, *optional*):
                one text or several. If the format is `"prompt"` and images are given, `text` defaults to the
                processor's prompt, and a single string is repeated for every image.
            answers (`Sequence[str]` or `Sequence[Sequence[str]]`, *optional*):
                a flat list of answers to rank (see [`answer_candidates`]), or one list of answers per question to train
                on (see [`answer_labels`]).
            cleaning (`str`, *optional*, defaults to the processor's `cleaning`):
                `"caption"`, `"question"` or `None`: how texts of the format `"encoder"` are cleaned.
            text_format (`str`, *optional*, defaults to the processor's `text_format`):
                `"encoder"`, or `"prompt"` if the processor knows prompts.
            return_tensors (`str`, *optional*): `"pt"`, `"np"`, or `None` for lists.
            kwargs: options of the tokenizer (`padding`, `truncation`, `max_length`, ...) and of the image processor
                (`size`, ...), by name or in `text_kwargs` and `images_kwargs`. By default, texts are padded to the
                longest and truncated to `max_text_length`; prompts are truncated only to a `max_length` given here.
                `padding="max_length"` pads to `max_length`, or else to the `max_length` that the tokenizer was made
                with, to `max_text_length`, or to the limit of the tokenizer, whichever is there first.

        Returns:
            `BatchFeature` with, depending on the arguments, `pixel_values` of shape `(B, 3, H, W)`, or
            `(B, 2, 3, H, W)` for pairs, `input_ids` and `attention_mask` of shape `(B, T)`, and the fields that
            [`answer_candidates`] or [`answer_labels`] returns.

        Raises:
            FileNotFoundError, OSError: an image cannot be read; the message contains its name.
            TypeError: an option is unknown, or an image has an unsupported type.
            ValueError: nothing is given, a text is not a string, the number of texts is not that of the pairs, or an
                option has an unsupported value.
        """
        text_format = kwargs.pop("text_format", None)
        text_format = self.default_text_format if text_format is None else text_format
        if text_format not in self.text_formats:
            known = " or ".join(map(repr, self.text_formats))
            raise ValueError(f"text_format is {text_format!r}; {type(self).__name__} expects {known}.")
        cleaning = kwargs.pop("cleaning", "own")
        text_kwargs, image_kwargs, return_tensors = self._split_kwargs(kwargs)
        given = {**kwargs.get("text_kwargs", {}), **kwargs}
        if text_format == "prompt":
            # A truncated prompt is another prompt, so it is not truncated to the length of the tokenizer's options; and
            # text is generated after the right end of a prompt, wherever the tokenizer pads.
            text_kwargs.update({name: given.get(name) for name in ("max_length", "padding_side")})
        else:
            text_kwargs["padding_side"] = encoder_padding_side(given)

        data: dict[str, Any] = {}
        if images is not None:
            flat_images, in_pairs = flatten_images(images)
            data.update(self.image_processor(images, return_tensors=return_tensors, **image_kwargs))
            if text_format == "prompt":
                if text is None and (self.requires_prompt or (self.prompt and answers is None and not in_pairs)):
                    text = self.prompt
                if isinstance(text, str):
                    text = [text] * (len(flat_images) // 2 if in_pairs else len(flat_images))
            if in_pairs and text is not None and len(list_of_texts(text)) != len(flat_images) // 2:
                raise ValueError(
                    f"{len(list_of_texts(text))} texts do not fit {len(flat_images) // 2} pairs of images; give one"
                    " text per pair."
                )
        if text is not None and text_format == "prompt":
            data.update(self.prompt_inputs(text, return_tensors=return_tensors, **text_kwargs))
        elif text is not None:
            data.update(to_batch(self._tokenize(self.clean(text, cleaning), text_kwargs), return_tensors))
        if answers is not None:
            prepare_answers: Any = self.answer_candidates if _is_flat(answers) else self.answer_labels
            data.update(prepare_answers(answers, return_tensors=return_tensors))
        if not data:
            raise ValueError(f"{type(self).__name__} got nothing; expected images, text or answers.")
        return BatchFeature(data)

    # ---- question answering ----

    def answer_candidates(self, answers: Sequence[str], return_tensors: Any = "pt", **kwargs: Any) -> BatchFeature:
        """
        Tokenize a closed list of answers for `rank_answers`.

        Args:
            answers (`Sequence[str]`): A answers; they are not cleaned.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"`, `"np"`, or `None` for lists.
            kwargs: options of the tokenizer (`padding`, `max_length`, ...). Answers are not truncated by default.

        Returns:
            `BatchFeature` with `answer_input_ids` and `answer_attention_mask` of shape `(A, L)`: bos token, answer,
            `[SEP]`, padded on the right to the longest.

        Raises:
            TypeError: an option is unknown. ValueError: the list is empty or contains something other than strings.
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
        """
        Labels for training a question answering model on the answers of annotators.

        Args:
            answers (`Sequence[Sequence[str]]` or `Sequence[str]`):
                one list of answers, or one answer, per question; they are not cleaned. Without `weights`, repeated
                answers to a question are merged, in order of first appearance.
            weights (`Sequence[Sequence[float]]`, *optional*):
                one weight per answer; defaults to the relative frequency of each answer, so that the weights of a
                question sum to 1.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"`, `"np"`, or `None` for lists.
            kwargs: options of the tokenizer (`padding`, `max_length`, ...). Answers are not truncated by default.

        Returns:
            `BatchFeature` with `labels` of shape `(S, L)` (bos token, answer, `[SEP]`, -100 for padding),
            `answer_counts` of shape `(B,)` (number of answers of each question) and `answer_weights` of shape `(S,)`.

        Raises:
            TypeError: an option is unknown. ValueError: a question has no answer, an answer is not a string, or the
                numbers of answers and weights differ.
        """
        if weights is not None and len(weights) != len(answers):
            raise ValueError(f"Got weights for {len(weights)} questions, answers for {len(answers)}.")
        flat_answers, counts, flat_weights = [], [], []
        for index, given in enumerate(answers):
            given = list_of_texts(given, f"answers[{index}]")
            if weights is None:
                given, given_weights = answer_shares(given)
            else:
                given_weights = [float(weight) for weight in weights[index]]
            if len(given_weights) != len(given):
                raise ValueError(f"Question {index} has {len(given)} answers and {len(given_weights)} weights.")
            flat_answers += given
            flat_weights += given_weights
            counts.append(len(given))
        rows = self._tokenize_answers(list_of_texts(flat_answers, "answers"), kwargs)
        labels = mask_labels(rows["input_ids"], rows["attention_mask"])
        return to_batch({"labels": labels, "answer_counts": counts, "answer_weights": flat_weights}, return_tensors)

    def _tokenize_answers(self, answers: list[str], text_kwargs: Mapping[str, Any]) -> dict[str, list[list[int]]]:
        # parity: `max_text_length` is the limit of questions; answers are not truncated
        return self._tokenize_with_bos(answers, self.bos_token_id, text_kwargs, add_eos=True)


class PromptProcessorMixin(ImageTextProcessorMixin):
    """
    Base of the processors of models that generate captions from a prompt.

    A subclass calls [`set_text_options`] in its `__init__`.
    """

    text_formats = ("encoder", "prompt")
    prompt: str
    text_format: str | None

    @property
    def requires_prompt(self) -> bool:
        """Whether the model needs a prompt with every image, even an empty one."""
        return False

    @property
    def default_text_format(self) -> str:
        return self.text_format or ("prompt" if self.prompt or self.requires_prompt else "encoder")

    def set_text_options(
        self,
        prompt: str,
        max_text_length: int | None,
        max_words: int | None,
        cleaning: str | None,
        text_format: str | None,
    ) -> None:
        """Check and set the options that the processors of all captioning models have."""
        self.check_options({"max_text_length": max_text_length, "max_words": max_words, "cleaning": cleaning})
        self.check_options({"prompt": prompt, "text_format": text_format})
        self.prompt = prompt
        self.max_text_length = max_text_length
        self.max_words = max_words
        self.cleaning = cleaning
        self.text_format = text_format

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """As in the base class, with `prompt` and `text_format`."""
        super().check_options(options)
        if not isinstance(options.get("prompt", ""), str):
            raise ValueError(f"prompt is {options['prompt']!r:.80}; expected a string, '' for no prompt.")
        if options.get("text_format") not in (None, *cls.text_formats):
            raise ValueError(
                f"text_format is {options['text_format']!r:.80}; expected one of {cls.text_formats}, or None."
            )

    # ---- captioning ----

    def prompt_inputs(
        self, prompt: str | Sequence[str] | None = None, return_tensors: Any = "pt", **kwargs: Any
    ) -> BatchFeature:
        """
        Tokenize prompts for `generate`: bos token and prompt, without the final `[SEP]`.

        Args:
            prompt (`str` or `Sequence[str]`, *optional*, defaults to the processor's `prompt`):
                one prompt, or one per image; prompts are not cleaned.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"`, `"np"`, or `None` for lists.
            kwargs: options of the tokenizer (`padding`, `max_length`, ...). As in the original, prompts are truncated
                only to a `max_length` given here, not to `max_text_length`.

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask` of shape `(B, T)`, padded on the left.

        Raises:
            TypeError: an option is unknown. ValueError: a prompt is not a string.
        """
        prompts = list_of_texts(self.prompt if prompt is None else prompt, "prompt")
        rows = self._tokenize_with_bos(prompts, self.bos_token_id, kwargs, add_eos=False, padding_side="left")
        return self._to_batch(rows, kwargs, return_tensors)

    def caption_labels(
        self,
        captions: str | Sequence[str],
        return_tensors: Any = "pt",
        add_prompt: bool = True,
        cleaning: str | None = "own",
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Inputs and labels for training a captioning model.

        Args:
            captions (`str` or `Sequence[str]`): one caption per image, without the prompt.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"`, `"np"`, or `None` for lists.
            add_prompt (`bool`, *optional*, defaults to `True`):
                whether to prepend the processor's prompt; `False` for captions that already start with it.
            cleaning (`str`, *optional*, defaults to the processor's `cleaning`): `"caption"`, `"question"` or `None`.
            kwargs: options of the tokenizer (`padding`, `max_length`, ...).

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask` of shape `(B, T)` (bos token, prompt, caption, `[SEP]`)
            and `labels` of shape `(B, T)`, -100 for the bos token, the prompt and the padding.

        Raises:
            TypeError: an option is unknown. ValueError: a caption is not a string, or `cleaning` is unknown.
        """
        # BERT's tokenizer ignores repeated spaces
        start = f"{self.prompt} " if add_prompt else ""
        texts = [start + caption for caption in self.clean(captions, cleaning)]
        rows = self._tokenize_with_bos(texts, self.bos_token_id, kwargs, add_eos=True, truncates=True)
        prompt_length = len(self.tokenizer(self.prompt)["input_ids"]) - 1
        rows["labels"] = mask_labels(rows["input_ids"], rows["attention_mask"], [prompt_length] * len(texts))
        return self._to_batch(rows, kwargs, return_tensors)

    def post_process_captions(
        self, outputs: Any, prompt: str | Sequence[str] | None = None, cut: str = "prompt"
    ) -> list[str]:
        """
        Decode generated captions and remove the prompt.

        Args:
            outputs (`torch.Tensor` of shape `(B, T)`, or `ModelOutput`):
                token ids that start with the prompt's, or the output of `generate`.
            prompt (`str` or `Sequence[str]`, *optional*, defaults to the processor's `prompt`):
                the prompt that `generate` got, or one per input. Several returned sequences per input share its prompt.
            cut (`str`, *optional*, defaults to `"prompt"`):
                `"prompt"` removes the prompt from texts that start with it. `"characters"` is the parity setting: as
                many characters as the prompt has are removed, whatever they are.

        Returns:
            `list[str]`: one caption per sequence.

        Raises:
            ValueError: the number of captions is not a multiple of the number of prompts, or `cut` is unknown.
        """
        captions = self._decode(outputs)
        prompts = list_of_texts(self.prompt if prompt is None else prompt, "prompt")
        if len(captions) % len(prompts):
            raise ValueError(f"{len(prompts)} prompts do not fit {len(captions)} captions; give one, or one per input.")
        num_per_prompt = len(captions) // len(prompts)
        if cut == "characters":
            return [caption[len(prompts[index // num_per_prompt]) :] for index, caption in enumerate(captions)]
        if cut != "prompt":
            raise ValueError(f"cut is {cut!r}; expected 'prompt' or 'characters'.")
        # decoding lowercases the prompt and changes its spaces
        decoded = self._decode([self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts])
        return [
            caption.removeprefix(decoded[index // num_per_prompt]).strip() for index, caption in enumerate(captions)
        ]


def mask_labels(
    input_ids: list[list[int]], attention_mask: list[list[int]], prompt_lengths: list[int] | None = None
) -> list[list[int]]:
    """
    Labels of rows of token ids: -100 for padding and for the first `prompt_lengths` tokens of each row. Raises
    `ValueError` if no label is left.
    """
    labels = []
    for row, mask, prompt_length in zip(input_ids, attention_mask, prompt_lengths or [0] * len(input_ids), strict=True):
        # padding is on either side
        first = prompt_length + (mask.index(1) if 1 in mask else len(mask))
        labels.append(
            [
                token_id if is_token and position >= first else IGNORE_INDEX
                for position, (token_id, is_token) in enumerate(zip(row, mask, strict=True))
            ]
        )
    if all(label == IGNORE_INDEX for row in labels for label in row):
        raise ValueError(
            f"The prompts fill all {max(map(sum, attention_mask))} tokens that the texts may have, so that nothing is"
            " left to train on. Use a larger max_length (by default the processor's max_text_length) or a shorter"
            " prompt."
        )
    return labels


def answer_shares(answers: list[str]) -> tuple[list[str], list[float]]:
    """
    Merge repeated answers to one question.

    Args:
        answers (`list[str]`): the answers of all annotators.

    Returns:
        `tuple[list[str], list[float]]`: the unique answers in order of first appearance, and their relative
        frequencies.
    """
    unique = list(dict.fromkeys(answers))
    return unique, [answers.count(answer) / len(answers) for answer in unique]


def _is_flat(answers: Any) -> bool:
    return isinstance(answers, str) or all(isinstance(answer, str) for answer in answers)


__all__ = ["ImageTextProcessorMixin", "PromptProcessorMixin", "answer_shares", "mask_labels"]
