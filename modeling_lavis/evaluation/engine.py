# SPDX-License-Identifier: Apache-2.0
"""Two-stage retrieval of collections of any size (ALBEF, section 4, https://arxiv.org/abs/2107.07651).

1. Texts and images are encoded once, in groups that processes share and that are stored when there is a work folder.
2. The candidates of both directions are the most similar columns of each row.
3. One pass over the images, group by group: all texts that either direction wants of an image are matched with it
   together, so that its keys and values are computed once and no pair is scored twice.

What a group computes does not depend on the process that computes it, nor on where hidden states wait; so scores do not
either, and a run that was interrupted ends with the scores of one that was not.

Shapes: I images, S texts, K pairs, k candidates per row, b images of a group, T text tokens, P projection dimension.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils.data import DataLoader

from modeling_lavis.evaluation.candidates import Candidates, Ranking, exact_candidates, faiss_candidates
from modeling_lavis.evaluation.encoders import RetrievalEncoder, required
from modeling_lavis.evaluation.retrieval import (
    NOT_RANKED,
    TEXT_BATCH_SIZE,
    RankedCandidates,
    rank_scored_candidates,
)
from modeling_lavis.evaluation.states import Budget, GroupStates, TextStates, tokens_of
from modeling_lavis.evaluation.work_folder import WorkFolder, digest, model_digest
from modeling_lavis.models.distributed import gather, rank, world_size
from modeling_lavis.progress import Progress, Shown

#: default of the hidden states in memory, in bytes
MEMORY_BUDGET = 4 * 2**30


class ImageCollection(Protocol):
    """Images or clips that are loaded by rows, such as a tensor `(I, C, H, W)`."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: list[int], /) -> Tensor | Mapping[str, Tensor]:
        """Pixels `(b, ...)` of some rows, or the inputs of `get_image_features` by name."""


@dataclass
class RetrievalResult:
    """
    Candidates of both directions with their scores.

    Args:
        image_to_text ([`RankedCandidates`] with I rows): texts of each image, best first.
        text_to_image ([`RankedCandidates`] with S rows): images of each text, best first.
        image_features (`Tensor` of shape `(I, P)` or `(I, Q, P)`, *optional*), text_features (`Tensor` of shape
            `(S, P)`, *optional*): normalized features; `None` in a run that continued after its first stage.
        num_pairs (`int`): pairs that the matching head scored; 0 without re-ranking.
        states (`dict[str, int]`): images whose hidden states waited in `"memory"`, on `"disk"`, or were `"recomputed"`,
            in this process.
        seconds (`dict[str, float]`): time that this process spent with `"texts"`, `"images"`, `"candidates"` and
            `"pairs"`.
    """

    image_to_text: RankedCandidates
    text_to_image: RankedCandidates
    image_features: Tensor | None
    text_features: Tensor | None
    num_pairs: int
    states: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """
        Dense scores: `(I, S)` of the texts of each image and `(S, I)` of the images of each text, -100 for what is no
        candidate. They need 8 bytes per pair of an image and a text.
        """
        num_images, num_texts = len(self.image_to_text.indices), len(self.text_to_image.indices)
        return _dense(self.image_to_text, num_texts), _dense(self.text_to_image, num_images)


def _dense(ranked: RankedCandidates, columns: int) -> Tensor:
    scores = ranked.scores.new_full((len(ranked.scores), columns), NOT_RANKED)
    return scores.scatter_(1, ranked.indices, ranked.scores)


