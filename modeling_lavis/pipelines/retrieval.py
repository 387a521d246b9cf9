# SPDX-License-Identifier: Apache-2.0
"""Pipeline `image-text-retrieval`.

As in the published evaluation, candidates are selected by the cosine similarity of the features, and re-ranked by
cosine similarity plus matching logit (`modeling_lavis.evaluation.retrieval`).

Shapes: B queries of a batch, I items of the collection, k candidates, N image tokens, T text tokens, D hidden size,
P projection dimension, Q query tokens.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from modeling_lavis.evaluation.index_files import IndexFiles, mapped_tensor
from modeling_lavis.evaluation.index_rows import index_rows, item_rows
from modeling_lavis.evaluation.index_writing import Blocks, index_lock, write_index_files
from modeling_lavis.evaluation.retrieval import (
    TEXT_BATCH_SIZE,
    encode_texts,
    matching_logits,
    rank_candidates,
    select_candidates,
)
from modeling_lavis.pipelines.base import LavisPipeline, is_positive, stack_pixel_values
from modeling_lavis.pipelines.inputs import Failure, run_batches
from modeling_lavis.pipelines.loading import unwrap_adapters
from modeling_lavis.progress import Shown, with_progress

Kind = Literal["image", "video", "text"]
_TIME_RANGE = ("start", "end")


@dataclass
class RetrievalIndex:
    """
    An encoded collection, from [`ImageTextRetrievalPipeline.index`] or from stored features.

    Args:
        kind (`str`): `"image"`, `"video"` or `"text"`.
        items (`list`): the images (as they were passed; those of one array as 8-bit arrays), videos or texts, one per
            row of the features. A video with a time range is a row `{"video": ..., "start": ..., "end": ...}`.
        features (`Tensor` of shape `(I, P)`, or `(I, Q, P)` for image features of a Q-Former): projected and
            normalized features.
        states (`Sequence[Tensor]`, *optional*): hidden states `(N, D)` of each image or, if the model fuses text hidden
            states, `(T, D)` of each text; `None` for an item without. Those without are encoded again for re-ranking
            when they are candidates of a query, for which images are loaded again.
        failures (`list`): `(item, message)` of the items that could not be loaded, with `on_error="return"`.
    """

    kind: Kind
    items: list[Any]
    features: Tensor
    states: Sequence[Tensor | None] | None = None
    failures: list[tuple[Any, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.kind not in ("image", "video", "text"):
            raise ValueError(f"kind is {self.kind!r}; expected 'image', 'video' or 'text'.")
        self.features = torch.as_tensor(self.features)
        if self.features.ndim not in (2, 3) or len(self.features) != len(self.items):
            raise ValueError(
                f"An index of {len(self.items)} items got features of shape {tuple(self.features.shape)}; expected one "
                "row per item."
            )

    def __len__(self) -> int:
        return len(self.items)

    def save(self, folder: str | os.PathLike) -> None:
        """
        Save the index in the format of `modeling-lavis index`: Parquet, `.npy` and JSON.

        Args:
            folder (`str` or `os.PathLike`): the folder; an index that is there is replaced.

        Raises:
            ValueError: items are neither paths, URLs nor texts, but images or videos in memory.
            OSError: the folder cannot be written, or another process is changing the index.
        """
        rows, features, states = index_rows(self.kind, self.items), self.features.float().numpy(), None
        if self.states is not None:
            stored = [entry for entry in self.states if entry is not None]
            counts = [0 if entry is None else len(entry) for entry in self.states]
            if stored:
                rows = rows.append_column("num_states", [counts])
                states = Blocks((sum(counts), stored[0].shape[-1]), (entry.float().numpy() for entry in stored))
        folder = Path(folder)
        with index_lock(folder):
            write_index_files(folder, {"kind": self.kind}, rows, Blocks(features.shape, [features]), states=states)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "RetrievalIndex":
        """
        Load an index that [`RetrievalIndex.save`] or `modeling-lavis index` has written. Features and hidden states are
        mapped into memory, not read.

        Args:
            folder (`str` or `os.PathLike`): the folder.

        Raises:
            OSError: there is no index, or one of its files is missing or was cut off. ValueError: a file is damaged.
        """
        files = IndexFiles.open(folder)
        kind = files.head["kind"]
        return cls(kind, item_rows(kind, files.rows), mapped_tensor(files.vectors), files.states)


class _Encoded(NamedTuple):
    """
    Queries or items after the encoders.

    Args:
        kind (`str`): `"image"`, `"video"` or `"text"`.
        features (`Tensor` of shape `(B, P)` or `(B, Q, P)`): normalized features, in float32.
        inputs (`Tensor` of shape `(B, N, D)` or `dict[str, Tensor]`): what `score_pairs` takes: hidden states of
            images, or the tokens of texts with their hidden states, if the model fuses them.
    """

    kind: Kind
    features: Tensor
    inputs: Tensor | dict[str, Tensor]


class ImageTextRetrievalPipeline(LavisPipeline):
    """
    Retrieves images by text, or texts by image.

    Example:

    ```python
    >>> retriever = pipeline("image-text-retrieval", model="my-matcher")  # doctest: +SKIP
    >>> photos = retriever.index(images=["beach.jpg", "forest.jpg"])  # doctest: +SKIP
    >>> retriever("a dog", index=photos, top_k=1)  # doctest: +SKIP
    [{'index': 0, 'image': 'beach.jpg', 'score': 4.2, 'similarity': 0.41}]
    >>> retriever("beach.jpg", texts=["a dog", "a cat"], top_k=1)  # doctest: +SKIP
    [{'index': 0, 'text': 'a dog', 'score': 4.2, 'similarity': 0.41}]

    ```
    """

    model_suffixes: tuple[str, ...] = ("ForImageTextRetrieval", "ForPreTraining")
    required_attributes = ("encode_images", "project_images", "encode_texts", "score_pairs")
    preprocess_options = ("query_type",)
    forward_options = ("index", "num_candidates", "rerank", "top_k")
    input_name = "query"

    def index(
        self,
        images: Any = None,
        texts: Any = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        keep_states: bool = True,
        on_error: str = "raise",
        progress: Shown = None,
    ) -> RetrievalIndex:
        """
        Encode a collection of images or of texts once, for many queries.

        Args:
            images (*optional*): a list, a dataset or a generator of images (paths, URLs, PIL images, arrays) or of rows
                `{"image": ...}`.
            texts (`list[str]`, *optional*): texts, instead of images.
            batch_size, num_workers (`int`, *optional*): see [`LavisPipeline`].
            keep_states (`bool`, *optional*, defaults to `True`): keep the hidden states for re-ranking: about 1.8 MB
                per image for a ViT-B at 384 pixels in float32, or 3 kB per token of a text. With `False` only the
                features are kept, about 1 kB per item.
            on_error (`str`, *optional*, defaults to `"raise"`): with `"return"`, images that cannot be loaded are left
                out and listed in `failures`.
            progress (`bool` or `TextIO`, *optional*): whether or where progress is shown, see
                `modeling_lavis.progress.Progress`; by default on a terminal.

        Returns:
            [`RetrievalIndex`].
        """
        return self._make_index(images, texts, batch_size, num_workers, keep_states, on_error, progress)

    def _make_index(
        self,
        images: Any,
        texts: Any,
        batch_size: int | None = None,
        num_workers: int | None = None,
        keep_states: bool = True,
        on_error: str = "raise",
        progress: Shown = None,
    ) -> RetrievalIndex:
        if (images is None) == (texts is None):
            raise ValueError(f"An index needs either {self.modality}s= or texts=.")
        self._sanitize_parameters(on_error=on_error)
        kind: Kind = self.modality if texts is None else "text"
        prepare: Callable[[Any], Any]
        if texts is not None:
            entries = [texts] if isinstance(texts, str) else list(texts)
            if not entries or not all(isinstance(text, str) for text in entries):
                raise ValueError(f"texts is {texts!r}; expected a list of at least one string.")
            prepare, batch_size, num_workers = _prepare_text, TEXT_BATCH_SIZE, 0
        else:
            entries = self._parse_entries(images).entries
            prepare = functools.partial(self._prepare_item, on_error=on_error)
            batch_size, num_workers = self._loader_options(batch_size, num_workers)
        items, features, states, failures = [], [], [], []
        encode = functools.partial(self._encode_items, keep_states=keep_states)
        results = run_batches(entries, prepare, encode, batch_size, num_workers)
        total = len(entries) if hasattr(entries, "__len__") else None
        for result in with_progress(results, total, unit=f"{kind}s", shown=progress):
            if isinstance(result, Failure):
                failures.append((result.item, result.message))
                continue
            item, item_features, item_states = result
            items.append(item)
            features.append(item_features)
            if item_states is not None:
                states.append(item_states)
        if not items:
            raise ValueError(
                f"The collection has no {kind} that can be loaded"
                + "".join(f"\n{message}" for _, message in failures[:5])
                + ("" if failures else "; it is empty.")
            )
        return RetrievalIndex(kind, items, torch.stack(features), states or None, failures)

    def __call__(
        self,
        query: Any,
        index: RetrievalIndex | None = None,
        images: Any = None,
        texts: Any = None,
        **kwargs: Any,
    ) -> Any:
        """
        Args:
            query: a text (to retrieve images) or an image (to retrieve texts), or a list, a dataset or a generator of
                them. A string is a text if the collection has images, and the path or URL of an image if it has texts,
                unless `query_type` (`"text"` or `"image"`) is given. A query of the kind of the collection is ranked by
                cosine similarity only.
            index ([`RetrievalIndex`], *optional*): the encoded collection.
            images, texts (*optional*): a collection as in [`index`], which is encoded for this call only.
            kwargs: `top_k` (number of results, defaults to 5), `num_candidates` (number of candidates to re-rank,
                defaults to 16, and at least `top_k`), `rerank` (defaults to `True`; otherwise the score is the cosine
                similarity), `batch_size`, `num_workers` and `on_error`, see [`LavisPipeline`]. With
                `on_error="return"`, the images of a collection that cannot be loaded are left out, and are not counted
                in `"index"`.

        Returns:
            For each query a list, best first, of `"index"` (index in the collection), `"image"` or `"text"` (the item),
            `"score"` (cosine similarity plus matching logit) and `"similarity"` (cosine similarity).
        """
        if sum(collection is not None for collection in (index, images, texts)) != 1:
            raise ValueError(f"Pass one collection: index=, {self.modality}s= or texts=.")
        if index is None:
            options = {name: kwargs[name] for name in ("batch_size", "num_workers", "on_error") if name in kwargs}
            index = self._make_index(images, texts, **options)
        kwargs.setdefault("query_type", self.modality if index.kind == "text" else "text")
        if kwargs["query_type"] not in ("text", self.modality):
            raise ValueError(f"query_type is {kwargs['query_type']!r}; expected 'text' or {self.modality!r}.")
        return self._run(self._parse_entries(query), index=index, **kwargs)

    def query_features(self, queries: list[Any], query_type: str) -> Tensor:
        """
        Features of queries, for a search outside the pipeline.

        Args:
            queries (`list`): texts, or images or videos as the pipeline takes them.
            query_type (`str`): `"text"`, or `"image"` or `"video"`.

        Returns:
            `Tensor` of shape `(B, P)`, or `(B, Q, P)` for images and a Q-Former: normalized features, in float32.
        """
        name = "query" if query_type == "text" else self.modality
        rows = [self._prepare({name: query}, query_type=query_type) for query in queries]
        with self.device_placement(), torch.no_grad():
            return self._encode(self._ensure_tensor_on_device(self.collate(rows), device=self.device)).features.cpu()

    def item_steps(self, keep_states: bool = False) -> tuple[Callable[[Any], Any], Callable[[list[Any]], list[Any]]]:
        """
        The two steps of encoding a collection, as [`LavisPipeline.steps`] gives those of a call.

        Args:
            keep_states (`bool`, *optional*, defaults to `False`): give the hidden states, too.

        Returns:
            As [`LavisPipeline.steps`]; a result is the features `(P,)` or `(Q, P)` of an image or a video, and its
            hidden states `(N, D)` or `None`.
        """

        def run(rows: list[Any]) -> list[tuple[Tensor, Tensor | None]]:
            return [(features, states) for _, features, states in self._encode_items(rows, keep_states)]

        return functools.partial(self._prepare_item, on_error="return"), run

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["query_type"] == "text":
            return {"text": self.get_text(row, "query")}
        return {"pixel_values": self.get_pixel_values(row, self.modality if self.modality in row else "query")}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        if "text" in rows[0]:
            return {"tokens": self.tokenize([row["text"] for row in rows])}
        return {"pixel_values": stack_pixel_values(rows)}

    def _forward(
        self,
        batch: dict[str, Any],
        index: RetrievalIndex,
        num_candidates: int = 16,
        rerank: bool = True,
        top_k: int = 5,
    ) -> list[dict[str, Any]]:
        if not is_positive(top_k) or not is_positive(num_candidates):
            raise ValueError(f"top_k is {top_k} and num_candidates is {num_candidates}; expected positive integers.")
        queries = self._encode(batch)
        similarity = self._compare(queries, index)
        rerank = rerank and queries.kind != index.kind
        candidates = select_candidates(similarity, max(num_candidates, top_k) if rerank else top_k)
        logits = self._match(queries, candidates, index) if rerank else None
        ranked = rank_candidates(candidates, similarity, logits, top_k)
        return [
            {
                "indices": indices,
                "scores": scores,
                "similarities": similarities,
                "items": [index.items[row] for row in indices.tolist()],
                "kind": index.kind,
            }
            for indices, scores, similarities in zip(*ranked)
        ]

    def postprocess(self, output: dict[str, Any]) -> list[dict[str, Any]]:
        columns = (output[name].tolist() for name in ("indices", "scores", "similarities"))
        return [
            {"index": row, **_named(item, output["kind"]), "score": score, "similarity": similarity}
            for item, row, score, similarity in zip(output["items"], *columns)
        ]

    # ---- encoding and ranking ----

    def _encode(self, batch: dict[str, Any]) -> _Encoded:
        """Encode a batch of queries or of items."""
        if "tokens" in batch:
            features, inputs = encode_texts(self.model, batch["tokens"])
            return _Encoded("text", features.float(), inputs)
        image_embeds = self.model.encode_images(batch["pixel_values"])
        return _Encoded(self.modality, self.model.project_images(image_embeds).float(), image_embeds)

    def _prepare_item(self, entry: Any, on_error: str) -> Any:
        """
        Preprocess an image of a collection; the result includes the image as it was passed. A row with the time range
        of a video stays a row, so that the same part is loaded again for re-ranking.
        """
        item = entry
        if isinstance(entry, Mapping) and self.modality in entry:
            time_range = {name: entry[name] for name in _TIME_RANGE if entry.get(name) is not None}
            item = entry[self.modality]
            if self.modality == "video" and time_range:
                item = {self.modality: item, **time_range}
        row = self._prepare(self._item_row(item), on_error, query_type=self.modality)
        return row._replace(item=item) if isinstance(row, Failure) else {**row, "item": item}

    def _item_row(self, item: Any) -> dict[str, Any]:
        """The row of an item of a collection."""
        return dict(item) if isinstance(item, Mapping) and self.modality in item else {self.modality: item}

    def _encode_items(self, rows: list[dict[str, Any]], keep_states: bool) -> list[tuple[Any, Tensor, Tensor | None]]:
        """Encode items of a collection: for each the item, its features and, if they are kept, its hidden states."""
        with self.device_placement(), torch.no_grad():
            encoded = self._encode(self._ensure_tensor_on_device(self.collate(rows), device=self.device))
        inputs = encoded.inputs
        states: list[Any] = [None] * len(rows)
        if keep_states and isinstance(inputs, Tensor):
            states = list(inputs.cpu())
        elif keep_states and not isinstance(inputs, Tensor) and "text_embeds" in inputs:
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            # copies, since views would keep the padding in memory
            states = [row[:length].clone() for row, length in zip(inputs["text_embeds"].cpu(), lengths)]
        return list(zip([row["item"] for row in rows], encoded.features.cpu(), states))

    def _compare(self, queries: _Encoded, index: RetrievalIndex) -> Tensor:
        """Cosine similarities `(B, I)` of queries with the items of an index."""
        features = index.features.to(queries.features)
        if queries.kind != index.kind:
            if queries.kind == "text":
                return self.model.compare_features(features, queries.features).T
            return self.model.compare_features(queries.features, features)
        if features.ndim != 2:
            raise ValueError(
                f"{type(unwrap_adapters(self.model)).__name__} has several features per image and compares images with"
                " texts only. Retrieve images by text, or texts by image."
            )
        return queries.features @ features.T

    def _match(self, queries: _Encoded, candidates: Tensor, index: RetrievalIndex) -> Tensor:
        """Matching logits `(B, k, 2)` of queries and their candidates `(B, k)`."""
        rows = torch.arange(len(candidates), device=candidates.device)[:, None].expand_as(candidates)
        if isinstance(queries.inputs, Tensor):
            items, columns = candidates.unique(return_inverse=True)
            pairs = torch.stack([rows.flatten(), columns.flatten()], dim=1)
            logits = matching_logits(self.model, queries.inputs, self._load_texts(index, items.tolist()), pairs)
        else:
            pairs = torch.stack([candidates.flatten(), rows.flatten()], dim=1)
            load = functools.partial(self._load_images, index)
            logits = matching_logits(self.model, load, queries.inputs, pairs)
        return logits.view(*candidates.shape, 2)

    def _load_images(self, index: RetrievalIndex, rows: list[int]) -> Tensor:
        """Hidden states `(images, N, D)` of images of an index, computed again where they were not kept."""
        found = [None if index.states is None else index.states[row] for row in rows]
        prepared = [
            {"pixel_values": self.get_pixel_values(self._item_row(index.items[row]), self.modality)}
            for row, states in zip(rows, found)
            if states is None
        ]
        encoded: Any = ()
        if prepared:
            encoded = self.model.encode_images(stack_pixel_values(prepared).to(self.device))
            if len(prepared) == len(rows):
                return encoded
        remaining = iter(encoded)
        return torch.stack([next(remaining) if states is None else self._on_device(states) for states in found])

    def _on_device(self, states: Tensor) -> Tensor:
        """Hidden states as the model takes them; on disk they are float32."""
        return states.to(self.device, self.model.dtype)

    def _load_texts(self, index: RetrievalIndex, rows: list[int]) -> dict[str, Tensor]:
        """The inputs of `score_pairs` for texts of an index, with their hidden states if they were kept."""
        tokens = self.tokenize([index.items[row] for row in rows])
        inputs = {name: values.to(self.device) for name, values in tokens.items()}
        states = [] if index.states is None else [index.states[row] for row in rows]
        stored = [self._on_device(entry) for entry in states if entry is not None]
        if stored and len(stored) == len(rows):
            inputs["text_embeds"] = pad_sequence(stored, batch_first=True)
        return inputs


def _prepare_text(text: str) -> dict[str, str]:
    return {"text": text, "item": text}


def _named(item: Any, kind: Kind) -> dict[str, Any]:
    """An item of a collection in a result; a video with its time range, if it has one."""
    return dict(item) if isinstance(item, Mapping) and kind in item else {kind: item}
