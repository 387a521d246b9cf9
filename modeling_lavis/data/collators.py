# SPDX-License-Identifier: Apache-2.0
"""Collators of image-text datasets: rows to batches for the heads of ALBEF, BLIP and BLIP-2.

A row is a dict with LAVIS's field names, or a row of a `datasets.Dataset`; `columns` maps other names. The collators
call the processor on raw rows, so a `Trainer` needs `TrainingArguments(remove_unused_columns=False)`.

Shapes: B batch size, H height, W width, T text tokens, S total number of answers of a batch, L answer tokens.
"""

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch

from modeling_lavis.data.columns import PROBLEM, hash_id, is_plain_integer
from modeling_lavis.models.image_conversion import load_image, open_image
from modeling_lavis.models.processing_image_text import answer_shares

Row = Mapping[str, Any]

ENTAILMENT_LABELS = {"contradiction": 0, "neutral": 1, "entailment": 2}
"""Label ids of SNLI-VE in LAVIS."""

PAIR_LABELS = {"False": 0, "True": 1}
"""Label ids of NLVR2 in LAVIS."""

# options of a call of the processor that its methods for answers do not have
_CALL_OPTIONS = ("cleaning", "text_format", "return_tensors")


class RowCollator:
    """
    Base of the collators: reads fields of rows, loads images and tokenizes texts.

    Args:
        processor (`ProcessorMixin`): processor of the model.
        transform (`Callable`, *optional*):
            transform from an image to pixel values of shape `(3, H, W)`, e.g. `blip_image_train(384)`, called with the
            global generator of torch; defaults to the evaluation transform of the processor.
        image_root (`str` or `os.PathLike`, *optional*): folder of relative paths.
        columns (`Mapping[str, str]`, *optional*): names of the columns of the dataset by field name, where they differ.
        text_options (`Mapping[str, Any]`, *optional*): options of the tokenizer, e.g. `{"padding": "max_length"}`.
        keep_images (`bool`, *optional*, defaults to `False`):
            whether to read every image file once and keep it in the memory of each worker: its pixel values, or with a
            transform or row changes the decoded image. For data sets that fit.
    """

    def __init__(
        self,
        processor: Any,
        transform: Callable[[Any], torch.Tensor] | None = None,
        image_root: str | os.PathLike | None = None,
        columns: Mapping[str, str] | None = None,
        text_options: Mapping[str, Any] | None = None,
        keep_images: bool = False,
    ) -> None:
        self.processor = processor
        self.transform = transform
        self.image_root = image_root
        self.columns = dict(columns or {})
        self.text_options = dict(text_options or {})
        self._kept_images: dict[str, Any] | None = {} if keep_images else None
        self._kept_values: dict[str, torch.Tensor] = {}

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """
        Collate rows.

        Args:
            rows (`Sequence[Mapping[str, Any]]`): rows of the dataset.

        Returns:
            `dict[str, Any]`: the batch; see the class for its keys.

        Raises:
            FileNotFoundError, OSError: an image or a video cannot be read; the message contains its name.
            KeyError: a field is missing.
            ValueError: there are no rows, a field has an unsupported value, or only some rows have an optional field.
        """
        raise NotImplementedError(f"{type(self).__name__} is a base class; use the collator of a task.")

    def _check_rows(self, rows: Sequence[Row]) -> None:
        if not len(rows):
            raise ValueError(f"{type(self).__name__} got no rows; expected at least one.")
        for row in rows:
            if not isinstance(row, Mapping):
                raise ValueError(
                    f"{type(self).__name__} got a row of type {type(row).__name__}; expected a dict of fields by name."
                )
            if row.get(PROBLEM) is not None:  # kept by load_data(on_bad_row="keep")
                raise ValueError(str(row[PROBLEM]))

    def _field(self, row: Row, name: str) -> Any:
        column = self.columns.get(name, name)
        if column not in row:
            raise KeyError(
                f"{type(self).__name__} needs the field {column!r}; the row has {sorted(row)}. Set another name with"
                f" columns={{{name!r}: ...}}, and set remove_unused_columns=False in the TrainingArguments."
            )
        return row[column]

    def _has_field(self, row: Row, name: str) -> bool:
        return row.get(self.columns.get(name, name)) is not None

    def _all_have_field(self, rows: Sequence[Row], name: str) -> bool:
        """Whether all rows have an optional field; `ValueError` if only some of them do."""
        missing = [index for index, row in enumerate(rows) if not self._has_field(row, name)]
        if missing and len(missing) < len(rows):
            raise ValueError(
                f"Row {missing[0]} of a batch has no {self.columns.get(name, name)!r}, but other rows have one;"
                " expected the field in all rows of the dataset, or in none."
            )
        return not missing

    def _resolve(self, source: Any) -> Any:
        """An image or a video as the processors take it: encoded bytes opened, relative paths joined to the root."""
        if isinstance(source, Mapping):  # a column of a Dataset with decode=False
            if source.get("bytes") is not None:
                return _open_bytes(source)
            source = source.get("path")
        if isinstance(source, (bytes, bytearray)):
            return _open_bytes({"bytes": source})
        is_path = isinstance(source, (str, os.PathLike)) and "://" not in os.fspath(source)
        if is_path and self.image_root is not None and not str(source).startswith("data:"):
            return os.path.join(self.image_root, source)
        return source

    def open_image(self, source: Any) -> Any:
        """Open an image as a row has it: a path, encoded bytes, an image, an array or a tensor."""
        source = self._resolve(source)
        if self._kept_images is None or not isinstance(source, (str, os.PathLike)):
            return open_image(source)
        name = os.fspath(source)
        if name not in self._kept_images:
            image = open_image(source)
            image.load()
            self._kept_images[name] = image
        return self._kept_images[name]

    def _pixel_values(self, images: Iterable[Any]) -> torch.Tensor:
        images = [self._resolve(image) for image in images]
        if self.transform is not None:
            if self._kept_images is not None:
                images = [self.open_image(image) for image in images]
            return stack_transformed([self.transform(image) for image in images])
        if self._kept_images is None:
            return self.processor.image_processor(images, return_tensors="pt")["pixel_values"]
        return torch.stack([self._values_of(image) for image in images])

    def _values_of(self, image: Any) -> torch.Tensor:
        """Pixel values of one image, those of a file from memory."""
        name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else None
        if name is not None and name in self._kept_values:
            return self._kept_values[name]
        values: torch.Tensor = self.processor.image_processor([image], return_tensors="pt")["pixel_values"][0]
        if name is not None:
            self._kept_values[name] = values
        return values

    def _tokenize(self, texts: Sequence[str], **options: Any) -> dict[str, torch.Tensor]:
        options = {"text_format": "encoder", "return_tensors": "pt", **self.text_options, **options}
        return dict(self.processor(text=list(texts), **options))


