# SPDX-License-Identifier: Apache-2.0
"""Retrieval on a table of images or videos with captions, and recall in both directions.

Shapes: I images, S captions, k candidates per row.
"""

import filecmp
import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import PIL.Image
import torch
from torch import Tensor
from torch import distributed as dist

from modeling_lavis.data.checks import RowProblem, check_data
from modeling_lavis.data.collators import open_row_image
from modeling_lavis.data.loading import without_decoding
from modeling_lavis.data.video_collators import opened_row_video
from modeling_lavis.evaluation.engine import MEMORY_BUDGET, RetrievalEngine
from modeling_lavis.evaluation.metrics import recall_at_k
from modeling_lavis.evaluation.rankings import RetrievalRankings
from modeling_lavis.evaluation.retrieval import TEXT_BATCH_SIZE, RankedCandidates
from modeling_lavis.import_utils import require
from modeling_lavis.models.distributed import rank, world_size
from modeling_lavis.models.image_conversion import open_image
from modeling_lavis.progress import Shown

logger = logging.getLogger(__name__)

_IMAGE_COLUMNS = ("image", "video")
#: bounds of a video in seconds, which its processor takes
_TIME_RANGE = ("start", "end")


class _OfRow(NamedTuple):
    """The identity of the image of a row without an id."""

    row: int


