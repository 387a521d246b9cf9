# SPDX-License-Identifier: Apache-2.0
"""Processor of ALPRO. Texts have the format `[CLS] text [SEP]`.

Shapes: B batch size, F frames, H height, W width, T text tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.image_processing_base import BatchFeature

from .image_processing_lavis import reject_unknown
from .outputs import IGNORE_INDEX
from .processing_lavis import LavisProcessorMixin, list_of_texts, to_batch
from .video_processing_lavis import LavisVideoProcessor

_VIDEO_OPTIONS = (*LavisVideoProcessor.options, "start", "end", "rng", "on_error")


class AlproProcessor(LavisProcessorMixin):
    """
    Processor of all ALPRO models ([Li et al., 2022](https://arxiv.org/abs/2112.09583)).

    Args:
        video_processor (`LavisVideoProcessor`): video processor.
        tokenizer (`BertTokenizer`): tokenizer; no token is added to it.
        max_text_length (`int`, *optional*, defaults to 35):
            maximum number of tokens of a text, special tokens included; `None` uses the limit of the tokenizer (512).
            Published models use 35 for retrieval (50 for DiDeMo), 40 for questions.
        max_words (`int`, *optional*, defaults to 50): maximum number of words of a cleaned text; `None` keeps all.
        cleaning (`str`, *optional*, defaults to `"caption"`):
            `"caption"`, `"question"` or `None`: how texts are cleaned before tokenization.

    Raises:
        ValueError: an option has an unsupported value.

    Example:
        >>> inputs = processor(videos="dog.mp4", text="a dog on the beach", return_tensors="pt")  # doctest: +SKIP
        >>> model(**inputs, match_head="vtm").logits.softmax(-1)  # doctest: +SKIP
    """

    image_processor = None

    def __init__(
        self,
        video_processor: Any,
        tokenizer: Any,
        max_text_length: int | None = 35,
        max_words: int | None = 50,
        cleaning: str | None = "caption",
    ) -> None:
        super().__init__(video_processor, tokenizer)
        self.max_text_length = max_text_length
        self.max_words = max_words
        self.cleaning = cleaning
        self._check_text_options()

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values_videos", "input_ids", "attention_mask"]

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Same as in transformers, for a video processor that does not need torchvision."""
        if isinstance(argument, LavisVideoProcessor):
            return LavisVideoProcessor
        return super().check_argument_for_proper_class(argument_name, argument)

    def __call__(
        self, videos: Any = None, text: str | Sequence[str] | None = None, answers: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """
        Prepare videos, texts and answers for a model.

        Args:
            videos (*optional*): one video or several: paths, arrays, lists of frames; see [`LavisVideoProcessor`].
            text (`str` or `Sequence[str]`, *optional*): one text or several.
            answers (`Sequence[int]`, *optional*):
                class indices of the answers, for training; [`answer_labels`] converts strings to them.
            cleaning (`str`, *optional*, defaults to the processor's `cleaning`): `"caption"`, `"question"` or `None`.
            text_format (`str`, *optional*, defaults to `"encoder"`): `"encoder"` is the only format of texts.
            return_tensors (`str`, *optional*): `"pt"`, `"np"`, or `None` for lists.
            kwargs: options of the tokenizer (`padding`, `truncation`, `max_length`, ...) and of the video processor
                (`num_frames`, `sampling`, `start`, `end`, `on_error`, ...). Texts are padded to the longest and
                truncated to `max_text_length` by default. `on_error="skip"` leaves out videos that cannot be read,
                together with their texts and answers if there are as many of these as videos.

        Returns:
            `BatchFeature` with, depending on the arguments, `pixel_values_videos` of shape `(B, F, 3, H, W)`,
            `input_ids` and `attention_mask` of shape `(B, T)`, and `labels` of shape `(B,)`. With `on_error="skip"` it
            has the attribute `skipped`, see [`LavisVideoProcessor`].

        Raises:
            FileNotFoundError, OSError: a video cannot be read; the message contains its name.
            TypeError: an option is unknown, or a video has an unsupported type.
            ValueError: nothing is given, a text is not a string, or an option has an unsupported value.
        """
        cleaning = kwargs.pop("cleaning", "own")
        if (text_format := kwargs.pop("text_format", None)) not in (None, "encoder"):
            raise ValueError(f"text_format is {text_format!r}; {type(self).__name__} expects 'encoder'.")
        video_kwargs = {name: kwargs.pop(name) for name in _VIDEO_OPTIONS if name in kwargs}
        reject_unknown(type(self).__name__, kwargs, self._known_kwargs() | {"videos_kwargs", *_VIDEO_OPTIONS})
        video_kwargs = {**kwargs.pop("videos_kwargs", {}), **video_kwargs}
        text_kwargs, _, return_tensors = self._split_kwargs(kwargs)
        texts = None if text is None else list_of_texts(text)
        data: dict[str, Any] = {}
        skipped = None
        if videos is not None:
            clips = self.video_processor(videos, return_tensors=return_tensors, **video_kwargs)
            data.update(clips)
            skipped = getattr(clips, "skipped", None) if "on_error" in video_kwargs else None
        if skipped is not None:
            num_videos = len(data["pixel_values_videos"]) + len(skipped)
            texts = _remove_skipped(texts, skipped, num_videos)
            answers = _remove_skipped(answers, skipped, num_videos)
        if texts is not None:
            data.update(to_batch(self._tokenize(self.clean(texts, cleaning), text_kwargs), return_tensors))
        if answers is not None:
            data["labels"] = torch.as_tensor(answers, dtype=torch.long)
        if not data:
            raise ValueError(f"{type(self).__name__} got nothing; expected videos, text or answers.")
        batch = BatchFeature(data)
        if skipped is not None:
            batch.skipped = skipped
        return batch

    def answer_labels(self, answers: str | Sequence[str], label2id: Mapping[str, int]) -> torch.Tensor:
        """
        Convert answers to class indices.

        Args:
            answers (`str` or `Sequence[str]`): one answer per question; answers are not cleaned.
            label2id (`Mapping[str, int]`): the model's `config.label2id`.

        Returns:
            `torch.Tensor` of shape `(B,)`: int64; -100, which the loss ignores, for unknown answers.

        Raises:
            ValueError: an answer is not a string.
        """
        labels = [int(label2id.get(answer, IGNORE_INDEX)) for answer in list_of_texts(answers, "answers")]
        return torch.tensor(labels, dtype=torch.long)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict | None = None, **kwargs: Any
    ) -> list[Any]:
        video_processor = LavisVideoProcessor.from_pretrained(pretrained_model_name_or_path, **dict(kwargs))
        tokenizer = cls._load_tokenizer_from_pretrained("tokenizer", pretrained_model_name_or_path, **kwargs)
        return [video_processor, tokenizer]


def _remove_skipped(entries: Any, skipped: list[tuple[int, str]], num_videos: int) -> Any:
    """Remove the entries of skipped videos if there is one entry per video."""
    if entries is None or len(entries) != num_videos:
        return entries
    skipped_indices = {index for index, _ in skipped}
    return [entry for index, entry in enumerate(entries) if index not in skipped_indices]


__all__ = ["AlproProcessor"]
