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
from .processing_lavis import LavisProcessorMixin, encoder_padding_side, list_of_texts, to_batch
from .video_processing_lavis import LavisVideoProcessor

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_VIDEO_OPTIONS = [name for name in LavisVideoProcessor.call_options if name != "return_tensors"]


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
        join_ideographs (`bool`, *optional*, defaults to `False`):
            whether generated texts have no spaces between Chinese and Japanese characters, which BERT's tokenizers
            decode with spaces.

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
        join_ideographs: bool = False,
    ) -> None:
        super().__init__(video_processor, tokenizer)
        self.check_options({"max_text_length": max_text_length, "max_words": max_words, "cleaning": cleaning})
        self.max_text_length = max_text_length
        self.max_words = max_words
        self.cleaning = cleaning
        self.check_options({"join_ideographs": join_ideographs})
        self.join_ideographs = join_ideographs

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
                (`num_frames`, `sampling`, `start`, `end`, `on_error`, ...), by name or in `text_kwargs` and
                `videos_kwargs`. Texts are padded to the longest and truncated to `max_text_length` by default.
                `on_error="skip"` leaves out videos that cannot be read, together with their texts and answers if there
                are as many of these as videos.

        Returns:
            `BatchFeature` with, depending on the arguments, `pixel_values_videos` of shape `(B, F, 3, H, W)`,
            `input_ids` and `attention_mask` of shape `(B, T)`, and `labels` of shape `(B,)`. With `on_error="skip"` it
            has the attribute `skipped`, see [`LavisVideoProcessor`].

        Raises:
            FileNotFoundError, OSError: a video cannot be read; the message contains its name.
            TypeError: an option is unknown, or a video has an unsupported type.
            ValueError: nothing is given, a text is not a string, an answer is not an integer, or an option has an
                unsupported value or is given twice.
        """
        cleaning = kwargs.pop("cleaning", "own")
        if (text_format := kwargs.pop("text_format", None)) not in (None, "encoder"):
            raise ValueError(f"text_format is {text_format!r}; {type(self).__name__} expects 'encoder'.")
        video_kwargs, kwargs = self._split_video_kwargs(kwargs)
        video_tensors = video_kwargs.pop("return_tensors", None)
        text_kwargs, _, return_tensors = self._split_kwargs(kwargs)
        text_kwargs["padding_side"] = encoder_padding_side({**kwargs.get("text_kwargs", {}), **kwargs})
        return_tensors = return_tensors or video_tensors
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
            data["labels"] = _class_indices(answers)
        if not data:
            raise ValueError(f"{type(self).__name__} got nothing; expected videos, text or answers.")
        batch = BatchFeature(data)
        if skipped is not None:
            batch.skipped = skipped
        return batch

    def _split_video_kwargs(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options of the video processor, and the other ones; `ValueError` for those that are given twice."""
        given = kwargs.get("videos_kwargs", {})
        if not isinstance(given, Mapping):
            raise TypeError(f"videos_kwargs is {given!r}; expected a dict of options.")
        reject_unknown(type(self).__name__, given, LavisVideoProcessor.call_options)
        twice = sorted(set(given) & set(kwargs))
        if twice:
            raise ValueError(f"{', '.join(twice)}: given by name and in videos_kwargs; expected one of them.")
        by_name = {name: kwargs[name] for name in _VIDEO_OPTIONS if name in kwargs}
        others = {name: value for name, value in kwargs.items() if name not in by_name and name != "videos_kwargs"}
        return {**given, **by_name}, others

    def _known_kwargs(self) -> set[str]:
        texts = self.valid_processor_kwargs.__annotations__["text_kwargs"].__annotations__
        return {*texts, *_VIDEO_OPTIONS, "text_kwargs", "videos_kwargs", "common_kwargs", "return_tensors"}

    def answer_labels(self, answers: str | Sequence[str], label2id: Mapping[str, int]) -> torch.Tensor:
        """
        Convert answers to class indices.

        Args:
            answers (`str` or `Sequence[str]`): one answer per question; answers are not cleaned.
            label2id (`Mapping[str, int]`): the model's `config.label2id`.

        Returns:
            `torch.Tensor` of shape `(B,)`: int64; -100, which the loss ignores, for unknown answers.

        Raises:
            ValueError: an answer is not a string, or `label2id` has something other than integers.
        """
        return _class_indices([label2id.get(answer, IGNORE_INDEX) for answer in list_of_texts(answers, "answers")])

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict | None = None, **kwargs: Any
    ) -> list[Any]:
        video_processor = LavisVideoProcessor.from_pretrained(pretrained_model_name_or_path, **dict(kwargs))
        tokenizer = cls._load_tokenizer_from_pretrained("tokenizer", pretrained_model_name_or_path, **kwargs)
        return [video_processor, tokenizer]


def _class_indices(answers: Any) -> torch.Tensor:
    """Class indices as a tensor of shape (B,); `ValueError` for anything else."""
    try:
        indices = torch.as_tensor(answers)
    except (TypeError, ValueError, RuntimeError):
        indices = None
    if (
        indices is None
        or indices.ndim != 1
        or indices.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8)
    ):
        raise ValueError(
            f"answers is {answers!r}; expected the index of a class for each question, which answer_labels finds."
        )
    return indices.long()


def _remove_skipped(entries: Any, skipped: list[tuple[int, str]], num_videos: int) -> Any:
    """Remove the entries of skipped videos if there is one entry per video."""
    if entries is None or len(entries) != num_videos:
        return entries
    skipped_indices = {index for index, _ in skipped}
    return [entry for index, entry in enumerate(entries) if index not in skipped_indices]


__all__ = ["AlproProcessor"]
