# SPDX-License-Identifier: Apache-2.0
"""Queries to an index: candidates by cosine similarity, the best of them ranked again by the matching head."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from modeling_lavis.data.media_files import URLS
from modeling_lavis.evaluation.retrieval import IMAGE_CHUNK_SIZE
from modeling_lavis.pipelines.inputs import Failure
from modeling_lavis.pipelines.loading import load
from modeling_lavis.pipelines.retrieval import ImageTextRetrievalPipeline, RetrievalIndex
from modeling_lavis.search.features import TASKS, features_identity
from modeling_lavis.search.index import SearchIndex

_LOGGER = logging.getLogger(__name__)
_WARNINGS = {
    "missing": "does not exist any more",
    "changed": "has changed since it was indexed",
    "unreadable": "cannot be read any more",
}


class Searcher:
    """
    Searches an index of images or videos.

    ```python
    >>> from modeling_lavis import search  # doctest: +SKIP
    >>> searcher = search.Searcher("photos.index")  # doctest: +SKIP
    >>> searcher("a dog on a beach", top_k=1)  # doctest: +SKIP
    [{'row': 17, 'file': 'photos/beach.jpg', 'score': 4.2, 'similarity': 0.41, 'state': 'unchanged'}]

    ```

    Args:
        index (`str`, `os.PathLike` or [`SearchIndex`]): the index.
        model (*optional*): folder or Hub id of its model, or a retrieval pipeline; by default the model that the index
            was made with, from where it was.
        device (*optional*), dtype (*optional*, defaults to `"auto"`): for a model that is given by its name.

    Raises:
        ValueError: the index is of another model, or of texts. OSError: there is no such index or model.
    """

    def __init__(self, index: Any, model: Any = None, *, device: Any = None, dtype: Any = "auto") -> None:
        self.index = index if isinstance(index, SearchIndex) else SearchIndex(index)
        head = self.index.files.head
        if self.index.kind == "text":
            raise ValueError("This is an index of texts; load it with RetrievalIndex.load for the retrieval pipeline.")
        model = head.get("model_name") if model is None else model
        if model is None:
            raise ValueError(f"{self.index.folder} does not say where its model is. Give the model.")
        is_name = isinstance(model, (str, os.PathLike))
        self.pipe: ImageTextRetrievalPipeline = load(TASKS, model, device, dtype) if is_name else model
        if (had := head.get("model")) is not None:
            found = features_identity(self.pipe)
            if different := [name for name, value in had.items() if found.get(name) != value]:
                raise ValueError(
                    f"The index {self.index.folder} is of another model: its {', '.join(different)} differ. Give the"
                    " model that it was made with, or make the index again."
                )
        if self.pipe.modality != self.index.kind:
            raise ValueError(f"The index has {self.index.kind}s, but the model takes {self.pipe.modality}s.")

    def __call__(
        self,
        text: str | None = None,
        medium: Any = None,
        *,
        top_k: int = 10,
        num_candidates: int = 64,
        rerank: bool = True,
        exact: bool = False,
    ) -> list[dict[str, Any]]:
        """
        Search by a text, by an image or a video, or by both.

        Args:
            text (`str`, *optional*): what to search for.
            medium (*optional*): an image or a video, as the pipeline takes them. With a text, candidates are those most
                similar to the sum of both features, and the matching head ranks them by the text.
            top_k (`int`, *optional*, defaults to 10): number of results.
            num_candidates (`int`, *optional*, defaults to 64): number of candidates that are ranked again, at least
                `top_k`.
            rerank (`bool`, *optional*, defaults to `True`): rank the candidates again by matching logit plus cosine
                similarity, from the hidden states that the index has, or else from their files. Without a text, or for
                items that are not files and have no states, the score is the cosine similarity.
            exact (`bool`, *optional*, defaults to `False`): compare with all items, also if there is a FAISS index.

        Returns:
            `list[dict[str, Any]]`: best first, `"row"` of the index, `"file"`, `"start"` and `"end"` of a part of a
            video, `"score"`, `"similarity"` (to the text, or to both) and `"state"` of the file: `"unchanged"`,
            `"changed"` since it was indexed, `"missing"`, `"unreadable"`, or `"unknown"`. What cannot be ranked again
            ranks by its similarity, after the others.

        Raises:
            ValueError: there is neither a text nor a medium, or a number is not positive.
        """
        if text is None and medium is None:
            raise ValueError("There is nothing to search for. Give a text, an image or a video, or both.")
        if min(top_k, num_candidates) < 1:
            raise ValueError(f"top_k is {top_k} and num_candidates is {num_candidates}; expected positive integers.")
        rerank = rerank and text is not None
        found = self.index.nearest(self._features(text, medium), max(num_candidates, top_k) if rerank else top_k, exact)
        results = []
        for row, similarity in zip(found.indices[0].tolist(), found.similarities[0].tolist()):
            if similarity == -torch.inf:  # an approximate index found fewer
                continue
            record, state = self.index.record(row), self.index.state(row)
            times = {name: record[name] for name in ("start", "end") if record[name] is not None}
            scores = {"score": similarity, "similarity": similarity, "state": state}
            results.append({"row": row, "file": record["file"], **times, **scores})
        if rerank and text is not None:
            results = self._rerank(text, results)
        _warn_of_files(results)
        return results[:top_k]

    def _features(self, text: str | None, medium: Any) -> Tensor:
        """Features of a query, `(1, P)` or `(1, Q, P)`."""
        parts = []
        if text is not None:
            parts.append(self.pipe.query_features([text], "text"))
        if medium is not None:
            parts.append(self.pipe.query_features([medium], self.pipe.modality))
        if len(parts) == 2 and parts[0].shape != parts[1].shape:
            raise ValueError("This model has several features per image; search by a text alone.")
        return torch.nn.functional.normalize(sum(parts[1:], parts[0]), dim=-1)

    def _rerank(self, text: str, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The results by matching logit plus cosine similarity, then those without hidden states."""
        states = self._states(results)
        ranked = [result for result in results if result["row"] in states]
        others = [result for result in results if result["row"] not in states]
        if not ranked:
            return others
        rows = [result["row"] for result in ranked]
        candidates = RetrievalIndex(
            self.pipe.modality,
            [self.index.item(row) for row in rows],
            torch.from_numpy(self.index.files.vectors[rows]),
            [states[row] for row in rows],
        )
        found = self.pipe(text, index=candidates, num_candidates=len(rows), top_k=len(rows), query_type="text")
        best = [
            {**ranked[entry["index"]], "score": entry["score"], "similarity": entry["similarity"]} for entry in found
        ]
        return [*best, *others]

    def _states(self, results: Sequence[dict[str, Any]]) -> dict[int, Tensor]:
        """Hidden states `(N, D)` of results by row: those that the index has, or else computed from their files."""
        stored, states, to_read = self.index.files.states, dict[int, Tensor](), []
        for result in results:
            values = None if stored is None else stored[result["row"]]
            if values is not None:
                states[result["row"]] = values
            elif _can_be_read(result):
                to_read.append(result)
        for first in range(0, len(to_read), IMAGE_CHUNK_SIZE):
            states |= self._encoded(to_read[first : first + IMAGE_CHUNK_SIZE])
        return states

    def _encoded(self, results: Sequence[dict[str, Any]]) -> dict[int, Tensor]:
        """Hidden states of the files of results by row. A result whose file cannot be read gets that state."""
        prepare, encode = self.pipe.item_steps(keep_states=True)
        prepared = {}
        for result in results:
            item = prepare(self.index.item(result["row"]))
            if isinstance(item, Failure):
                result["state"] = "unreadable"
            else:
                prepared[result["row"]] = item
        encoded = encode(list(prepared.values())) if prepared else []
        return {row: states for row, (_, states) in zip(prepared, encoded)}


def _can_be_read(result: Mapping[str, Any]) -> bool:
    """Whether the item of a result is a file, or a URL."""
    return result["state"] in ("unchanged", "changed") or (
        result["state"] == "unknown" and result["file"].startswith(URLS)
    )


def _warn_of_files(results: Sequence[Mapping[str, Any]]) -> None:
    """Log which files are not as they were."""
    for state, what in _WARNINGS.items():
        if names := [result["file"] for result in results if result["state"] == state]:
            others = f", and {len(names) - 1} others" if len(names) > 1 else ""
            _LOGGER.warning("%s %s%s; bring the index up to date.", names[0], what, others)


__all__ = ["Searcher"]
