# SPDX-License-Identifier: Apache-2.0
"""The processor of the ALPRO family: videos and texts in, model inputs and labels out, and results back to text.

Every text is laid out as `[CLS] text [SEP]`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.image_processing_base import BatchFeature

from .image_processing_lavis import reject_unknown
from .processing_lavis import LavisProcessorMixin, list_of_texts, to_batch
from .video_processing_lavis import LavisVideoProcessor

_VIDEO_OPTIONS = (*LavisVideoProcessor.options, "start", "end", "rng", "on_error")
NOT_AN_ANSWER = -100


class AlproProcessor(LavisProcessorMixin):
    """Processor of all ALPRO models.

    Args:
        video_processor: a `LavisVideoProcessor`.
        tokenizer: a BERT tokenizer; no token is added to it.
        max_text_length (default 35): tokens kept of a text, the special ones included; None keeps what the tokenizer
            allows (512). Published: 35 for retrieval (50 for DiDeMo), 40 for questions.
        max_words (default 50): words kept by the cleaning; None keeps all.
        cleaning (default "caption"): "caption", "question" or None; how texts are cleaned before tokenisation.

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
        """As transformers' own, for a video processor that needs no torchvision."""
        if isinstance(argument, LavisVideoProcessor):
            return LavisVideoProcessor
        return super().check_argument_for_proper_class(argument_name, argument)

    def __call__(
        self, videos: Any = None, text: str | Sequence[str] | None = None, answers: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Prepare videos, texts and answers for a model.

        Args:
            videos: one video or several: paths, arrays, lists of frames (see `LavisVideoProcessor`).
            text: a string or a list of strings.
            answers: class numbers, to learn from; see `answer_labels` for how they are made of answers in words.
            cleaning: "caption", "question" or None, instead of the processor's own.
            text_format: "encoder", the only layout of texts that the family has.
            kwargs: options of the tokenizer (`padding`, `truncation`, `max_length`, ...) and of the video processor
                (`num_frames`, `sampling`, `start`, `end`, `on_error`, ...), and `return_tensors`. Texts are padded to
                the longest and truncated by default. Where a list of videos comes with as many texts,
                `on_error="skip"` leaves out the texts of the videos that are left out.

        Returns:
            Of what was given: `pixel_values_videos` (B, F, 3, H, W), `input_ids` and `attention_mask` (B, T), `labels`.
        """
        cleaning = kwargs.pop("cleaning", "own")
        if (text_format := kwargs.pop("text_format", None)) not in (None, "encoder"):
            raise ValueError(f"text_format is {text_format!r}; {type(self).__name__} knows 'encoder' only.")
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
            if (skipped := getattr(clips, "skipped", None) if "on_error" in video_kwargs else None) is not None:
                left_out, number = {place for place, _ in skipped}, len(clips["pixel_values_videos"]) + len(skipped)
                if texts is not None and len(texts) == number:
                    texts = [entry for place, entry in enumerate(texts) if place not in left_out]
                if answers is not None and len(answers) == number:
                    answers = [entry for place, entry in enumerate(answers) if place not in left_out]
        if texts is not None:
            data.update(to_batch(self._tokenize(self.clean(texts, cleaning), text_kwargs), return_tensors))
        if answers is not None:
            data["labels"] = torch.as_tensor(answers, dtype=torch.long)
        if not data:
            raise ValueError(f"{type(self).__name__} was called with nothing; give it videos, text or answers.")
        batch = BatchFeature(data)
        if skipped is not None:
            batch.skipped = skipped
        return batch

    def answer_labels(self, answers: str | Sequence[str], label2id: Mapping[str, int]) -> torch.Tensor:
        """Classes of answers.

        Args:
            answers: one string per question, not cleaned.
            label2id: the model's `config.label2id`.

        Returns:
            int64 (B,); -100, which no loss counts, for an answer that is not in the list.
        """
        labels = [int(label2id.get(answer, NOT_AN_ANSWER)) for answer in list_of_texts(answers, "answers")]
        return torch.tensor(labels, dtype=torch.long)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict | None = None, **kwargs: Any
    ) -> list[Any]:
        video_processor = LavisVideoProcessor.from_pretrained(pretrained_model_name_or_path, **dict(kwargs))
        tokenizer = cls._load_tokenizer_from_pretrained("tokenizer", pretrained_model_name_or_path, **kwargs)
        return [video_processor, tokenizer]


__all__ = ["NOT_AN_ANSWER", "AlproProcessor"]
