# SPDX-License-Identifier: Apache-2.0
"""`image-text-retrieval`: find pictures by a text, or texts by a picture.

As in the published evaluation, all of the collection is compared by cosine first, then the best are read together with
the query and ranked by matching logit plus cosine.

Letters: B queries of a batch, I items of the collection, k candidates, N image tokens, T text tokens, D width,
P common width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from modeling_lavis.pipelines.base import LavisPipeline, one_picture_per_row
from modeling_lavis.pipelines.inputs import Failure, PreparedRows, PreparedStream, sort_inputs
from modeling_lavis.pipelines.matching import TEXTS_AT_ONCE, read_texts

Kind = Literal["image", "video", "text"]
PICTURES_AT_ONCE = 32


@dataclass
class RetrievalIndex:
    """
    An encoded collection, made by [`ImageTextRetrievalPipeline.index`] or from stored features.

    Args:
        kind (`str`): `"image"`, `"video"` or `"text"`.
        items (`list`): the pictures (as they were given) or texts, one per row of the features.
        features (`Tensor` of shape `(I, P)`, or `(I, Q, P)` for pictures with Q features each): projected and
            normalised.
        states (`list[Tensor]`, *optional*): states (N, D) of each picture, or (T, D) of each text where matching
            begins with them. Without them the candidates of each query are encoded again when they are re-ranked, for
            which pictures are opened again.
        failures (`list`): `(item, message)` of what could not be read, with `on_error="return"`.
    """

    kind: Kind
    items: list[Any]
    features: Tensor
    states: list[Tensor] | None = None
    failures: list[tuple[Any, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.kind not in ("image", "video", "text"):
            raise ValueError(f"The kind of an index is {self.kind!r}; expected 'image', 'video' or 'text'.")
        self.features = torch.as_tensor(self.features)
        if self.features.ndim not in (2, 3) or len(self.features) != len(self.items):
            raise ValueError(
                f"An index of {len(self.items)} items got features of shape {tuple(self.features.shape)}; expected one "
                "row per item."
            )

    def __len__(self) -> int:
        return len(self.items)


class ImageTextRetrievalPipeline(LavisPipeline):
    """
    Searches a collection of pictures with texts, or a collection of texts with pictures.

    Example:

    ```python
    >>> searcher = pipeline("image-text-retrieval", model="my-matcher")  # doctest: +SKIP
    >>> photos = searcher.index(images=["beach.jpg", "forest.jpg"])  # doctest: +SKIP
    >>> searcher("a dog", index=photos, top_k=1)  # doctest: +SKIP
    [{'index': 0, 'image': 'beach.jpg', 'score': 4.2, 'similarity': 0.41}]
    >>> searcher("beach.jpg", texts=["a dog", "a cat"], top_k=1)  # doctest: +SKIP
    [{'index': 0, 'text': 'a dog', 'score': 4.2, 'similarity': 0.41}]

    ```
    """

    heads: tuple[str, ...] = ("ForImageTextRetrieval", "ForPreTraining")
    methods = ("encode_images", "project_images", "get_text_features", "score_pairs")
    preprocess_options = ("query_type",)
    forward_options = ("index", "num_candidates", "rerank", "top_k")
    input_name = "query"
    #: what the collection holds beside texts
    seen: Kind = "image"

    def index(
        self,
        images: Any = None,
        texts: Any = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        keep_states: bool = True,
        on_error: str = "raise",
    ) -> RetrievalIndex:
        """
        Encode a collection once, to be searched many times.

        Args:
            images: a list, a data set or a generator of pictures (paths, URLs, PIL images, arrays) or of rows
                `{"image": ...}`.
            texts: or a list of strings.
            batch_size, num_workers (`int`, *optional*): as for the pipeline.
            keep_states (`bool`, *optional*, defaults to `True`): keep what re-ranking reads of each picture, about
                1.8 MB for a ViT-B at 384 px in float32, or of each text, 3 kB per token. `False` keeps the features
                only, 1 kB.
            on_error (`str`, *optional*, defaults to `"raise"`): `"return"` leaves unreadable pictures out and lists
                them in `failures`.

        Returns:
            [`RetrievalIndex`].
        """
        return self._make_index(images, texts, batch_size, num_workers, keep_states, on_error)

    def _make_index(
        self,
        images: Any,
        texts: Any,
        batch_size: int | None = None,
        num_workers: int | None = None,
        keep_states: bool = True,
        on_error: str = "raise",
    ) -> RetrievalIndex:
        if (images is None) == (texts is None):
            raise ValueError(f"A collection is made of {self.seen}s= or of texts=; give one of them.")
        if texts is not None:
            texts = [texts] if isinstance(texts, str) else list(texts)
            if not texts or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"texts is {texts!r}; expected a list of at least one string.")
            return RetrievalIndex("text", texts, *self._read_collection(texts, keep_states))
        items, states, features, failures = [], [], [], []
        for entry, result in self._encoded(images, batch_size, num_workers, on_error):
            if isinstance(result, Failure):
                failures.append((entry, result.message))
                continue
            items.append(entry)
            features.append(result[1])
            if keep_states:
                states.append(result[0])
        if not items:
            raise ValueError(
                f"The collection has no {self.seen} that can be read"
                + "".join(f"\n{message}" for _, message in failures[:5])
                + ("" if failures else "; it is empty.")
            )
        return RetrievalIndex(self.seen, items, torch.stack(features), states if keep_states else None, failures)

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
            query: a text (to find pictures) or a picture (to find texts), or a list, a data set or a generator of
                them. A string is a text when pictures are searched and an address when texts are; `query_type`
                (`"text"` or `"image"`) says otherwise, and then like is compared with like, by cosine alone.
            index ([`RetrievalIndex`], *optional*): the collection.
            images, texts (*optional*): or the collection as [`index`] takes it, encoded for this call.
            kwargs: `top_k` (how many are found, default 5), `num_candidates` (how many are re-ranked, default 16, and
                at least `top_k`), `rerank` (default True; with False the score is the cosine), `batch_size`,
                `num_workers`, `on_error` (see [`LavisPipeline`]; a collection given here leaves out what it cannot
                read, and does not count it).

        Returns:
            For each query a list, best first, of `"index"` (place in the collection), `"image"` or `"text"` (the item),
            `"score"` (matching logit plus cosine) and `"similarity"` (cosine).
        """
        if sum(collection is not None for collection in (index, images, texts)) != 1:
            raise ValueError(f"Give one collection to search: index=, {self.seen}s= or texts=.")
        if index is None:
            sizes = {name: kwargs[name] for name in ("batch_size", "num_workers", "on_error") if name in kwargs}
            index = self._make_index(images, texts, **sizes)
        kwargs.setdefault("query_type", self.seen if index.kind == "text" else "text")
        if kwargs["query_type"] not in ("text", self.seen):
            raise ValueError(f"query_type is {kwargs['query_type']!r}; expected 'text' or {self.seen!r}.")
        return self._run(sort_inputs(query, self.is_one), index=index, **kwargs)

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["query_type"] == "text":
            return {"text": self.text(row, "query")}
        return {"pixel_values": self.pixels(row, self.seen if self.seen in row else "query")}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        if "text" in rows[0]:
            return {"tokens": self.tokens([row["text"] for row in rows])}
        return {"pixel_values": one_picture_per_row(rows)}

    def _forward(
        self,
        batch: dict[str, Any],
        index: RetrievalIndex,
        num_candidates: int = 16,
        rerank: bool = True,
        top_k: int = 5,
    ) -> list[dict[str, Any]]:
        if top_k < 1 or num_candidates < 1:
            raise ValueError(f"top_k is {top_k} and num_candidates {num_candidates}; expected at least 1.")
        states = None
        if "tokens" in batch:
            kind = "text"
            features, batch["tokens"] = read_texts(self.model, batch["tokens"])
        else:
            states = self.model.encode_images(batch["pixel_values"])
            kind, features = self.seen, self.model.project_images(states).float()
        cosine = self._cosine(kind, features, index)  # (B, I)
        rerank = rerank and kind != index.kind
        wanted = max(num_candidates, top_k) if rerank else top_k
        similarity, candidates = cosine.topk(min(wanted, len(index)), dim=1)  # (B, k)
        scores = similarity
        if rerank:
            if states is None:
                logits = self._match_images(batch["tokens"], candidates, index)
            else:
                logits = self._match_texts(states, candidates, index)
            scores = similarity + logits
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]
        columns = (candidates.gather(1, order), scores.gather(1, order), similarity.gather(1, order))
        return [
            {"index": row[0], "scores": row[1], "similarities": row[2], "items": index.items, "kind": index.kind}
            for row in zip(*columns)
        ]

    def postprocess(self, output: dict[str, Any]) -> list[dict[str, Any]]:
        columns = (output[name].tolist() for name in ("index", "scores", "similarities"))
        return [
            {"index": place, output["kind"]: output["items"][place], "score": score, "similarity": similarity}
            for place, score, similarity in zip(*columns)
        ]

    # ---- parts ----

    def _match_texts(self, states: Tensor, candidates: Tensor, index: RetrievalIndex) -> Tensor:
        """Matching logits (B, k) of pictures with states (B, N, D) and their candidate texts."""
        needed, place = candidates.unique(return_inverse=True)
        tokens = self._on_device(self.tokens([index.items[item] for item in needed.tolist()]))
        if index.states is not None:
            embeds = [index.states[item] for item in needed.tolist()]
            tokens["text_embeds"] = pad_sequence(embeds, batch_first=True).to(self.device)
        rows = torch.arange(len(candidates), device=place.device)[:, None].expand_as(place)
        pairs = torch.stack([rows.flatten(), place.flatten()], dim=1)
        return self.model.score_pairs(states, tokens, pairs).logits[:, 1].float().view_as(place)

    def _match_images(self, tokens: dict[str, Tensor], candidates: Tensor, index: RetrievalIndex) -> Tensor:
        """Matching logits (B, k) of texts and their candidate pictures, a few dozen pictures at a time."""
        logits = torch.empty(candidates.shape, device=candidates.device)
        for needed in candidates.unique().split(PICTURES_AT_ONCE):
            row, column = torch.isin(candidates, needed).nonzero(as_tuple=True)
            pairs = torch.stack([torch.searchsorted(needed, candidates[row, column]), row], dim=1)
            states = self._states_of(index, needed.tolist())
            logits[row, column] = self.model.score_pairs(states, tokens, pairs).logits[:, 1].float()
        return logits

    def _states_of(self, index: RetrievalIndex, items: list[int]) -> Tensor:
        """States (n, N, D) of some pictures of an index."""
        if index.states is not None:
            return torch.stack([index.states[item] for item in items]).to(self.device)
        rows = [{"pixel_values": self.pixels({self.seen: index.items[item]}, self.seen)} for item in items]
        return self.model.encode_images(one_picture_per_row(rows).to(self.device))

    def _cosine(self, kind: str, features: Tensor, index: RetrievalIndex) -> Tensor:
        """Cosine (B, I) of the features of queries with those of an index."""
        indexed = index.features.to(features)
        if kind == "text" != index.kind:
            return self.model.compare_features(indexed, features).T
        if kind != index.kind:
            return self.model.compare_features(features, indexed)
        if features.ndim != 2:
            raise ValueError(
                f"{type(self.model).__name__} has several features for each picture and compares pictures with texts "
                "only. Search pictures by texts, or texts by pictures."
            )
        return features @ indexed.T

    def _read_collection(self, texts: list[str], keep_states: bool) -> tuple[Tensor, list[Tensor] | None]:
        """Features (I, P) of texts and, where matching begins with them, the states (T, D) of each."""
        features: list[Tensor] = []
        states: list[Tensor] = []
        with self.device_placement(), torch.no_grad():
            for start in range(0, len(texts), TEXTS_AT_ONCE):
                tokens = self._on_device(self.tokens(texts[start : start + TEXTS_AT_ONCE]))
                found, tokens = read_texts(self.model, tokens)
                features.append(found.cpu())
                if keep_states and "text_embeds" in tokens:
                    lengths = tokens["attention_mask"].sum(dim=1).tolist()
                    # cloned, so that padding is not kept
                    states += [row[:length].cpu().clone() for row, length in zip(tokens["text_embeds"], lengths)]
        return torch.cat(features), states or None

    def _encoded(
        self, images: Any, batch_size: int | None, num_workers: int | None, on_error: str
    ) -> Iterator[tuple[Any, Any]]:
        """Each picture with its states (N, D) and features (P,), or with a [`Failure`]."""
        self._sanitize_parameters(on_error=on_error)

        def prepare(entry: Any) -> tuple[Any, Any]:
            picture = entry[self.seen] if isinstance(entry, dict) and self.seen in entry else entry
            try:
                return picture, self.pixels({self.seen: picture}, self.seen)
            except (OSError, ValueError, TypeError) as error:
                if on_error == "raise":
                    raise
                return picture, Failure(str(error))

        found = sort_inputs(images, self.is_one)
        stream = found.lazy and not hasattr(found.entries, "__getitem__")
        rows: Any = PreparedStream(found.entries, prepare) if stream else PreparedRows(found.entries, prepare)
        workers = num_workers or self._num_workers or 0
        loader = DataLoader(
            rows,
            batch_size=batch_size or self._batch_size or 1,
            num_workers=min(workers, 1) if stream else workers,
            collate_fn=list,
        )
        for batch in loader:
            good = [{"pixel_values": pixels} for _, pixels in batch if not isinstance(pixels, Failure)]
            results: Iterator[Any] = iter(())
            if good:
                with self.device_placement(), torch.no_grad():
                    states = self.model.encode_images(one_picture_per_row(good).to(self.device))
                    features = self.model.project_images(states).float()
                results = iter(zip(states.cpu(), features.cpu()))
            for picture, pixels in batch:
                yield picture, pixels if isinstance(pixels, Failure) else next(results)

    def _on_device(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: values.to(self.device) for name, values in tokens.items()}