class RetrievalEngine:
    """
    Ranks the texts of each image and the images of each text of a collection.

    Under `torch.distributed` every process calls [`run`] with the same collection; they share the work, and all get the
    whole result. Only image features, candidates and scores travel, not the hidden states of images.

    Args:
        model: a retrieval head of this package; any model with `get_image_features` and `get_text_features`, such as
            transformers' CLIP and SigLIP, whose candidates are ranked by similarity; or such a model that also has
            `score_pairs(hidden_states, texts, pairs)`. Clips take the place of images in video heads.
        k (`int`, *optional*, defaults to 128): candidates of each row. LAVIS's recipes have 256 for COCO, 128 for
            Flickr30k and 1000 for MSRVTT.
        batch_size (`int`, *optional*, defaults to 32): images of a group, which are encoded together.
        text_batch_size (`int`, *optional*, defaults to 256): texts that are encoded together, sorted by length.
        rerank (`bool`, *optional*): whether the candidates are scored by the matching head; by default if there is one.
        index (`str`, *optional*, defaults to `"exact"`): `"exact"` compares everything, in blocks. `"faiss"` searches
            with FAISS's exact index, `"faiss:HNSW32"` and the like with another one of its `index_factory`.
        memory_budget (`int`, *optional*, defaults to 4 GiB): bytes of hidden states that each process may keep in
            memory. An image of a ViT-B at 384 pixels has 1.8 MB in float32, a token of a text 3 kB.
        disk_budget (`int`, *optional*, defaults to 0): bytes of hidden states that each process may keep in
            memory-mapped files, when the memory is used up; the other images are encoded again for re-ranking. The
            files are in `work_dir`, or in the folder of temporary files, and are removed at the end.
        work_dir (`str` or `os.PathLike`, *optional*): folder for finished parts. A run that was interrupted continues
            there; several processes need a folder that all can see.
        num_workers (`int`, *optional*, defaults to 0): processes that load images.
        progress (`bool` or `TextIO`, *optional*): whether or where progress is shown, see
            `modeling_lavis.progress.Progress`; by default on a terminal.

    Raises:
        TypeError: If the model lacks `get_image_features` or `get_text_features`.
        ValueError: If an option has an unsupported value, or `rerank=True` and the model has no `score_pairs`.

    Example:

    ```python
    >>> engine = RetrievalEngine(model, k=16, work_dir="coco")  # doctest: +SKIP
    >>> result = engine.run(pixel_values, texts)  # doctest: +SKIP
    >>> result.image_to_text.indices[0, 0]  # best text of the first image  # doctest: +SKIP
    tensor(3)

    ```
    """

    def __init__(
        self,
        model: Any,
        k: int = 128,
        batch_size: int = 32,
        text_batch_size: int = TEXT_BATCH_SIZE,
        rerank: bool | None = None,
        index: str = "exact",
        memory_budget: int = MEMORY_BUDGET,
        disk_budget: int = 0,
        work_dir: str | os.PathLike[str] | None = None,
        num_workers: int = 0,
        progress: Shown = None,
    ) -> None:
        self.encoder = model if isinstance(model, RetrievalEncoder) else RetrievalEncoder(model)
        if k < 1:
            raise ValueError(f"k is {k}; expected at least one candidate per row.")
        sizes = {"batch_size": batch_size, "text_batch_size": text_batch_size}
        if wrong := {name: size for name, size in sizes.items() if size < 1}:
            raise ValueError(f"Got {wrong}; expected positive numbers of images and texts.")
        counts = {"memory_budget": memory_budget, "disk_budget": disk_budget, "num_workers": num_workers}
        if wrong := {name: count for name, count in counts.items() if count < 0}:
            raise ValueError(f"Got {wrong}; expected 0 or more.")
        if index != "exact" and index.partition(":")[0] != "faiss":
            raise ValueError(
                f"index is {index!r}; expected 'exact', 'faiss', or 'faiss:' and a description of an index."
            )
        if rerank and not self.encoder.has_matching:
            raise ValueError(
                f"{type(self.encoder.model).__name__} has no score_pairs, so its candidates cannot be re-ranked; "
                "leave rerank out, or use a model with a matching head."
            )
        self.k = k
        self.batch_size = batch_size
        self.text_batch_size = text_batch_size
        self.rerank = self.encoder.has_matching if rerank is None else rerank
        self.index = index
        self.memory_budget = memory_budget
        self.disk_budget = disk_budget
        self.work_dir = None if work_dir is None else Path(work_dir)
        self.num_workers = num_workers
        self.progress = progress

    def run(
        self, images: ImageCollection, texts: Mapping[str, Tensor], identity: Mapping[str, Any] | None = None
    ) -> RetrievalResult:
        """
        Rank a collection in both directions.

        Args:
            images (`Tensor` of shape `(I, ...)` or [`ImageCollection`]): pixels of images or clips, or an object that
                loads them: `images[rows]` for a list of rows, and `len(images)`.
            texts (mapping with `input_ids` and optionally `attention_mask` of shape `(S, T)`): texts.
            identity (mapping, *optional*): further facts about the collection, from JSON types. A run in a work folder
                continues only if they are equal.

        Returns:
            [`RetrievalResult`], on the CPU.

        Raises:
            ValueError: If there are no images or no texts, or the work folder belongs to another run.
        """
        if not len(images) or not len(texts["input_ids"]):
            raise ValueError(
                f"Got {len(images)} images and {len(texts['input_ids'])} texts; retrieval needs at least one of each."
            )
        with self.encoder.evaluation(), _Run(self, images, texts, identity or {}) as run:
            return run.rank()


