# SPDX-License-Identifier: Apache-2.0
"""Jobs from Python: captions, answers, matches and features of whole collections."""

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modeling_lavis.jobs.columns import ItemMaker
from modeling_lavis.jobs.identity import model_identity
from modeling_lavis.jobs.items import WHOLE, Shard
from modeling_lavis.jobs.journal import FILES, JOB, JobError, Journal
from modeling_lavis.jobs.opening import missing_arguments, open_source
from modeling_lavis.jobs.ray_engine import RayOptions, RayWorkers
from modeling_lavis.jobs.runner import BlockStream, Summary, job_folder, restart_job, run_job
from modeling_lavis.jobs.shards import WebDataset
from modeling_lavis.jobs.sinks import JsonLines, Metadata, Parquet, Sink, TextFiles, with_kept
from modeling_lavis.jobs.sources import FileList, Source
from modeling_lavis.jobs.tasks import TASKS, Task
from modeling_lavis.jobs.work import Worker
from modeling_lavis.pipelines.base import LavisPipeline
from modeling_lavis.pipelines.loading import input_modality, load
from modeling_lavis.progress import Shown

FORMATS: Mapping[str, type[Sink]] = {
    "jsonl": JsonLines,
    "parquet": Parquet,
    "metadata": Metadata,
    "txt": TextFiles,
    "webdataset": WebDataset,
}
"""Forms of output by name."""

_SUFFIXES = {".jsonl": "jsonl", ".parquet": "parquet"}
_CHECKED_PATHS = 100  # inputs that workers on other machines look for before they begin
_BLOCK = 64  # items per block, if that is a multiple of the batch size