def _are_equal_files(path: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two paths are equal, or name files of equal content: some data sets have a file for each caption."""
    if os.fspath(path) == os.fspath(other):
        return True
    return os.path.isfile(path) and os.path.isfile(other) and filecmp.cmp(path, other, shallow=False)


class CaptionedImages:
    """
    Images or videos with their captions, as the retrieval engine takes them; an `ImageCollection`.

    Rows with equal ids are one image, that of the first of them, with the captions of all. Images are loaded and
    processed when they are asked for.

    Args:
        rows (sequence of mappings, a map-style `datasets.Dataset`, or an iterable, which is read into memory):
            rows with `image` or `video`, `caption` (a string or several) and, in all rows or in none, `image_id` or
            `video_id`. Without ids every row is an image of its own. Videos may have a time range in seconds, `start`
            and `end`.
        processor: the processor of the model.
        fixed_length (`int`, *optional*): length that texts are padded to, for models that do not mask padding; by
            default that of the longest.

    Raises:
        ValueError: If a column is missing, a caption is not a string or is empty, or rows with equal ids name different
            files.
    """

    def __init__(self, rows: Any, processor: Any, fixed_length: int | None = None) -> None:
        indexed = hasattr(rows, "__len__") and hasattr(rows, "__getitem__")
        if isinstance(rows, (str, bytes, Mapping)) or not (indexed or isinstance(rows, Iterable)):
            raise TypeError(f"rows is a {type(rows).__name__}; expected a list, a data set or an iterable of rows.")
        rows = rows if indexed else list(rows)
        if not len(rows):
            raise ValueError("There are no rows; expected rows with image (or video) and caption.")
        self._rows = rows
        self._processor = processor
        columns = set(getattr(rows, "column_names", None) or rows[0])
        found = [name for name in _IMAGE_COLUMNS if name in columns]
        if len(found) != 1 or "caption" not in columns:
            raise ValueError(
                f"The rows have the columns {', '.join(sorted(columns))}; expected image (or video), caption, and "
                "optionally image_id (or video_id). Rename the columns."
            )
        #: `"image"` or `"video"`
        self.modality = found[0]
        ids = self._column(f"{self.modality}_id", columns)
        captions = self._column("caption", columns)
        #: captions of all images
        self.captions: list[str] = []
        #: image of each caption
        self.owners: list[int] = []
        #: first row of each image
        self._first: list[int] = []
        identities = [
            _OfRow(row) if identity is None else identity for row, identity in enumerate(ids or [None] * len(rows))
        ]
        self._number(identities, captions)
        self._file_names = self._names_of_files(identities)
        self._fixed_length = fixed_length

    def _column(self, name: str, columns: set[str]) -> list[Any] | None:
        """Values of a column, without decoding images of a data set; `None` if there is no such column."""
        if hasattr(self._rows, "column_names"):
            return list(self._rows[name]) if name in columns else None
        having = [number for number, row in enumerate(self._rows) if name in row]
        if not having:
            return None
        if len(having) < len(self._rows):
            without = next(number for number, row in enumerate(self._rows) if name not in row)
            raise ValueError(
                f"Row {without} has no {name}, but row {having[0]} has one; expected it in all rows or in none."
            )
        return [row[name] for row in self._rows]

    def _number(self, identities: Sequence[Any], captions: Any) -> None:
        """Number the images, and list their captions."""
        numbers: dict[Any, int] = {}
        for row, (identity, given) in enumerate(zip(identities, captions, strict=True)):
            if identity not in numbers:
                numbers[identity] = len(numbers)
                self._first.append(row)
            texts = [given] if isinstance(given, str) else given
            if not isinstance(texts, Sequence) or not all(isinstance(text, str) and text.strip() for text in texts):
                raise ValueError(
                    f"Row {row} has the caption {given!r:.200}; expected a string or a list of strings, none of them "
                    "empty."
                )
            self.captions += texts
            self.owners += [numbers[identity]] * len(texts)
        if without := sorted(set(range(len(numbers))) - set(self.owners)):
            raise ValueError(f"Row {self._first[without[0]]} has no caption; expected at least one for every image.")

    def _names_of_files(self, identities: Sequence[Any]) -> list[str] | None:
        """Files of the images, if the rows name files. `ValueError` if an image has two that are not equal."""
        if hasattr(self._rows, "column_names"):
            if getattr(self._rows.features[self.modality], "dtype", None) != "string":
                return None  # reading the column would read all images
            names = list(self._rows[self.modality])
        else:
            names = [row[self.modality] for row in self._rows]
        if not all(isinstance(name, (str, os.PathLike)) for name in names):
            return None
        first: dict[Any, int] = {}
        for row, identity in enumerate(identities):
            before = first.setdefault(identity, row)
            if not _are_equal_files(names[row], names[before]):
                raise ValueError(
                    f"The rows {before} and {row} have the same {self.modality}_id {identity!r}, but different files: "
                    f"{os.fspath(names[before])} and {os.fspath(names[row])}. Give every {self.modality} its own id."
                )
        return [os.fspath(names[row]) for row in self._first]

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, rows: list[int]) -> Tensor | dict[str, Tensor]:
        """Pixels `(b, ...)` of images, or other inputs of `get_image_features` by name."""
        entries = [self._rows[self._first[row]] for row in rows]
        images = [entry[self.modality] for entry in entries]
        if self.modality == "video":
            ranges = {
                name: [entry.get(name) for entry in entries]
                for name in _TIME_RANGE
                if any(entry.get(name) is not None for entry in entries)
            }
            processor = getattr(self._processor, "video_processor", self._processor)
            with ExitStack() as stack:
                videos = [stack.enter_context(opened_row_video(video)) for video in images]
                inputs = processor(videos=videos, return_tensors="pt", **ranges)
        else:
            images = [open_row_image(image) if isinstance(image, (Mapping, bytes)) else image for image in images]
            if type(self._processor).__module__.startswith("transformers."):
                images = [_in_rgb(image) for image in images]
            inputs = self._processor.image_processor(images=images, return_tensors="pt")
        named = {name: values for name, values in inputs.items() if isinstance(values, Tensor)}
        return next(iter(named.values())) if len(named) == 1 else named

    def texts(self) -> dict[str, Tensor]:
        """`input_ids` and, if the processor gives one, `attention_mask` `(S, T)` of the captions."""
        if self._fixed_length is None:
            options: dict[str, Any] = {"text_format": "encoder"}
        else:
            options = {"padding": "max_length", "truncation": True, "max_length": self._fixed_length}
        encoded = self._processor(text=self.captions, return_tensors="pt", **options)
        return {name: encoded[name] for name in ("input_ids", "attention_mask") if name in encoded}

    def identity(self) -> dict[str, Any]:
        """Facts by which a run in a work folder recognizes the collection."""
        facts = {"captions of images": _digest(f"{owner} {text}" for owner, text in zip(self.owners, self.captions))}
        if self._file_names is not None:
            facts["files of images"] = _digest(self._file_names)
        return facts


def without_bad_rows(rows: Any) -> tuple[Any, dict[int, str]]:
    """
    Rows without those whose image or video cannot be read, or whose caption is empty; they are logged as a warning.

    The first process opens the files, and all leave out the same rows.

    Args:
        rows: as for [`CaptionedImages`].

    Returns:
        The other rows, of the same kind or a list, and the positions of those left out with the reasons.

    Raises:
        ValueError: If all rows are bad.
    """
    rows = rows if hasattr(rows, "__len__") and hasattr(rows, "__getitem__") else list(rows)
    columns = set(getattr(rows, "column_names", None) or (rows[0] if len(rows) else ()))
    task = "video-retrieval" if "video" in columns else "retrieval"
    undecoded = rows
    if hasattr(rows, "cast_column"):
        datasets: Any = require("datasets", extra="train", purpose="data sets")
        undecoded = without_decoding(rows, "video" if "video" in columns else "image", datasets)
    problems = _problems(undecoded, task)
    if not problems:
        return rows, {}
    if len(problems) == len(rows):
        raise ValueError(f"There is nothing to evaluate: all {len(rows)} rows are bad, the first: {problems[0]}")
    if rank() == 0:
        logger.warning(f"{len(problems)} rows are left out, the first of them {problems[0]}")
    bad = {problem.index: str(problem) for problem in problems if problem.index is not None}
    good = [index for index in range(len(rows)) if index not in bad]
    return rows.select(good) if hasattr(rows, "select") else [rows[index] for index in good], bad


def _problems(rows: Any, task: str) -> list[RowProblem]:
    """What the first process finds wrong with rows, in all processes; an error of it is raised by all."""
    found: list[Any] = [None]
    if rank() == 0:
        try:
            found = [check_data(rows, task).problems]
        except Exception as error:
            if world_size() == 1:
                raise
            found = [error]  # the other processes wait for this one
    if world_size() > 1:
        dist.broadcast_object_list(found, src=0)
    if isinstance(found[0], Exception):
        raise found[0]
    problems: list[RowProblem] = found[0]
    return problems


def is_file(image: Any) -> bool:
    """Whether an image is the name of a file or an address."""
    return isinstance(image, (str, os.PathLike))


def _in_rgb(image: Any) -> Any:
    image = open_image(image) if is_file(image) else image
    return image.convert("RGB") if isinstance(image, PIL.Image.Image) else image


def _digest(texts: Iterable[str]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for text in texts:
        state.update(text.encode() + b"\0")
    return state.hexdigest()


def recall_of_candidates(
    ranked: RankedCandidates, relevant: Sequence[Iterable[int]], ranks: Sequence[int]
) -> dict[str, float]:
    """
    [`recall`] of sparse results: a row without a relevant candidate counts as a miss.

    Args:
        ranked ([`RankedCandidates`]): candidates, best first.
        relevant (sequence of iterables of `int`): relevant columns of each row.
        ranks (sequence of `int`): values of K.

    Returns:
        `dict[str, float]`: as [`recall`], in percent.

    Raises:
        ValueError: If there are fewer candidates than the largest K, and not all columns are candidates.
    """
    rows, k = ranked.indices.shape
    # Behind the candidates stand as many columns as it takes for the last one to be a miss at every K.
    misses = max(max(ranks) - k, 0) + 1
    scores = -torch.arange(k + misses, dtype=torch.float32).expand(rows, -1)
    positions = []
    for candidates, columns in zip(ranked.indices.tolist(), relevant, strict=True):
        wanted = set(columns)
        positions.append([place for place, column in enumerate(candidates) if column in wanted] or [k + misses - 1])
    return recall_at_k(scores, positions, ranks)


def retrieval_metrics(
    image_to_text: RankedCandidates,
    text_to_image: RankedCandidates,
    owners: Sequence[int],
    ranks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """
    Recall at K of both directions, in percent.

    Args:
        image_to_text, text_to_image ([`RankedCandidates`]): candidates of I images and of S texts.
        owners (sequence of `int`): image of each text.
        ranks (sequence of `int`, *optional*, defaults to `(1, 5, 10)`): values of K.

    Returns:
        `dict[str, float]`: `text_recall@K` (a text of the image is among the K best), `image_recall@K` (the image of
        the text is), their means `text_recall_mean` and `image_recall_mean`, and the mean of both, `recall_mean`.
    """
    texts_of: list[list[int]] = [[] for _ in range(len(image_to_text.indices))]
    for text, owner in enumerate(owners):
        texts_of[owner].append(text)
    metrics = {}
    for name, ranked, relevant in (
        ("text", image_to_text, texts_of),
        ("image", text_to_image, [[owner] for owner in owners]),
    ):
        found = recall_of_candidates(ranked, relevant, ranks)
        metrics.update({f"{name}_recall@{rank}": found[f"R@{rank}"] for rank in ranks})
        metrics[f"{name}_recall_mean"] = found["R@mean"]
    metrics["recall_mean"] = (metrics["text_recall_mean"] + metrics["image_recall_mean"]) / 2
    return metrics


def evaluate_retrieval(
    model: Any,
    processor: Any,
    rows: Any,
    *,
    k: int = 128,
    batch_size: int = 32,
    text_batch_size: int = TEXT_BATCH_SIZE,
    rerank: bool | None = None,
    ranks: Sequence[int] = (1, 5, 10),
    index: str = "exact",
    memory_budget: int = MEMORY_BUDGET,
    disk_budget: int = 0,
    work_dir: str | os.PathLike[str] | None = None,
    num_workers: int = 0,
    progress: Shown = None,
    on_bad_row: str = "raise",
    return_rankings: bool = False,
) -> Any:
    """
    Recall of text retrieval and image (or video) retrieval on captioned images.

    Args:
        model: a retrieval head of this package, or a model such as transformers' CLIP; see [`RetrievalEngine`].
        processor: its processor.
        rows: rows `{"image": ..., "caption": ..., "image_id": ...}`, or with `video` and `video_id`; see
            [`CaptionedImages`]. A caption may be a list. Rows with equal ids are one image with several captions, all
            of which count as relevant.
        k, batch_size, text_batch_size, rerank, index, memory_budget, disk_budget, work_dir, num_workers, progress: see
            [`RetrievalEngine`].
        ranks (sequence of `int`, *optional*, defaults to `(1, 5, 10)`): values of K of recall at K.
        on_bad_row (`str`, *optional*, defaults to `"raise"`): `"raise"`, or `"skip"` to leave out rows whose image
            cannot be read or whose caption is empty; every image is then opened once before.
        return_rankings (`bool`, *optional*, defaults to `False`): return [`RetrievalRankings`].

    Returns:
        `dict[str, float]`: `text_recall@1`, `text_recall@5`, `text_recall@10`, `text_recall_mean`, the same for
        `image_recall`, and `recall_mean`, in percent; the names are the same for videos. See [`retrieval_metrics`].
        Or [`RetrievalRankings`] with these metrics.

    Raises:
        TypeError: If the model cannot retrieve.
        ValueError: If the rows or the options have unsupported values, or `k` is smaller than the largest K and the
            collection is not.
        OSError: If an image cannot be read.

    Example:

    ```python
    >>> rows = [{"image": "beach.jpg", "caption": ["a beach", "the sea"]}, {"image": "dog.jpg", "caption": "a dog"}]
    >>> evaluate_retrieval(model, processor, rows)["recall_mean"]  # doctest: +SKIP
    100.0

    ```
    """
    if not ranks or min(ranks) < 1:
        raise ValueError(f"ranks is {tuple(ranks)!r}; expected at least one positive K.")
    if on_bad_row not in ("raise", "skip"):
        raise ValueError(f"on_bad_row is {on_bad_row!r}; expected 'raise' or 'skip'.")
    rows, skipped = without_bad_rows(rows) if on_bad_row == "skip" else (rows, {})
    engine = RetrievalEngine(
        model,
        k=k,
        batch_size=batch_size,
        text_batch_size=text_batch_size,
        rerank=rerank,
        index=index,
        memory_budget=memory_budget,
        disk_budget=disk_budget,
        work_dir=work_dir,
        num_workers=num_workers,
        progress=progress,
    )
    collection = CaptionedImages(rows, processor, engine.encoder.fixed_text_length)
    if collection.modality != engine.encoder.modality:
        raise ValueError(
            f"The rows have a column {collection.modality!r}, but {type(engine.encoder.model).__name__} takes "
            f"{engine.encoder.modality}s."
        )
    if k < max(ranks) and k < max(len(collection), len(collection.captions)):
        raise ValueError(f"k is {k}, too few candidates for recall at {max(ranks)}; expected k={max(ranks)} or more.")
    result = engine.run(collection, collection.texts(), collection.identity())
    metrics = retrieval_metrics(result.image_to_text, result.text_to_image, collection.owners, ranks)
    if not return_rankings:
        return metrics
    modality, reranked = collection.modality, result.num_pairs > 0
    return RetrievalRankings(
        metrics, result.image_to_text, result.text_to_image, collection.owners, modality, reranked, skipped
    )


__all__ = ["CaptionedImages", "evaluate_retrieval", "recall_of_candidates", "retrieval_metrics"]