class _Run:
    """One run of an engine over a collection; a context manager that removes its temporary files."""

    def __init__(
        self, engine: RetrievalEngine, images: ImageCollection, texts: Mapping[str, Tensor], identity: Mapping[str, Any]
    ) -> None:
        self.engine, self.encoder = engine, engine.encoder
        self.images = images
        self.num_images = len(images)
        mask = self.encoder.attention_mask(texts).cpu()
        self.texts = {"input_ids": texts["input_ids"].cpu()}
        if self.encoder.has_steps or "attention_mask" in texts:
            self.texts["attention_mask"] = mask
        self.lengths = mask.sum(dim=1)
        self.num_texts = len(mask)
        starts = range(0, self.num_images, engine.batch_size)
        self.groups = [range(start, min(start + engine.batch_size, self.num_images)) for start in starts]
        self.own_groups = range(len(self.groups))[rank() :: world_size()]
        self.work: WorkFolder | None = None
        self.continues, self.has_candidates = False, False
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.seconds: dict[str, float] = {}
        if engine.work_dir is not None:
            self._open_work_folder(engine.work_dir, identity)
        budget = Budget(engine.memory_budget, engine.disk_budget)
        self.text_states = TextStates(self.lengths, self.encoder.device, self._encode_again)
        self._budget = budget
        self.states = GroupStates(budget, self._folder, may_have_files=self.continues)

    def __enter__(self) -> "_Run":
        return self

    def __exit__(self, *error: object) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    def rank(self) -> RetrievalResult:
        """All steps."""
        matches = self.engine.rerank
        image_features, text_features, logits = None, None, None
        if self.has_candidates and self.work is not None:
            candidates = self._read_candidates(self.work)
            if matches and self.encoder.fuses_text_states:
                with self._timed("texts"):
                    text_features = self._encode_texts()
        else:
            with self._timed("texts"):
                text_features = self._encode_texts()
            with self._timed("images"):
                image_features = self._encode_images()
            with self._timed("candidates"):
                candidates = self._search(image_features, text_features)
        if matches:
            with self._timed("pairs"):
                pairs, logits = self._match(candidates)
        ranked = [
            rank_scored_candidates(
                ranking.indices,
                ranking.similarities,
                None if logits is None else logits[torch.searchsorted(pairs, keys)],
            )
            for ranking, keys in zip(candidates, self._wanted(candidates))
        ]
        return RetrievalResult(
            image_to_text=ranked[0],
            text_to_image=ranked[1],
            image_features=None if image_features is None else image_features.cpu(),
            text_features=None if text_features is None else text_features.cpu(),
            num_pairs=0 if logits is None else len(logits),
            states=dict(self.states.images),
            seconds=self.seconds,
        )

    # ---- first stage ----

    def _encode_texts(self) -> Tensor:
        """Features `(S, P)` of all texts; their hidden states are kept, if matching starts from them."""
        order = self.lengths.argsort(stable=True) if self.encoder.has_steps else torch.arange(self.num_texts)
        batches = order.split(self.engine.text_batch_size)
        keeps = self.engine.rerank and self.encoder.fuses_text_states
        own = range(len(batches))[rank() :: world_size()]
        features, states = {}, {}
        with self._progress("texts", sum(len(batches[number]) for number in own)) as shown:
            for number in own:
                rows = batches[number]
                encoded = self.encoder.encode_texts(self._text_inputs(rows))
                features[number] = encoded.features
                if keeps and encoded.states is not None:
                    width = encoded.states.shape[1]
                    states[number] = tokens_of(encoded.states.cpu(), self.texts["attention_mask"][rows, :width])
                shown.update(len(rows))
        if keeps:
            self._share_text_states(batches, states)
        return self._gather(features, batches)

    def _text_inputs(self, rows: Tensor, length: int | None = None) -> dict[str, Tensor]:
        """Inputs of texts; those of this package's models end with the longest of them."""
        if length is None and self.encoder.has_steps:
            length = max(int(self.lengths[rows].max()), 1)
        return {name: values[rows, :length] for name, values in self.texts.items()}

    def _encode_again(self, rows: Tensor, length: int) -> Tensor:
        """Hidden states `(R, length, D)` of texts for which there is no room."""
        return required(self.encoder.encode_texts(self._text_inputs(rows.cpu(), length)).states)

    def _share_text_states(self, batches: Sequence[Tensor], own: dict[int, Tensor]) -> None:
        """Give every process the hidden states of all texts, batch by batch, where its budget has room for them."""
        example = next(iter(own.values()), None)
        facts: list[Any] = [None if example is None else (example.shape[1], example.dtype)]
        if world_size() > 1:
            dist.broadcast_object_list(facts, src=0)  # the first process has the first batch
        width, dtype = facts[0]
        self.text_states.allocate(width, dtype, self._budget, self._folder)
        for number, rows in enumerate(batches):
            tokens = own.get(number)
            if world_size() > 1:
                if tokens is None:
                    tokens = torch.empty(int(self.lengths[rows].sum()), width, dtype=dtype)
                tokens = tokens.to(self.encoder.device)
                dist.broadcast(tokens, src=number % world_size())
            if tokens is not None:
                self.text_states.put(rows, tokens)

    def _encode_images(self) -> Tensor:
        """Features `(I, P)` or `(I, Q, P)` of all images; hidden states are kept within the budget."""
        features: dict[int, Tensor] = {}
        missing = []
        for group in self.own_groups:
            if self.work is not None and self.work.has(_part("images", group)):
                features[group] = self.work.read(_part("images", group))[0]["features"].to(self.encoder.device)
            else:
                missing.append(group)
        done = sum(len(self.groups[group]) for group in features)
        with self._progress("images", sum(len(self.groups[group]) for group in self.own_groups), done) as shown:
            for group, inputs in self._load(missing):
                features[group] = self._encode_group(group, inputs)
                shown.update(len(self.groups[group]))
        return self._gather(features, [_positions(group) for group in self.groups])

    def _encode_group(self, group: int, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
        encoded = self.encoder.encode_images(inputs)
        if len(encoded.features) != len(self.groups[group]):
            raise ValueError(
                f"{len(self.groups[group])} images gave {len(encoded.features)} rows of features; images[rows] has to "
                "return one row for each."
            )
        if self.engine.rerank and self.encoder.keeps_states:
            self.states.put(group, required(encoded.states))
        if self.work is not None:  # after the states, so that a finished part has all its files
            self.work.write(_part("images", group), {"features": encoded.features}, {"pixels": _digest_of(inputs)})
        return encoded.features

    def _load(self, groups: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Groups and the inputs of their images."""
        rows = [list(self.groups[group]) for group in groups]
        if self.engine.num_workers:
            # The generator only draws seeds of workers; without it, the random state of the caller would change.
            loader: Any = DataLoader(
                self.images,  # type: ignore[arg-type]
                sampler=rows,  # type: ignore[arg-type]
                batch_size=None,
                num_workers=min(self.engine.num_workers, max(len(rows), 1)),
                generator=torch.Generator(),
            )
        else:
            loader = (self.images[part] for part in rows)
        return zip(groups, loader)

    def _search(self, image_features: Tensor, text_features: Tensor) -> Candidates:
        kind, _, factory = self.engine.index.partition(":")
        if kind == "faiss":
            found = faiss_candidates(image_features, text_features, self.engine.k, factory or "Flat")
        else:
            found = exact_candidates(self.encoder.compare, image_features, text_features, self.engine.k)
        candidates = Candidates(*(Ranking(*(values.cpu() for values in ranking)) for ranking in found))
        if self.work is not None and rank() == 0:
            named = zip(Candidates._fields, candidates)
            self.work.write(
                "candidates", {f"{name}.{key}": value for name, part in named for key, value in part._asdict().items()}
            )
        return candidates

    @staticmethod
    def _read_candidates(work: WorkFolder) -> Candidates:
        tensors, _ = work.read("candidates")
        return Candidates(
            *(Ranking(tensors[f"{name}.indices"], tensors[f"{name}.similarities"]) for name in Candidates._fields)
        )

    # ---- second stage ----

    def _keys(self, images: Tensor, texts: Tensor) -> Tensor:
        """A number for each pair, in the order of images, then of texts."""
        return images * self.num_texts + texts

    def _wanted(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """Keys of the pairs that each direction wants: `(I, k)` and `(S, k)`."""
        return (
            self._keys(torch.arange(self.num_images)[:, None], candidates.i2t.indices),
            self._keys(candidates.t2i.indices, torch.arange(self.num_texts)[:, None]),
        )

    def _match(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """Keys `(K,)` of all pairs in order, and their logits `(K, 2)`."""
        pairs = torch.cat([keys.flatten() for keys in self._wanted(candidates)]).unique()
        borders = torch.tensor([group.start for group in self.groups] + [self.num_images]) * self.num_texts
        ends = torch.searchsorted(pairs, borders).tolist()
        bounds = [range(first, last) for first, last in zip(ends, ends[1:])]
        logits: dict[int, Tensor] = {}
        pending = []
        for group in self.own_groups:
            stored = self._stored_logits(group, len(bounds[group]))
            if stored is None:
                pending.append(group)
            else:
                logits[group] = stored
                self.states.discard(group)
        again = [group for group in pending if not self.states.has(group)]
        reloaded = self._load(again)
        texts: Any = {name: values.to(self.encoder.device) for name, values in self.texts.items()}
        texts["attention_mask"] = self.encoder.attention_mask(texts)
        if self.encoder.fuses_text_states:
            texts["text_embeds"] = self.text_states
        done = sum(len(bounds[group]) for group in logits)
        with self._progress("pairs", sum(len(bounds[group]) for group in self.own_groups), done) as shown:
            for group in pending:
                states = self.states.take(group)
                if states is None:
                    states = self._encode_group_again(*next(reloaded))
                keys = pairs[bounds[group].start : bounds[group].stop]
                rows = torch.stack([keys // self.num_texts - self.groups[group].start, keys % self.num_texts], dim=1)
                device = self.encoder.device
                scores = self.encoder.model.score_pairs(states.to(device), texts, rows.to(device)).logits
                logits[group] = scores.float()
                if self.work is not None:
                    self.work.write(_part("logits", group), {"logits": logits[group]})
                self.states.discard(group)
                shown.update(len(rows))
        return pairs, self._gather(logits, [_positions(bound) for bound in bounds]).cpu()

    def _stored_logits(self, group: int, pairs: int) -> Tensor | None:
        name = _part("logits", group)
        if self.work is None or not self.work.has(name):
            return None
        logits = self.work.read(name)[0]["logits"]
        if len(logits) != pairs:
            raise ValueError(
                f"work_dir {self.work.path} has {len(logits)} scores in {name}, expected {pairs}; remove the folder."
            )
        return logits.to(self.encoder.device)

    def _encode_group_again(self, group: int, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Hidden states of a group, from the same batch as before."""
        self._check_pixels(group, inputs)
        return self.encoder.image_states(inputs)

    # ---- work folder ----

    def _open_work_folder(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Start or continue a run; the first process checks, and all fail if it does."""
        self.work = work = WorkFolder(path)
        outcome: list[Any] = [None, False, False]
        if rank() == 0:
            try:
                continues = work.open(self._description(identity))
                if continues:
                    self._check_pixels(0)
                outcome = [None, continues, work.has("candidates")]
            except (OSError, ValueError) as error:
                outcome[0] = error
        if world_size() > 1:
            dist.broadcast_object_list(outcome, src=0)
        if outcome[0] is not None:
            raise outcome[0]
        _, self.continues, self.has_candidates = outcome

    def _description(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        engine, model = self.engine, self.encoder.model
        return {
            "model class": type(model).__name__,
            "model dtype": str(getattr(model, "dtype", None)),
            "model weights": model_digest(model),
            "number of images": self.num_images,
            "number of texts": self.num_texts,
            "texts": digest(self.texts["input_ids"], self.encoder.attention_mask(self.texts)),
            **dict(identity),
            "k": engine.k,
            "batch_size": engine.batch_size,
            "text_batch_size": engine.text_batch_size,
            "rerank": engine.rerank,
            "index": engine.index,
        }

    def _check_pixels(self, group: int, inputs: Tensor | Mapping[str, Tensor] | None = None) -> None:
        """`ValueError` if images that are loaded again are others than before."""
        if self.work is None or not self.work.has(_part("images", group)):
            return
        before = self.work.read(_part("images", group))[1].get("pixels")
        rows = self.groups[group]
        if before != _digest_of(self.images[list(rows)] if inputs is None else inputs):
            raise ValueError(
                f"work_dir {self.work.path} belongs to another run: the images {rows.start} to {rows.stop - 1} were "
                "others, or were processed in another way. Continue with the same images and processor, or give "
                "another folder."
            )

    def _folder(self) -> Path:
        """Folder of the hidden states: the work folder, or a temporary one."""
        if self.work is not None:
            return self.work.path
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="modeling-lavis-")
        return Path(self._temporary.name)

    # ---- processes and progress ----

    def _gather(self, parts: dict[int, Tensor], rows: Sequence[Tensor]) -> Tensor:
        """Rows of the parts of all processes, which take turns, in the order of the numbers `rows` of each part."""
        owned = [torch.cat([torch.empty(0, dtype=torch.long), *rows[n :: world_size()]]) for n in range(world_size())]
        values = torch.cat([parts[number] for number in sorted(parts)]) if parts else None
        if world_size() > 1:
            facts: list[Any] = [None if values is None else (values.shape[1:], values.dtype)]
            dist.broadcast_object_list(facts, src=0)
            if values is None:
                values = torch.empty(0, *facts[0][0], dtype=facts[0][1], device=self.encoder.device)
        if values is None:  # the first process always has the first part
            raise ValueError("Nothing to gather; expected at least one part in the first process.")
        gathered = gather(values, tuple(len(own) for own in owned))
        return gathered[torch.cat(owned).argsort().to(gathered.device)]

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def _progress(self, unit: str, total: int, done: int = 0) -> Progress:
        return Progress(total, unit=unit, done=done, shown=self.engine.progress if rank() == 0 else False)


def _part(kind: str, group: int) -> str:
    """Name of a part in the work folder."""
    return f"{kind}-{group:06d}"


def _positions(numbers: range) -> Tensor:
    return torch.arange(numbers.start, numbers.stop)


def _digest_of(inputs: Tensor | Mapping[str, Tensor]) -> str:
    """Digest of the inputs of some images."""
    return digest(inputs) if isinstance(inputs, Tensor) else digest(*(inputs[name] for name in sorted(inputs)))


__all__ = ["MEMORY_BUDGET", "ImageCollection", "RetrievalEngine", "RetrievalResult"]