@dataclass(frozen=True)
class JobOptions:
    """
    Options of all jobs.

    Args:
        output_format (`str`, *optional*): one of [`FORMATS`]; by default by the suffix of the output, `.jsonl` or
            `.parquet`.
        columns (`Mapping[str, str]`, *optional*): names of columns of the data, where they differ: `{"image": "url"}`.
        media_root (`str` or `os.PathLike`, *optional*): folder of relative paths in files of records; by default that
            of the file.
        keep (`Sequence[str]`, *optional*): further columns of the data that records get. WebDataset shards get all.
        batch_size (`int`, *optional*, defaults to 8): inputs per batch.
        block_size (`int`, *optional*): inputs that are written together, which is what an interruption costs at most;
            64 by default, and at least a batch.
        num_workers (`int`, *optional*): threads that open images or videos; by default the number of processors, at
            most 8.
        device (*optional*), dtype (*optional*, defaults to `"auto"`): for a model that is given by its name.
        seed (`int`, *optional*, defaults to 0): for sampling.
        draft (`bool`, *optional*, defaults to `False`): decode large JPEG files at reduced size. Faster; pixels differ
            a little from the processor's, so results may.
        shard (`str`, *optional*): `"i/n"` for the i-th of n parts of the data, each of which is a job of its own.
        samples_per_shard (`int`, *optional*, defaults to 10,000): samples per shard of WebDataset output.
        restart (`bool`, *optional*, defaults to `False`): remove what an earlier run wrote, and begin again.
        progress (`bool` or `TextIO`, *optional*): whether or where progress is shown, see
            `modeling_lavis.progress.Progress`; by default on a terminal.
        engine (`str`, *optional*): `"ray"` for models on the workers of a Ray cluster; by default one in this process.
            `num_workers` then are the threads of each.
        engine_options (`Mapping[str, Any]`, *optional*): options of `modeling_lavis.jobs.ray_engine.RayOptions`,
            `{"replicas": 8, "address": "auto"}`.
    """

    output_format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    media_root: str | os.PathLike | None = None
    keep: Sequence[str] = ()
    batch_size: int = 8
    block_size: int | None = None
    num_workers: int | None = None
    device: Any = None
    dtype: Any = "auto"
    seed: int = 0
    draft: bool = False
    shard: str | None = None
    samples_per_shard: int = 10_000
    restart: bool = False
    progress: Shown = None
    engine: str | None = None
    engine_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("batch_size", "block_size", "num_workers", "samples_per_shard"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name} is {value!r}; expected a positive integer.")
        if self.output_format is not None and self.output_format not in FORMATS:
            raise ValueError(f"output_format is {self.output_format!r}; expected one of {', '.join(FORMATS)}.")
        if self.shard is not None:
            Shard.parse(self.shard)  # raises
        if self.engine not in (None, "ray"):
            raise ValueError(f"engine is {self.engine!r}; expected ray, or none for this process.")
        if self.engine is None and self.engine_options:
            raise ValueError(f"engine_options has {', '.join(self.engine_options)}, but there is no engine.")
        RayOptions.of(self.engine_options)  # raises

    @property
    def part(self) -> Shard:
        """The part of the data."""
        return WHOLE if self.shard is None else Shard.parse(self.shard)

    @property
    def rows_per_block(self) -> int:
        """Items per block: a multiple of the batch size, so that no batch is smaller than it has to be."""
        wanted = _BLOCK if self.block_size is None else self.block_size
        return max(wanted // self.batch_size, 1) * self.batch_size


_OPTIONS = tuple(JobOptions.__dataclass_fields__)
_OF_OUTPUTS = ("output_format", "samples_per_shard", "restart", "progress", "engine")
_DEFAULTS = {name: JobOptions.__dataclass_fields__[name].default for name in _OF_OUTPUTS}


def caption(data: Any, model: Any, output: Any = None, *, prompt: str | None = None, **options: Any) -> Any:
    """
    Caption the images of a collection.

    ```python
    >>> from modeling_lavis import jobs  # doctest: +SKIP
    >>> jobs.caption("photos", "my-captioner", "captions.jsonl", num_beams=3)  # doctest: +SKIP
    Summary(output='captions.jsonl', inputs=5000, written=4998, failed=2, ...)

    ```

    The same call resumes a job that was interrupted.

    Args:
        data: what `docs/collections.md` lists: paths, URLs, a data set of `datasets`, a list or an iterable of images
            or rows.
        model: folder or Hub id of a model, or a pipeline of this package.
        output (`str` or `os.PathLike`, *optional*): the file or folder to write.
        prompt (`str`, *optional*): start of the captions; by default that of a column `prompt`, or of the processor.
        options: options of `generate` (`num_beams`, `do_sample`, `min_length`, ...), and those of [`JobOptions`].

    Returns:
        [`Summary`], or without `output` an iterator of records: `{"file", "caption", "score", ...}`, or `{"file",
        "error"}`.

    Raises:
        JobError: the job in the output was begun differently. ValueError: an option has a wrong value. OSError: the
            disk is full, or there is no such model.
    """
    return run("caption", data, model, output, {"prompt": prompt}, **options)


def answer(
    data: Any,
    model: Any,
    output: Any = None,
    *,
    question: str | None = None,
    answers: Sequence[str] | None = None,
    **options: Any,
) -> Any:
    """
    Answer a question about each image or video of a collection; see [`caption`] for the arguments that are not here.

    Args:
        question (`str`, *optional*): the question; by default that of the column `question`.
        answers (`Sequence[str]`, *optional*): answers to rank, instead of generating one.
        options: options of the pipeline's call, and those of [`JobOptions`].

    Returns:
        As [`caption`]; records have `question`, `answer` and `score`.
    """
    return run("answer", data, model, output, {"question": question, "answers": answers}, **options)


def match(data: Any, model: Any, output: Any = None, *, text: str | Sequence[str] | None = None, **options: Any) -> Any:
    """
    Score texts against the images or videos of a collection; see [`caption`] for the arguments that are not here.

    Args:
        text (`str` or `Sequence[str]`, *optional*): a text or several for all; by default that of the column `text` or
            `caption` of each row.
        options: those of [`JobOptions`].

    Returns:
        As [`caption`]; records have `text`, `score` and `similarity`, or `matches` with these for several texts.
    """
    return run("match", data, model, output, {"text": text}, **options)


def embed(data: Any, model: Any, output: Any = None, **options: Any) -> Any:
    """
    Features of the images or videos of a collection; see [`caption`] for the arguments that are not here.

    Args:
        options: those of [`JobOptions`]. With `columns={"text": NAME}` there are features of a text of each row, too.

    Returns:
        As [`caption`]; records have `image_features` (or `video_features`), and `text_features`, as lists of numbers.
    """
    return run("embed", data, model, output, {}, **options)


def run(
    verb: str,
    data: Any,
    model: Any,
    output: Any,
    call: Mapping[str, Any],
    *,
    open_model: Callable[[], Any] | None = None,
    **options: Any,
) -> Any:
    """
    Run a job; the functions above for a task by its name.

    Args:
        verb (`str`): a key of `modeling_lavis.jobs.tasks.TASKS`.
        data, model, output: see [`caption`].
        call (`Mapping[str, Any]`): options of the pipeline's call; those that are `None` are left out.
        open_model (`Callable`, *optional*): how workers of an engine open the pipeline; by default `model` by its name.
        options: more of them, and those of [`JobOptions`].

    Returns:
        [`Summary`], or without `output` an iterator of records.
    """
    job = JobOptions(**{name: options.pop(name) for name in _OPTIONS if name in options})
    given = {name: value for name, value in {**call, **options}.items() if value is not None}
    if output is None and (unused := [name for name in _OF_OUTPUTS if getattr(job, name) != _DEFAULTS[name]]):
        raise ValueError(f"{', '.join(unused)} cannot be used without an output.")
    if job.engine is not None and open_model is None:
        open_model = _opener(verb, model, job)
    pipe = open_pipeline(verb, model, job if job.engine is None else replace(job, device="cpu"))
    task, given, maker = prepare(verb, pipe, given, job)
    if output is None:
        return _records(data, maker, task, make_worker(pipe, task, given, job), job)
    own = own_files(output, job)
    make_source = functools.partial(open_job_source, data, maker, job=job, optional=task.optional, own=own)
    return run_task(task, pipe, given, data, output, job, make_source, f"{maker.modality}s", open_model=open_model)


def run_task(
    task: Task,
    pipe: Any,
    given: Mapping[str, Any],
    data: Any,
    output: str | os.PathLike,
    job: JobOptions,
    make_source: Callable[[Path], Source],
    unit: str = "images",
    sink: Sink | None = None,
    open_model: Callable[[], Any] | None = None,
) -> Summary:
    """
    Run the job of a task that writes an output.

    Args:
        task (`Task`): the task.
        pipe (`LavisPipeline`): its pipeline.
        given (`Mapping[str, Any]`): options of the pipeline's call.
        data: what the user gave, which identifies the job.
        output (`str` or `os.PathLike`): the file or folder to write.
        job ([`JobOptions`]): options.
        make_source (`Callable`): function from the path of the list of files to the source of the data. The list is
            there if the job has begun before.
        unit (`str`, *optional*, defaults to `"images"`): what the inputs are called in the progress.
        sink (`Sink`, *optional*): what writes results; by default that of the output format.
        open_model (`Callable`, *optional*): function that opens the pipeline on a worker of an engine.
    """
    worker: BlockStream = make_worker(pipe, task, given, job)
    sink = sink or make_sink(Path(output), task, data, job)
    if job.restart:
        restart_job(sink, FORMATS, functools.partial(check_inputs, data, make_source))
    is_new = not (sink.folder / JOB).exists()
    if is_new:
        sink.check()  # before anything is written
    known = identity(task.verb, pipe, given, data, sink, job)
    with contextlib.ExitStack() as stack:
        if open_model is not None:
            worker = stack.enter_context(_ray_workers(open_model, task, given, data, job))
            known["model"] = worker.identity() or known["model"]
        journal = Journal(sink.folder)
        try:
            source = make_source(sink.folder / FILES)
        except BaseException:
            journal.close()
            if is_new:
                shutil.rmtree(sink.folder, ignore_errors=True)
            raise
        return run_job(
            source=source,
            worker=worker,
            sink=sink,
            journal=journal,
            identity=known,
            block_size=job.rows_per_block,
            shard=job.part,
            progress=job.progress,
            unit=unit,
        )


def _opener(verb: str, model: Any, job: JobOptions) -> Callable[[], LavisPipeline]:
    """What workers of an engine call to open the pipeline."""
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(
            f"The model is {type(model).__name__}, which is not sent to workers; give its folder or its Hub id."
        )
    return functools.partial(open_pipeline, verb, os.fspath(model), JobOptions(device=job.device, dtype=job.dtype))


def _ray_workers(
    open_model: Callable[[], Any], task: Task, given: Mapping[str, Any], data: Any, job: JobOptions
) -> RayWorkers:
    """What has the workers of a Ray cluster compute blocks."""
    return RayWorkers(
        open_model,
        task,
        given,
        options=_worker_options(job),
        settings=RayOptions.of(job.engine_options),
        threads=job.num_workers,
        device=None if job.device is None else str(job.device),
        keep=job.keep,
        paths=[name for name in (_names(data) or [])[:_CHECKED_PATHS] if os.path.exists(name)],
    )


def check_inputs(data: Any, make_source: Callable[[Path], Source]) -> None:
    """
    Check that the inputs of a job are there, before the output of an earlier one is removed.

    Args:
        data: what the user gave.
        make_source (`Callable`): see [`run_task`].

    Raises:
        FileNotFoundError: a path, a glob or a list names nothing. ValueError, OSError: the inputs cannot be used.
    """
    if missing := missing_arguments(data):
        raise FileNotFoundError(f"{missing[0]} does not exist. Nothing was removed; give inputs that are there.")
    with tempfile.TemporaryDirectory() as scratch:
        source = make_source(Path(scratch) / FILES)
        if isinstance(source, FileList) and (error := source.only_error()):
            raise FileNotFoundError(f"{error} Nothing was removed; give inputs that are there.")


def open_pipeline(verb: str, model: Any, job: JobOptions) -> LavisPipeline:
    """The pipeline of a task, with a model that is loaded if it is a folder or a Hub id."""
    if isinstance(model, (str, os.PathLike)):
        pipelines = TASKS[verb].pipelines
        return load(pipelines if len(pipelines) > 1 else pipelines["image"], model, job.device, job.dtype)
    if not isinstance(model, LavisPipeline):
        raise TypeError(
            f"The model is {type(model).__name__}; expected a folder, a Hub id, or a pipeline of this package, such as"
            f' pipeline("{next(iter(TASKS[verb].pipelines.values()))}", model=..., processor=...).'
        )
    return model


def prepare(
    verb: str, pipe: LavisPipeline, given: Mapping[str, Any], job: JobOptions
) -> tuple[Task, dict[str, Any], ItemMaker]:
    """The task, the options of the pipeline's call, and what makes items of records."""
    task, given = TASKS[verb], dict(given)
    modality = input_modality(pipe.model)
    known = (modality, *task.texts, "start", "end")
    if unknown := [name for name in job.columns if name not in known]:
        raise ValueError(f"columns has {', '.join(unknown)}; {verb} reads the columns {', '.join(known)}.")
    if verb == "embed":
        names = [f"{modality}_features", *(["text_features"] if "text" in job.columns else [])]
        given = {"features": names, "return_tensors": "np", **given}
    texts = tuple(name for name in task.texts if name not in given and (verb != "embed" or name in job.columns))
    task = replace(task, texts=texts, constants={name: given[name] for name in ("question",) if name in given})
    root = None if job.media_root is None else os.path.abspath(job.media_root)
    return task, given, ItemMaker(modality, texts, dict(job.columns), root)


def make_worker(pipe: Any, task: Task, given: Mapping[str, Any], job: JobOptions) -> Worker:
    """What computes blocks."""
    workers = job.num_workers or min(os.cpu_count() or 1, 8)
    return Worker(pipe, task, given, num_workers=workers, **_worker_options(job))


def _worker_options(job: JobOptions) -> dict[str, Any]:
    return {
        "batch_size": job.batch_size,
        "seed": job.seed,
        "draft": job.draft,
        "keep_downloads": job.output_format == "webdataset",
    }


def make_sink(output: Path, task: Task, data: Any, job: JobOptions) -> Sink:
    """What writes results; `ValueError` if the form of output is unclear or does not fit the task."""
    kind = job.output_format or _SUFFIXES.get(output.suffix.lower())
    if kind is None:
        raise ValueError(
            f"The output is {output}; give a name that ends in {' or '.join(_SUFFIXES)}, or an output format:"
            f" {', '.join(FORMATS)}."
        )
    if kind != "webdataset" and job.samples_per_shard != JobOptions.samples_per_shard:
        raise ValueError(f"samples_per_shard is for WebDataset shards; the output is {kind}.")
    if kind == "metadata" and job.part != WHOLE:
        raise ValueError(
            "shard cannot be used with metadata.jsonl, which is one file in the folder of the images. Write parts as"
            " .jsonl, and merge them to metadata (merge-shards --output-format metadata)."
        )
    if kind == "txt" and task.text is None:
        raise ValueError(f"There is no text for text files in the results of {task.verb}; choose another format.")
    options: dict[str, Any] = {"keep": job.keep, "text": task.text}
    if kind == "webdataset":
        options["samples_per_shard"] = job.samples_per_shard
    if kind == "txt":
        entries = [data] if isinstance(data, (str, os.PathLike)) else data
        is_folder = isinstance(entries, (list, tuple)) and len(entries) == 1 and os.path.isdir(entries[0])
        options["root"] = Path(entries[0]) if is_folder else None
    return FORMATS[kind](output, job_folder(output, task.verb, FORMATS[kind]), **options)


def identity(verb: str, pipe: Any, given: Mapping[str, Any], data: Any, sink: Sink, job: JobOptions) -> dict[str, Any]:
    """What identifies a job, apart from its source."""
    names = _names(data)
    return {
        "verb": verb,
        "model": model_identity(pipe),
        "options": {name: given[name] if _is_json(given[name]) else repr(given[name]) for name in sorted(given)},
        "inputs": type(data).__name__ if names is None else names,
        **output_identity(sink, job.samples_per_shard),
        "keep": list(job.keep),
        "batch_size": job.batch_size,
        "seed": job.seed,
        "draft": job.draft,
    }


def _names(data: Any) -> list[str] | None:
    """The paths and URLs that data are, `None` for a data set or a stream."""
    entries = [data] if isinstance(data, (str, os.PathLike)) else data
    is_named = isinstance(entries, (list, tuple)) and all(isinstance(entry, (str, os.PathLike)) for entry in entries)
    return [os.fspath(entry) for entry in entries] if is_named else None


def output_identity(sink: Sink, samples_per_shard: int) -> dict[str, Any]:
    """What identifies the form of an output."""
    kind = next((name for name, form in FORMATS.items() if isinstance(sink, form)), type(sink).__name__)
    return {"output_format": kind, **({"samples_per_shard": samples_per_shard} if kind == "webdataset" else {})}


def _is_json(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_json, value))
    return value is None or isinstance(value, (str, int, float, bool))


