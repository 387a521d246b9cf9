# SPDX-License-Identifier: Apache-2.0
"""Jobs as functions of batches of rows, for engines that have their own readers and writers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from modeling_lavis.jobs.api import JobOptions, make_worker, open_pipeline, prepare
from modeling_lavis.jobs.columns import ItemMaker
from modeling_lavis.jobs.identity import rows_digest
from modeling_lavis.jobs.items import Block, Item, Position
from modeling_lavis.jobs.sinks import with_kept
from modeling_lavis.jobs.sources import row_item
from modeling_lavis.jobs.work import Worker

# options of a job whose reading and writing are the engine's
_OF_THE_ENGINE = (
    "output_format",
    "keep",
    "block_size",
    "shard",
    "samples_per_shard",
    "restart",
    "progress",
    "engine",
    "engine_options",
)


class RowFunction:
    """
    A task as a function from a batch of rows to columns, for `datasets.Dataset.map(batched=True)` and the `map_batches`
    of `ray.data`.

    ```python
    >>> captions = RowFunction("caption", "my-captioner", num_beams=3)  # doctest: +SKIP
    >>> dataset = dataset.map(captions, batched=True, batch_size=64)  # doctest: +SKIP
    >>> rays = rays.map_batches(  # doctest: +SKIP
    ...     RowFunction, fn_constructor_args=("caption", "my-captioner"), fn_constructor_kwargs={"keep_rows": True},
    ...     batch_size=64, concurrency=2,
    ... )

    ```

    The model is loaded at the first call. An instance that is pickled is pickled without it. Random numbers of sampling
    depend on `seed` and the first row of a batch.

    Args:
        verb (`str`): `"caption"`, `"answer"`, `"match"` or `"embed"`.
        model: folder or Hub id of the model, or a pipeline, which cannot be sent to other processes.
        keep_rows (`bool`, *optional*, defaults to `False`): whether the columns of the batch are returned, too, as
            `ray.data` wants it.
        options: options of the task and of `modeling_lavis.jobs.JobOptions`: `columns`, `batch_size`, `device`, ...

    Raises:
        ValueError: an option is about reading or writing, which the engine does.
    """

    def __init__(self, verb: str, model: Any, *, keep_rows: bool = False, **options: Any) -> None:
        if unused := [name for name in _OF_THE_ENGINE if name in options]:
            raise ValueError(f"{', '.join(unused)} cannot be used here: the engine reads and writes.")
        self.verb, self.model, self.keep_rows, self.options = verb, model, keep_rows, options
        self._job = JobOptions(**{name: options[name] for name in JobOptions.__dataclass_fields__ if name in options})
        self._loaded: Any = None
        self._names: dict[str, None] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """
        Compute a batch.

        Args:
            batch (`Mapping[str, Sequence]`): columns of equal length.

        Returns:
            `dict[str, list]`: the columns of the records, and `error`, which is empty for rows with results; others
            have `None` in all other columns. A column of the batch with one of these names becomes `original_NAME`.
        """
        if self._loaded is None:
            given = {name: value for name, value in self.options.items() if name not in JobOptions.__dataclass_fields__}
            pipe = open_pipeline(self.verb, self.model, self._job)
            task, given, maker = prepare(self.verb, pipe, given, self._job)
            self._loaded = make_worker(pipe, task, given, self._job), replace(maker, trusted=True)
        worker, maker = self._loaded
        count = len(next(iter(batch.values())))
        rows = [{name: values[index] for name, values in batch.items()} for index in range(count)]
        items = [row_item(maker, row, f"row {index}") for index, row in enumerate(rows)]
        results = worker(Block(_place(rows), items))
        if not self._names:
            self._names = _names(worker, maker, batch)
        self._names.update(dict.fromkeys(name for result in results for name in result.record or {}))
        columns: dict[str, Any] = {
            name: [(result.record or {}).get(name) for result in results] for name in self._names if name != "file"
        }
        columns["error"] = [result.error or "" for result in results]
        return with_kept(columns, batch, [name for name in batch if self.keep_rows or name in columns])


def _place(rows: Sequence[Mapping[str, Any]]) -> Position:
    """
    A place that depends on the first row of a batch, for the random numbers of sampling: engines do not say which
    batch it is, and with one place for all, the first rows of all batches would get the same numbers.
    """
    return Position(int(rows_digest(rows[:1]), 16))


def _names(worker: Worker, maker: ItemMaker, batch: Mapping[str, Any]) -> dict[str, None]:
    """
    Columns of the results, also if all rows of the first batch fail: engines want the same ones of all batches. They
    are those of a gray image or video with the texts that the batch has.
    """
    pixels = np.full((4, 32, 32, 3) if maker.modality == "video" else (32, 32, 3), 128, np.uint8)
    texts = {name: "a" for name in maker.texts if maker.column(name, batch) in batch}
    (result,) = worker(Block(Position(), [Item("gray", {maker.modality: pixels, **texts})]))
    return dict.fromkeys(result.record or {})


__all__ = ["RowFunction"]
