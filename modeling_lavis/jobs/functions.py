# SPDX-License-Identifier: Apache-2.0
"""Jobs as functions of batches of rows, for engines that have their own readers and writers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from modeling_lavis.jobs.api import JobOptions, make_worker, open_pipeline, prepare
from modeling_lavis.jobs.items import Block, Position
from modeling_lavis.jobs.sources import row_item

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

    The model is loaded at the first call. An instance that is pickled is pickled without it.

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
            have `None` in all other columns.
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
        results = worker(Block(Position(), items))
        # engines want the same columns of all batches, also of one in which all rows fail
        self._names.update(dict.fromkeys(name for result in results for name in result.record or {} if name != "file"))
        columns: dict[str, Any] = {
            name: [(result.record or {}).get(name) for result in results] for name in self._names
        }
        columns["error"] = [result.error or "" for result in results]
        return {**batch, **columns} if self.keep_rows else columns


__all__ = ["RowFunction"]