def own_files(output: str | os.PathLike, job: JobOptions) -> list[Path]:
    """Files that a job writes where its inputs may be, and which are none of them."""
    path = Path(output)
    return [path, path / "metadata.jsonl"] if job.output_format == "metadata" else [path]


def open_job_source(
    data: Any,
    maker: ItemMaker,
    list_path: Path,
    job: JobOptions,
    optional: Collection[str] = (),
    own: Sequence[Path] = (),
) -> Source:
    """
    The source of a job's data, as [`open_source`] gives it.

    Args:
        data, maker, list_path, own: see [`open_source`].
        job ([`JobOptions`]): options of the job.
        optional (`Collection[str]`, *optional*): texts of `maker` that files without columns may lack.

    Raises:
        ValueError: options or texts of the task are about columns, and the data are files without any.
    """
    source = open_source(data, maker, list_path, own)
    unused = [name for name in ("columns", "media_root", "keep") if getattr(job, name)]
    if isinstance(source, FileList) and unused:
        raise ValueError(
            f"{', '.join(unused)} cannot be used here: the inputs are {maker.modality} files, not records with columns."
        )
    if needed := [name for name in maker.texts if name not in optional and isinstance(source, FileList)]:
        raise ValueError(f"There is no {needed[0]}. Give it, or records with a column for it instead of files.")
    return source


def _records(data: Any, maker: ItemMaker, task: Task, worker: Worker, job: JobOptions) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        source = open_job_source(data, maker, Path(folder) / "files.jsonl", job, task.optional)
        for _, results in worker.stream(source.blocks(job.rows_per_block, shard=job.part)):
            for result in results:
                if result.record is None:
                    yield {"file": result.item.name, "error": result.error}
                else:
                    yield with_kept(result.record, result.item.fields, job.keep)


__all__ = [
    "FORMATS",
    "JobError",
    "JobOptions",
    "Summary",
    "answer",
    "caption",
    "check_inputs",
    "embed",
    "match",
    "open_job_source",
    "output_identity",
    "own_files",
    "run",
    "run_task",
]