class CaptioningCollator(RowCollator):
    """
    Collates rows `{image, caption}` for `LavisBlipForConditionalGeneration` and `LavisBlip2ForConditionalGeneration`.

    A batch has `pixel_values` of shape `(B, 3, H, W)` and what the processor's `caption_labels` returns: `input_ids`,
    `attention_mask` and `labels`, -100 for the prompt and the padding. A caption may be a list of strings, one of which
    is chosen at random.

    `generate` takes such a batch, too, and starts from the prompt alone, so that a `Seq2SeqTrainer` with
    `predict_with_generate=True` evaluates captions that are generated from the image.

    Args: see [`RowCollator`].
    """

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        self._check_rows(rows)
        captions = [choose_caption(self._field(row, "caption")) for row in rows]
        batch = {"pixel_values": self._pixel_values(self._field(row, "image") for row in rows)}
        batch.update(self.processor.caption_labels(captions, **self.text_options))
        return batch


class GenerativePretrainingCollator(CaptioningCollator):
    """
    Collates rows `{image, caption, prompt}` for `LavisBlip2ForConditionalGeneration` (the second stage of BLIP-2).

    As [`CaptioningCollator`]; a field `prompt`, in all rows or in none, replaces the processor's prompt. Prompts have
    no loss. With an empty prompt, the language model writes the caption from the queries alone, as in the original.

    Args: see [`RowCollator`].
    """

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        self._check_rows(rows)
        if not self._all_have_field(rows, "prompt"):
            return super().__call__(rows)
        captions = [choose_caption(self._field(row, "caption")) for row in rows]
        prompts = [self._field(row, "prompt") for row in rows]
        batch = {"pixel_values": self._pixel_values(self._field(row, "image") for row in rows)}
        batch.update(self.processor.caption_labels(captions, prompt=prompts, **self.text_options))
        return batch


