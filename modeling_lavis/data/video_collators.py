# SPDX-License-Identifier: Apache-2.0
"""Collators of video-text datasets: rows to batches for the heads of ALPRO; see `collators` for their use.

Shapes: B batch size, F frames, S side length, T text tokens.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from modeling_lavis.data.collators import (
    Row,
    RowCollator,
    as_integer,
    choose_caption,
    index_of_integer,
    number_of_id,
    stack_transformed,
)
from modeling_lavis.data.row_changes import exchange_words
from modeling_lavis.models.outputs import IGNORE_INDEX
from modeling_lavis.models.video_processing_lavis import load_video_frames


class VideoCollator(RowCollator):
    """
    Base of the collators of videos: reads fields of rows, loads clips and tokenizes texts.

    Rows may have the fields `start` and `end`, the time range in seconds from which frames are sampled.

    Args:
        processor (`AlproProcessor`): processor of the model.
        transform (`Callable`, *optional*):
            transform from a video to a clip of shape `(F, 3, S, S)`, e.g. `alpro_video_train(224, 8)`, called with the
            global generator of torch; defaults to the evaluation transform of the processor.
        image_root (`str` or `os.PathLike`, *optional*): folder of relative paths.
        columns (`Mapping[str, str]`, *optional*): names of the columns of the dataset by field name, where they differ.
        text_options (`Mapping[str, Any]`, *optional*): options of the tokenizer, e.g. `{"padding": "max_length"}`.
        on_error (`str`, *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave out rows whose video cannot be read.

    Raises:
        ValueError: `on_error` is none of the above.
    """

    def __init__(self, *args: Any, on_error: str = "raise", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {on_error!r}; expected 'raise' or 'skip'.")
        self.on_error = on_error

    def _load_clips(self, rows: Sequence[Row]) -> tuple[list[Row], torch.Tensor]:
        """The rows whose videos can be read, and their clips of shape (B, F, 3, S, S)."""
        self._check_rows(rows)
        kept_rows, clips, messages = [], [], []
        for row in rows:
            try:
                clips.append(self._load_clip(row))
            except (OSError, ValueError) as error:
                if self.on_error == "raise":
                    raise
                messages.append(str(error))
            else:
                kept_rows.append(row)
        if not clips:
            listed = "".join(f"\n{message}" for message in messages[:5])
            raise ValueError(f"None of the {len(rows)} videos of a batch can be read.{listed}")
        return kept_rows, stack_transformed(clips)

    def _load_clip(self, row: Row) -> torch.Tensor:
        time_range = {name: self._field(row, name) for name in ("start", "end") if self._has_field(row, name)}
        with self._opened(self._field(row, "video")) as video:
            if self.transform is not None:
                return self.transform(video, **time_range)
            return self.processor.video_processor([video], return_tensors="pt", **time_range)["pixel_values_videos"][0]

    @contextlib.contextmanager
    def _opened(self, source: Any) -> Iterator[Any]:
        """A video as the processors take it, while the context is open."""
        source = (
            getattr(source, "_hf_encoded", None) or source
        )  # a decoder, from a column of a Dataset with decode=True
        if (
            isinstance(source, (list, tuple))
            and source
            and all(isinstance(frame, (Mapping, bytes)) for frame in source)
        ):
            yield [self._resolve(frame) for frame in source]  # frames of a Dataset
            return
        content = source.get("bytes") if isinstance(source, Mapping) else source
        if not isinstance(content, (bytes, bytearray)):
            yield self._resolve(source)
            return
        name = (source.get("path") if isinstance(source, Mapping) else None) or ""
        # decoders seek, and open files by their name
        with tempfile.NamedTemporaryFile(suffix=os.path.splitext(name)[1]) as file:
            file.write(content)
            file.flush()
            try:
                yield file.name
            except OSError as error:
                message = str(error).replace(file.name, name or "without a name")
                raise OSError(f"{message} (from its bytes)") from error


def opened_row_video(source: Any) -> contextlib.AbstractContextManager[Any]:
    """
    Context manager that yields a video as the processors take it.

    Args:
        source: a path, `{"bytes", "path"}`, encoded bytes, an array or a list of frames.
    """
    return VideoCollator(None)._opened(source)


def open_row_video(source: Any, row: Row | None = None) -> None:
    """
    Decode the first frame of a video as a row has it, to see whether it can be read.

    Args:
        source: a path, `{"bytes", "path"}`, encoded bytes, an array or a list of frames.
        row (`Mapping[str, Any]`, *optional*): the row, for its `start` and `end`.

    Raises:
        FileNotFoundError, OSError: it cannot be read. ValueError: it has no frames between `start` and `end`.
    """
    start, end = (None if row is None else row.get(name) for name in ("start", "end"))
    with opened_row_video(source) as video:
        load_video_frames(video, lambda length, first, last: [first], 0, 0, start, end)


class VideoTextCollator(VideoCollator):
    """
    Collates rows `{video, caption, video_id}` for `AlproForVideoTextRetrieval`.

    A batch has `pixel_values_videos` of shape `(B, F, 3, S, S)`, `input_ids` and `attention_mask` of shape `(B, T)`,
    and `return_loss` (`True`). A caption may be a list of strings, one of which is chosen at random.

    To get `eval_loss` from a `Trainer`, set `TrainingArguments(label_names=["return_loss"])`.

    Args (in addition to those of [`VideoCollator`]):
        use_ids (`bool`, *optional*, defaults to `False`):
            whether to return `image_ids` of shape `(B,)`, too, so that rows with equal `video_id` are positives of each
            other. The published models were trained without them, so a video can be its own negative.
    """

    def __init__(self, *args: Any, use_ids: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.use_ids = use_ids

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        rows, clips = self._load_clips(rows)
        batch: dict[str, Any] = {"pixel_values_videos": clips}
        batch.update(self._tokenize([choose_caption(self._field(row, "caption")) for row in rows]))
        if self.use_ids:
            batch["image_ids"] = torch.tensor([number_of_id(self._field(row, "video_id")) for row in rows])
        batch["return_loss"] = True
        return batch


class VideoQuestionAnsweringCollator(VideoCollator):
    """
    Collates rows `{video, question, answer}` for `AlproForVideoQuestionAnswering`.

    A batch has `pixel_values_videos` of shape `(B, F, 3, S, S)`, `input_ids` and `attention_mask` of shape `(B, T)`
    and, if the rows have answers, `labels` of shape `(B,)`: the class index of each answer, -100, which the loss
    ignores, for unknown answers. Integer answers that are not the name of a class are used unchanged.

    Args (in addition to those of [`VideoCollator`]):
        label2id (`Mapping[str, int]`): the model's `config.label2id`, or LAVIS's `ans2label.json`.
        mirror_words, flip_words, reverse_words (`Mapping[str, str]`, *optional*):
            for training: words that take each other's place, in both directions, where a clip is mirrored, such as
            `{"left": "right"}`, turned upside down (`{"up": "down"}`), or reversed in time (`{"grows": "shrinks"}`).
            With them, clips are mirrored and turned upside down at random, with probability 1/2. A reversed clip is
            added to the batch beside the original, if that changes the row, so that the two differ in the order of
            frames only; the batch grows accordingly. Words of questions and of answers are exchanged.
        mask_probability (`float`, *optional*, defaults to 0.0):
            for training: probability that a word of a question is replaced by the mask token, so that answers are not
            memorized from names in few questions.

    Raises:
        ValueError: `mask_probability` is not a probability.
    """

    def __init__(
        self,
        *args: Any,
        label2id: Mapping[str, int],
        mirror_words: Mapping[str, str] | None = None,
        flip_words: Mapping[str, str] | None = None,
        reverse_words: Mapping[str, str] | None = None,
        mask_probability: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= mask_probability < 1:
            raise ValueError(f"mask_probability is {mask_probability}; expected a number from 0 and below 1.")
        self.label2id = dict(label2id)
        self.text_options = {"cleaning": "question", **self.text_options}
        self.mirror_words, self.flip_words = mirror_words, flip_words
        self.reverse_words = reverse_words
        self.mask_probability = mask_probability

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        rows, clips = self._load_clips(rows)
        rows, clips = self._turn(rows, clips)
        batch: dict[str, Any] = {"pixel_values_videos": clips}
        questions = [self._field(row, "question") for row in rows]
        if self.mask_probability:
            # cleaned before, since cleaning would delete the brackets of the mask token
            questions = [
                self._mask_words(text) for text in self.processor.clean(questions, self.text_options["cleaning"])
            ]
            batch.update(self._tokenize(questions, cleaning=None))
        else:
            batch.update(self._tokenize(questions))
        if self._all_have_field(rows, "answer"):
            batch["labels"] = torch.tensor([self._label(self._field(row, "answer")) for row in rows], dtype=torch.long)
        return batch

    def _turn(self, rows: list[Row], clips: torch.Tensor) -> tuple[list[Row], torch.Tensor]:
        """Rows and clips (B, F, 3, S, S), flipped at random, and those that are reversed in time."""
        for axis, words in ((-1, self.mirror_words), (-2, self.flip_words)):
            if words is not None:
                chosen = (torch.rand(len(rows)) < 0.5).tolist()
                clips = torch.stack([c.flip(axis) if flip else c for c, flip in zip(clips, chosen, strict=True)])
                rows = [self._exchange(r, words) if flip else r for r, flip in zip(rows, chosen, strict=True)]
        if self.reverse_words is not None:
            turned = [self._exchange(row, self.reverse_words) for row in rows]
            changed = [index for index, row in enumerate(turned) if row != rows[index]]
            clips = torch.cat([clips, clips[changed].flip(1)])
            rows = [*rows, *(turned[index] for index in changed)]
        return rows, clips

    def _exchange(self, row: Row, words: Mapping[str, str]) -> Row:
        """The row with words of its question and answer exchanged."""
        fields = {self.columns.get(name, name): self._field(row, name) for name in ("question", "answer")}
        return {**row, **{k: exchange_words(v, words) if isinstance(v, str) else v for k, v in fields.items()}}

    def _mask_words(self, question: str) -> str:
        words = question.split()
        hidden = (torch.rand(len(words)) < self.mask_probability).tolist()
        mask = self.processor.tokenizer.mask_token
        return " ".join(mask if hide else word for word, hide in zip(words, hidden, strict=True))

    def _label(self, answer: str | int) -> int:
        if isinstance(answer, str):
            return self.label2id.get(answer, IGNORE_INDEX)
        label = as_integer(answer)
        if label is None:
            raise ValueError(f"The answer of a row is {answer!r}; expected a string, or the index of a class.")
        return index_of_integer(label, self.label2id)


__all__ = ["VideoCollator", "VideoQuestionAnsweringCollator", "VideoTextCollator", "open_row_video", "opened_row_video"]
