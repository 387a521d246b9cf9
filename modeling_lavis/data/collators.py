# SPDX-License-Identifier: Apache-2.0
"""Collators: rows of a data set to a batch for one of the BLIP heads, for a plain `Trainer` or a `DataLoader`.

A row is a dict with LAVIS's field names (a row of a `datasets.Dataset` is one too); `columns` gives other names. Use
them with `TrainingArguments(remove_unused_columns=False)`, since the processor is called here, on the raw rows.

Letters: B batch, T text tokens, S sum of the numbers of answers of a batch, L answer tokens.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import PIL.Image
import torch

from modeling_lavis.models.processing_image_text import answer_shares

Row = Mapping[str, Any]

ENTAILMENT_LABELS = {"contradiction": 0, "neutral": 1, "entailment": 2}
"""Label numbers of SNLI-VE in LAVIS."""

PAIR_LABELS = {"False": 0, "True": 1}
"""Label numbers of NLVR2 in LAVIS."""


class RowCollator:
    """Base of the collators: finds fields, opens pictures.

    Args:
        processor: a `LavisBlipProcessor`.
        transform: picture to pixels (3, H, W), e.g. `blip_image_train(384)`; None takes the processor's own
            (evaluation) transform. What is random in it is drawn from torch's global generator.
        image_root: folder that relative paths of pictures start from.
        columns: {field name here: name in the rows}, where they differ.
        text_options: options of the tokenizer, e.g. {"padding": "max_length"}.
    """

    def __init__(
        self,
        processor: Any,
        transform: Callable[[Any], torch.Tensor] | None = None,
        image_root: str | os.PathLike | None = None,
        columns: Mapping[str, str] | None = None,
        text_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.processor = processor
        self.transform = transform
        self.image_root = image_root
        self.columns = dict(columns or {})
        self.text_options = dict(text_options or {})

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Make a batch of a list of rows."""
        raise NotImplementedError(f"{type(self).__name__} is a base; use the collator of a task.")

    def _field(self, row: Row, name: str) -> Any:
        column = self.columns.get(name, name)
        if column not in row:
            raise KeyError(
                f"{type(self).__name__} needs the field {column!r}; the row has {sorted(row)}. Give another name with"
                f" columns={{{name!r}: ...}}, and set remove_unused_columns=False in the TrainingArguments."
            )
        return row[column]

    def _has(self, row: Row, name: str) -> bool:
        return row.get(self.columns.get(name, name)) is not None

    def _picture(self, picture: Any) -> Any:
        if isinstance(picture, Mapping):  # an image column of a Dataset that is not decoded
            if picture.get("bytes") is not None:
                return PIL.Image.open(io.BytesIO(picture["bytes"]))
            picture = picture["path"]
        address = isinstance(picture, (str, os.PathLike)) and "://" not in os.fspath(picture)
        if address and self.image_root is not None and not str(picture).startswith("data:"):
            return os.path.join(self.image_root, picture)
        return picture

    def _pixels(self, pictures: Iterable[Any]) -> torch.Tensor:
        opened = [self._picture(picture) for picture in pictures]
        if self.transform is not None:
            return torch.stack([self.transform(picture) for picture in opened])
        return self.processor.image_processor(opened, return_tensors="pt")["pixel_values"]

    def _texts(self, texts: Sequence[str], **options: Any) -> dict[str, torch.Tensor]:
        options = {"text_format": "encoder", "return_tensors": "pt", **self.text_options, **options}
        return dict(self.processor(text=list(texts), **options))


class CaptioningCollator(RowCollator):
    """Rows {image, caption} for `LavisBlipForConditionalGeneration`.

    Returns `pixel_values`, `input_ids`, `attention_mask` and `labels` (B, T): `[DEC]`, prompt, caption, `[SEP]`; only
    the caption and its end are learnt. A caption may be a list of strings, of which one is drawn.
    """

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        captions = [one_of(self._field(row, "caption")) for row in rows]
        batch = {"pixel_values": self._pixels(self._field(row, "image") for row in rows)}
        batch.update(self.processor.caption_labels(captions, **self.text_options))
        return batch