class ImageTextCollator(RowCollator):
    """
    Collates rows `{image, caption, image_id}` for heads `ForImageTextRetrieval` and `ForPreTraining`.

    A batch has `pixel_values` of shape `(B, 3, H, W)`, `input_ids` and `attention_mask` of shape `(B, T)`,
    `return_loss` (`True`) and, if the rows have ids, `image_ids` of shape `(B,)`, int64. Rows with equal ids are
    positives of each other. Ids that are not integers are hashed. A caption may be a list of strings, one of which is
    chosen at random.

    To get `eval_loss` from a `Trainer`, set `TrainingArguments(label_names=["image_ids"])`.

    Args (in addition to those of [`RowCollator`]):
        image_numbers (`Mapping[Any, int]`, *optional*):
            integer of each `image_id`, see [`number_images`]; defaults to the ids themselves. Ids that it does not
            have, for example those of an evaluation set, are hashed.
    """

    def __init__(self, *args: Any, image_numbers: Mapping[Any, int] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.image_numbers = image_numbers

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        self._check_rows(rows)
        batch: dict[str, Any] = {"pixel_values": self._pixel_values(self._field(row, "image") for row in rows)}
        batch.update(self._tokenize([choose_caption(self._field(row, "caption")) for row in rows]))
        if self._all_have_field(rows, "image_id"):
            batch["image_ids"] = torch.tensor([self._image_number(self._field(row, "image_id")) for row in rows])
        batch["return_loss"] = True
        return batch

    def _image_number(self, image_id: Any) -> int:
        if self.image_numbers is None:
            return number_of_id(image_id)
        number = self.image_numbers.get(image_id)
        # hashed even if it is an integer, which another image may have as its number
        return hash_id(image_id) if number is None else number


class QuestionAnsweringCollator(RowCollator):
    """
    Collates rows `{image, question, answer}` for heads `ForQuestionAnswering`.

    A batch has `pixel_values` of shape `(B, 3, H, W)`, `input_ids` and `attention_mask` of shape `(B, T)`, `labels` of
    shape `(S, L)`, `answer_counts` of shape `(B,)` and `answer_weights` of shape `(S,)`, with S the number of all
    answers. A Trainer that evaluates, however, expects one row per question, and cuts the last batch to as many rows:
    with `answer_length`, `labels` have the shape `(B, K, answer_length)` and `answer_weights` `(B, K)`, with K the
    largest number of answers of a question, and there are no `answer_counts`.

    `answer` is one string, or the list of the answers of all annotators. Repeated answers are merged and weighted by
    their relative frequency. A field `weight` (one number per answer) sets the weights instead. The answers of a row
    whose field `dataset` is `"vg"` (Visual Genome) get `visual_genome_weight`. `text_options` apply to questions and
    answers.

    Args (in addition to those of [`RowCollator`]):
        visual_genome_weight (`float`, *optional*, defaults to 0.2):
            weight of answers from Visual Genome; the default is that of LAVIS 1.0.2 and of the original BLIP.
        answer_length (`int`, *optional*):
            for evaluation: number of tokens that answers are padded to, with start and end token.

    Raises:
        ValueError: an answer has more tokens than `answer_length`.
    """

    def __init__(
        self, *args: Any, visual_genome_weight: float = 0.2, answer_length: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.visual_genome_weight = visual_genome_weight
        self.answer_length = answer_length

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        self._check_rows(rows)
        batch = {"pixel_values": self._pixel_values(self._field(row, "image") for row in rows)}
        batch.update(self._tokenize([self._field(row, "question") for row in rows]))
        answers, weights = zip(*(self._answers_and_weights(row) for row in rows), strict=True)
        options = {name: value for name, value in self.text_options.items() if name not in _CALL_OPTIONS}
        labels = self.processor.answer_labels(answers, weights, **options)
        batch.update(labels if self.answer_length is None else _rows_of_answers(labels, self.answer_length))
        return batch

    def _answers_and_weights(self, row: Row) -> tuple[list[str], list[float]]:
        answers = self._field(row, "answer")
        if not isinstance(answers, (str, Sequence, np.ndarray)):
            raise ValueError(f"The answer of a row is {answers!r}; expected a string or a list of strings.")
        answers = [answers] if isinstance(answers, str) else list(answers)
        if self._has_field(row, "weight"):
            weight = _as_number(self._field(row, "weight"))
            try:
                return answers, [float(entry) for entry in ([weight] if isinstance(weight, (int, float)) else weight)]
            except (TypeError, ValueError) as error:
                raise ValueError(f"The weight of a row is {weight!r}; expected one number per answer.") from error
        if self._has_field(row, "dataset") and self._field(row, "dataset") == "vg":
            return answers, [self.visual_genome_weight] * len(answers)
        return answer_shares(answers)


def _rows_of_answers(batch: Mapping[str, torch.Tensor], length: int) -> dict[str, torch.Tensor]:
    """Labels `(B, K, length)` and weights `(B, K)`, one row per question, from those of all answers in a row."""
    labels, counts = batch["labels"], batch["answer_counts"].tolist()
    if labels.shape[1] > length:
        raise ValueError(f"An answer has {labels.shape[1]} tokens, more than answer_length={length}; raise it.")
    labels = torch.nn.functional.pad(labels, (0, length - labels.shape[1]), value=-100)
    rows = torch.nn.utils.rnn.pad_sequence(labels.split(counts), batch_first=True, padding_value=-100)
    weights = torch.nn.utils.rnn.pad_sequence(batch["answer_weights"].split(counts), batch_first=True)
    return {"labels": rows, "answer_weights": weights}


class ImagePairCollator(RowCollator):
    """
    Collates rows `{images: [left, right], sentence, label}` for heads `ForImagesAndTextClassification` (NLVR2).

    A batch has `pixel_values` of shape `(B, 2, 3, H, W)`, `input_ids` and `attention_mask` of shape `(B, T)` and, if
    the rows have labels, `labels` of shape `(B,)`.

    Args (in addition to those of [`RowCollator`]):
        swap (`bool`, *optional*, defaults to `False`):
            for training: whether to swap, with probability 1/2, the images of a pair, together with "left" and "right"
            in its sentence.
        label2id (`Mapping[str, int]`, *optional*, defaults to `{"False": 0, "True": 1}`):
            label ids; integer labels that are not the name of a class are used unchanged.
        generator (`torch.Generator`, *optional*): source of randomness of `swap`; defaults to the global one of torch.
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
        self._check_rows(rows)
        images: list[Any] = []
        sentences: list[str] = []
        for row in rows:
            pair = self._field(row, "images")
            if not isinstance(pair, (list, tuple, np.ndarray, torch.Tensor)):
                raise ValueError(f"A row has images of type {type(pair).__name__}; expected a list of two images.")
            pair = list(pair)
            if len(pair) != 2:
                raise ValueError(f"A row has {len(pair)} images; expected two, left and right.")
            # cleaning lowercases, so that "Left" is swapped, too
            (sentence,) = self.processor.clean(self._field(row, "sentence"), self.text_options.get("cleaning", "own"))
            if self.swap and torch.rand((), generator=self.generator).item() < 0.5:
                pair, sentence = pair[::-1], swap_left_right(sentence)
            images += pair
            sentences.append(sentence)
        pixel_values = self._pixel_values(images).unflatten(0, (len(rows), 2))
        batch = {"pixel_values": pixel_values, **self._tokenize(sentences, cleaning=None)}
        if self._all_have_field(rows, "label"):
            batch["labels"] = torch.tensor([label_to_id(self._field(row, "label"), self.label2id) for row in rows])
        return batch


class ClassificationCollator(RowCollator):
    """
    Collates rows `{image, sentence, label}` for heads `ForImageAndTextClassification`, e.g. visual entailment.

    A batch has `pixel_values` of shape `(B, 3, H, W)`, `input_ids` and `attention_mask` of shape `(B, T)` and, if the
    rows have labels, `labels` of shape `(B,)`.

    Args (in addition to those of [`RowCollator`]):
        label2id (`Mapping[str, int]`, *optional*, defaults to the label ids of SNLI-VE):
            label ids; integer labels that are not the name of a class are used unchanged.
        default_text (`str`, *optional*):
            text of rows without a sentence, to classify images alone; by default, every row needs a sentence.
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
        self._check_rows(rows)
        batch = {"pixel_values": self._pixel_values(self._field(row, "image") for row in rows)}
        batch.update(self._tokenize([self._sentence(row) for row in rows]))
        if self._all_have_field(rows, "label"):
            batch["labels"] = torch.tensor([label_to_id(self._field(row, "label"), self.label2id) for row in rows])
        return batch

    def _sentence(self, row: Row) -> str:
        if self.default_text is not None and not self._has_field(row, "sentence"):
            return self.default_text
        return self._field(row, "sentence")


def number_images(rows: Iterable[Row], column: str = "image_id") -> dict[Any, int]:
    """
    Number the images of a dataset from 0 in order of first appearance, as LAVIS does for retrieval.

    Args:
        rows (`Iterable[Mapping[str, Any]]`): rows of the dataset.
        column (`str`, *optional*, defaults to `"image_id"`): column of the ids.

    Returns:
        `dict[Any, int]`: the number of each id.
    """
    numbers_by_id: dict[Any, int] = {}
    for row in rows:
        if column not in row:
            raise KeyError(
                f"A row has no {column!r}, but {sorted(row)}; give the name of the column of ids as column=."
            )
        numbers_by_id.setdefault(row[column], len(numbers_by_id))
    return numbers_by_id


def as_integer(value: Any) -> int | None:
    """An integer, a whole float or a tensor of one of them as an `int`; `None` for everything else."""
    value = _as_number(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return int(value) if isinstance(value, int) else None


def _as_number(value: Any) -> Any:
    """A scalar of NumPy or torch as a number of Python; other values unchanged."""
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)) and value.ndim == 0:
        return value.item()
    return value


def id_to_int(image_id: Any) -> int:
    """
    Convert an id to an integer of 63 bits.

    Args:
        image_id: id of an image or a video.

    Returns:
        `int`: the id itself if it is an integer from 0, or the digits of one; otherwise a hash that is the same in
        every process.

    Raises:
        ValueError: the id is missing, `None` or NaN.
    """
    image_id = _as_number(image_id)
    if image_id is None or (isinstance(image_id, float) and image_id != image_id):
        raise ValueError(f"The id of an image is {image_id!r}; expected an integer or a string in every row.")
    integer = int(image_id) if isinstance(image_id, str) and image_id.strip().isdecimal() else as_integer(image_id)
    # negative numbers mark empty slots of the queue
    return integer if integer is not None and 0 <= integer < 2**63 else hash_id(image_id)


def number_of_id(image_id: Any) -> int:
    """As [`id_to_int`], but "007" and "7" are different ids: only the plain form of an integer is taken for it."""
    is_number = not isinstance(image_id, str) or is_plain_integer(image_id)
    return id_to_int(image_id) if is_number else hash_id(image_id)


def _open_bytes(source: Row) -> PIL.Image.Image:
    name = source.get("path") or "without a name"
    try:
        image = PIL.Image.open(io.BytesIO(source["bytes"]))
    except Exception as error:  # decoders raise unrelated types for corrupted files
        # Pillow's message names an object in memory by its address
        reason = "the content is not an image" if isinstance(error, PIL.UnidentifiedImageError) else error
        raise OSError(f"Cannot read the image {name} from its bytes: {reason}") from error
    return load_image(image, f"{name} from its bytes")


def open_row_image(source: Any) -> Any:
    """
    Open an image as a row has it.

    Args:
        source: a path, `{"bytes", "path"}`, encoded bytes, a PIL image, an array or a tensor.

    Returns:
        A decoded `PIL.Image.Image`, or the array or tensor.

    Raises:
        FileNotFoundError, OSError: it cannot be read. TypeError: it is none of the above.
    """
    return RowCollator(None).open_image(source)


def stack_transformed(values: Sequence[Any]) -> torch.Tensor:
    """
    Stack what a transform returned for each image or video of a batch.

    Args:
        values (`Sequence[torch.Tensor]`): tensors or arrays of equal shape.

    Returns:
        `torch.Tensor`: the stacked tensors.

    Raises:
        ValueError: the transform returned something else, or different shapes.
    """
    for value in values:
        if not isinstance(value, (torch.Tensor, np.ndarray)):
            raise ValueError(f"The transform returned {type(value).__name__}; expected a tensor of pixel values.")
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise ValueError(f"The transform returned the shapes {sorted(shapes)}; expected the same for every row.")
    return torch.stack([torch.as_tensor(value) for value in values])


def swap_left_right(sentence: str) -> str:
    """
    Swap "left" and "right" in a sentence.

    parity: parts of words are swapped, too ("leftmost" becomes "rightmost", "bright" becomes "bleft").
    """
    return "right".join(part.replace("right", "left") for part in sentence.split("left"))


def label_to_id(label: Any, label2id: Mapping[str, int]) -> int:
    """
    Convert a label to its id.

    Args:
        label (`str`, `bool` or `int`): a name, a boolean, or the id itself. An integer that is the name of a class, as
            in a CSV file, is taken for the name.
        label2id (`Mapping[str, int]`): id of each name.

    Returns:
        `int`: the id.

    Raises:
        ValueError: the name is unknown, or the label is neither a name nor an integer.
    """
    if isinstance(label, (str, bool, np.bool_)):
        if str(label) not in label2id:
            raise ValueError(f"The label {label!r} is none of {sorted(label2id)}; pass label2id to the collator.")
        return label2id[str(label)]
    integer = as_integer(label)
    if integer is None:
        raise ValueError(f"The label is {label!r}; expected an integer, or one of {sorted(label2id)}.")
    return index_of_integer(integer, label2id)


def index_of_integer(label: int, label2id: Mapping[str, int]) -> int:
    """The id of a label that was read as an integer: that of the class of this name, or else the integer itself."""
    return label2id.get(str(label), label)


def choose_caption(caption: str | Sequence[str]) -> str:
    """A caption, or a random one of a list of captions; uses the global generator of torch."""
    if isinstance(caption, str):
        return caption
    if not isinstance(caption, (Sequence, np.ndarray)):
        raise ValueError(f"The caption of a row is {caption!r}; expected a string or a list of strings.")
    if not len(caption):
        raise ValueError("A row has an empty list of captions; expected a string, or a list of at least one.")
    return caption[int(torch.randint(len(caption), (1,)))]


__all__ = [
    "ENTAILMENT_LABELS",
    "PAIR_LABELS",
    "CaptioningCollator",
    "ClassificationCollator",
    "GenerativePretrainingCollator",
    "ImagePairCollator",
    "ImageTextCollator",
    "QuestionAnsweringCollator",
    "Row",
    "RowCollator",
    "as_integer",
    "choose_caption",
    "id_to_int",
    "index_of_integer",
    "label_to_id",
    "number_images",
    "number_of_id",
    "open_row_image",
    "stack_transformed",
    "swap_left_right",
]