class ImageTextCollator(RowCollator):
    """Rows {image, caption, image_id} for `LavisBlipForImageTextRetrieval` and `LavisBlipForPreTraining`.

    Returns `pixel_values`, `input_ids`, `attention_mask`, `return_loss` (True) and, if the rows have it, `image_ids`
    (B,) int64: rows with equal ids are positives of each other. Ids that are not numbers are hashed.

    Args (besides those of `RowCollator`):
        image_numbers: {image_id: number}, see `number_images`; None takes the ids themselves.

    To get `eval_loss` from a Trainer, set `TrainingArguments(label_names=["image_ids"])`.
    """

    def __init__(self, *args: Any, image_numbers: Mapping[Any, int] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.image_numbers = image_numbers

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        batch: dict[str, Any] = {"pixel_values": self._pixels(self._field(row, "image") for row in rows)}
        batch.update(self._texts([one_of(self._field(row, "caption")) for row in rows]))
        if self._has(rows[0], "image_id"):
            batch["image_ids"] = torch.tensor([self._number(self._field(row, "image_id")) for row in rows])
        batch["return_loss"] = True
        return batch

    def _number(self, image_id: Any) -> int:
        if self.image_numbers is not None:
            return self.image_numbers[image_id]
        return image_number(image_id)


class QuestionAnsweringCollator(RowCollator):
    """Rows {image, question, answer} for `LavisBlipForQuestionAnswering`.

    Returns `pixel_values`, `input_ids`, `attention_mask`, `labels` (S, L), `answer_counts` (B,) and `answer_weights`
    (S,). `answer` is the list of what people answered, or one string. Each different answer is learnt once, weighted
    by its share. A field `weight` (one number per answer) replaces the shares, and a row whose `dataset` is "vg"
    (Visual Genome) gets `visual_genome_weight` for its answers.

    Args (besides those of `RowCollator`):
        visual_genome_weight: default 0.2, as in LAVIS 1.0.2 and the original BLIP.
    """

    def __init__(self, *args: Any, visual_genome_weight: float = 0.2, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.visual_genome_weight = visual_genome_weight

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        batch = {"pixel_values": self._pixels(self._field(row, "image") for row in rows)}
        batch.update(self._texts([self._field(row, "question") for row in rows]))
        answers, weights = zip(*(self._weighted(row) for row in rows), strict=True)
        batch.update(self.processor.answer_labels(answers, weights))
        return batch

    def _weighted(self, row: Row) -> tuple[list[str], list[float]]:
        given = self._field(row, "answer")
        given = [given] if isinstance(given, str) else list(given)
        if self._has(row, "weight"):
            weight = self._field(row, "weight")
            return given, [float(weight)] if isinstance(weight, (int, float)) else [float(entry) for entry in weight]
        if self._has(row, "dataset") and self._field(row, "dataset") == "vg":
            return given, [self.visual_genome_weight] * len(given)
        return answer_shares(given)


class ImagePairCollator(RowCollator):
    """Rows {images: [left, right], sentence, label} for `LavisBlipForImagesAndTextClassification` (NLVR2).

    Returns `pixel_values` (B, 2, 3, H, W), `input_ids`, `attention_mask`, and `labels` (B,) if the rows have them.

    Args (besides those of `RowCollator`):
        swap: for training; with probability 1/2 the two pictures change places, and "left" and "right" in the
            sentence with them.
        label2id: default {"False": 0, "True": 1}; numbers are taken as they are.
        generator: source of randomness for `swap`; None takes torch's global one.
    """

    def __init__(
        self,
        *args: Any,
        swap: bool = False,
        label2id: Mapping[str, int] = PAIR_LABELS,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.swap = swap
        self.label2id = dict(label2id)
        self.generator = generator

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        pictures, sentences = [], []
        for row in rows:
            pair = list(self._field(row, "images"))
            if len(pair) != 2:
                raise ValueError(f"A row has {len(pair)} images; expected two, left and right.")
            # cleaned before the words are exchanged, so that "Left" is found too
            (sentence,) = self.processor.clean(self._field(row, "sentence"))
            if self.swap and torch.rand((), generator=self.generator).item() < 0.5:
                pair, sentence = pair[::-1], swap_left_right(sentence)
            pictures += pair
            sentences.append(sentence)
        pixels = self._pixels(pictures)
        batch = {"pixel_values": pixels.unflatten(0, (len(rows), 2)), **self._texts(sentences, cleaning=None)}
        if self._has(rows[0], "label"):
            batch["labels"] = torch.tensor([label_number(self._field(row, "label"), self.label2id) for row in rows])
        return batch


class ClassificationCollator(RowCollator):
    """Rows {image, sentence, label} for `LavisBlipForImageAndTextClassification`, e.g. visual entailment.

    Returns `pixel_values`, `input_ids`, `attention_mask`, and `labels` (B,) if the rows have them.

    Args (besides those of `RowCollator`):
        label2id: default that of SNLI-VE; numbers are taken as they are.
        default_text: text for rows without a sentence, when pictures alone are classified; None refuses them.
    """

    def __init__(
        self,
        *args: Any,
        label2id: Mapping[str, int] = ENTAILMENT_LABELS,
        default_text: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.label2id = dict(label2id)
        self.default_text = default_text

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        batch = {"pixel_values": self._pixels(self._field(row, "image") for row in rows)}
        batch.update(self._texts([self._sentence(row) for row in rows]))
        if self._has(rows[0], "label"):
            batch["labels"] = torch.tensor([label_number(self._field(row, "label"), self.label2id) for row in rows])
        return batch

    def _sentence(self, row: Row) -> str:
        if self.default_text is not None and not self._has(row, "sentence"):
            return self.default_text
        return self._field(row, "sentence")


def number_images(rows: Iterable[Row], column: str = "image_id") -> dict[Any, int]:
    """Number the images of a data set from 0 in the order of first appearance, as LAVIS does for retrieval."""
    numbers: dict[Any, int] = {}
    for row in rows:
        numbers.setdefault(row[column], len(numbers))
    return numbers


def image_number(image_id: Any) -> int:
    """An id as a number: itself if it is one, else one that follows from its letters."""
    try:
        return int(image_id)
    except ValueError:
        # not Python's hash, which differs from process to process
        return int.from_bytes(hashlib.sha1(str(image_id).encode()).digest()[:8], "big") >> 1


def swap_left_right(sentence: str) -> str:
    """Exchange "left" and "right" in a sentence.

    parity: parts of words are exchanged too ("leftmost" becomes "rightmost", "bright" becomes "bleft").
    """
    return "right".join(part.replace("right", "left") for part in sentence.split("left"))


def label_number(label: Any, label2id: Mapping[str, int]) -> int:
    """Number of a label that is a name, a bool, or a number already."""
    if isinstance(label, (str, bool)):
        if str(label) not in label2id:
            raise ValueError(f"The label {label!r} is none of {sorted(label2id)}; pass label2id to the collator.")
        return label2id[str(label)]
    return int(label)


def one_of(caption: str | Sequence[str]) -> str:
    """The caption, or one drawn from a list of captions with torch's global generator."""
    if isinstance(caption, str):
        return caption
    if not len(caption):
        raise ValueError("A row has an empty list of captions; expected a string or at least one.")
    return caption[int(torch.randint(len(caption), (1,)))]
