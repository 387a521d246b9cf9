# SPDX-License-Identifier: Apache-2.0
"""Blocks of a job that the workers of a Ray cluster compute.

Tasks of `ray.data` read blocks, actors with a model each (replicas) compute them, and the results come back in the
order of the blocks, to be written as those of one machine are. Ray starts an actor that dies again, and repeats the
block that it had; if the process that writes dies, the next one resumes the job from the journal.
"""

import contextlib
import logging
import os
import pickle
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from modeling_lavis.import_utils import require
from modeling_lavis.jobs.identity import model_identity
from modeling_lavis.jobs.items import Block, Item, Result
from modeling_lavis.jobs.sources import Blocks
from modeling_lavis.jobs.tasks import Task
from modeling_lavis.jobs.work import Timings, Worker

_MOST_THREADS = 8  # processors of a replica, if it is not said how many
_MOST_RUNS = 1000  # parts of the data that are read apart
_READER_CPUS = 0  # replicas may take all processors, and readers have to run beside them
_ATTEMPTS = 5  # to compute a block; one that kills its process each time ends the job


@dataclass(frozen=True)
class RayOptions:
    """
    Options of the engine `"ray"`.

    Args:
        replicas (`int`, *optional*): number of models; by default one per GPU of the cluster, or, without GPUs, one per
            group of as many processors as a replica has threads (`num_workers`; at most 8 by default).
        address (`str`, *optional*): address of a running cluster, `"auto"` for that of this node. By default a cluster
            that Ray is connected to already, or else one of this machine alone, which ends with the job.
    """

    replicas: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        count = self.replicas
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise ValueError(f"replicas is {count!r}; expected a positive integer.")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "RayOptions":
        """Options by their names; `ValueError` for others."""
        if unknown := [name for name in options if name not in cls.__dataclass_fields__]:
            known = ", ".join(cls.__dataclass_fields__)
            raise ValueError(f"engine_options has {', '.join(unknown)}; the engine ray has {known}.")
        return cls(**options)


class Node(NamedTuple):
    """Processors and GPUs of a node of a cluster."""

    cpus: float
    gpus: float


class Plan(NamedTuple):
    """
    What replicas are made of.

    Args:
        replicas (`int`): their number.
        threads (`int`): threads of each that open images or videos, and processors of one without a GPU.
        on_gpus (`bool`): whether each has a GPU.
    """

    replicas: int
    threads: int
    on_gpus: bool


def plan(nodes: Sequence[Node], replicas: int | None, threads: int | None, device: str | None) -> Plan:
    """
    Distribute replicas over a cluster.

    Args:
        nodes (`Sequence[Node]`): its nodes.
        replicas (`int`, *optional*): number of replicas; by default as many as there is room for.
        threads (`int`, *optional*): threads of each.
        device (`str`, *optional*): `"cpu"` or `"cuda"`; by default GPUs if the cluster has any.

    Raises:
        ValueError: the cluster has no room for them, or the device is another.
    """
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"The device is {device}; expected cpu or cuda, of which Ray gives each replica one.")
    gpus = int(sum(node.gpus for node in nodes))
    if device == "cuda" or (device is None and gpus):
        if (wanted := replicas or gpus or 1) > gpus:
            raise ValueError(f"The cluster has {gpus} GPUs; {wanted} replicas need one each.")
        shares = [int(node.cpus // node.gpus) for node in nodes if node.gpus]
        return Plan(wanted, threads or max(1, min(_MOST_THREADS, *shares)), True)
    if threads is None:
        most = min((int(node.cpus) for node in nodes if node.cpus), default=1)
        share = most if replicas is None else int(sum(node.cpus for node in nodes)) // replicas
        threads = max(1, min(_MOST_THREADS, most, share))
    room = sum(int(node.cpus // threads) for node in nodes)
    if not room or (replicas or 0) > room:
        raise ValueError(
            f"The cluster has room for {room} replicas with {threads} processors each, not for {replicas or 1}. Give"
            " fewer replicas or fewer threads (num_workers, --workers)."
        )
    return Plan(replicas or room, threads, False)


@dataclass(frozen=True)
class _Setup:
    """What replicas are sent once: how to open the pipeline, what [`Worker`] takes, and where blocks are counted."""

    open_pipe: Callable[[], Any]
    task: Task
    call: Mapping[str, Any]
    options: Mapping[str, Any]
    keep: tuple[str, ...]
    folder: str
    paths: tuple[str, ...]
    attempts: str
    most_attempts: int

    def enter(self) -> None:
        """Go to the working folder of the job, and see whether this node has the user's files."""
        with contextlib.suppress(OSError):  # a node need not have it if all names are absolute
            os.chdir(self.folder)
        if missing := [path for path in self.paths if not os.path.exists(path)]:
            raise FileNotFoundError(
                f"{missing[0]} is not on the node {socket.gethostname()}. Put data and model on paths that all nodes"
                " see."
            )


@dataclass
class _Answer:
    """Results of a block, what they took, and the error if the model failed for its first rows."""

    block: Block
    results: list[Result]
    timings: Timings
    problem: Exception | None = None


class _Replica:
    """A model in a process of its own: a callable class for `map_batches`."""

    def __init__(self, setup: _Setup) -> None:
        self._setup = setup
        self._pipe: Any = None

    def __call__(self, table: Any) -> Any:
        """The answer to the block of a table of one row; errors are sent on in its place."""
        (content,) = table["content"].to_pylist()
        block = pickle.loads(content)
        if isinstance(block, Exception):
            return table
        ray: Any = require("ray", extra="ray")
        try:
            if self._pipe is None:
                self._setup.enter()
                self._pipe = self._setup.open_pipe()
                self._attempts = ray.get_actor(self._setup.attempts)
            died = ray.get(self._attempts.begin.remote(tuple(block.position)))
            if died >= self._setup.most_attempts:
                raise RuntimeError(
                    f"The process that computed the block {block.position} died {died} times. The block begins with"
                    f" {block.items[0].name}."
                )
            answer = _packed(self._answer(block))
            self._attempts.end.remote(tuple(block.position))
            return answer
        except Exception as error:
            return _packed(_sendable(error))

    def _answer(self, block: Block) -> _Answer:
        problem = None
        worker = self._worker()
        try:
            results = worker(block)
        except Exception as error:  # perhaps the model works with the blocks before this one
            problem, worker = _sendable(error), self._worker()
            worker.expect_results()
            results = worker(block)
        if not self._setup.options.get("keep_downloads"):
            results = [result._replace(item=_without_content(result.item, self._setup.keep)) for result in results]
        return _Answer(Block(block.position, []), results, worker.timings, problem)

    def _worker(self) -> Worker:
        return Worker(self._pipe, self._setup.task, self._setup.call, **self._setup.options)


def _without_content(item: Item, keep: Sequence[str]) -> Item:
    """What an output that has no images of its own needs of an item."""
    row = {name: value for name, value in item.row.items() if isinstance(value, (str, os.PathLike))}
    return Item(item.name, row, {name: item.fields[name] for name in keep if name in item.fields}, error=item.error)


def _read(table: Any, blocks: Any, setup: _Setup) -> Iterator[Any]:
    """Read the blocks of some runs; a function for `map_batches`."""
    ray = require("ray", extra="ray")
    try:
        setup.enter()
        whole = ray.get(blocks)
        for content in table["content"].to_pylist():
            for block in replace(whole, shard=pickle.loads(content)):
                yield _packed(block)
    except Exception as error:
        yield _packed(_sendable(error))


def _packed(value: Any) -> Any:
    """A value as a table of one row, as `ray.data` passes it on."""
    arrow: Any = require("pyarrow", extra="ray")
    return arrow.table({"content": arrow.array([pickle.dumps(value)], arrow.large_binary())})


def _sendable(error: Exception) -> Exception:
    """An error, or one that says the same if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _count_attempts(ray: Any) -> tuple[str, Any]:
    """An actor that counts how often blocks are begun, and outlives replicas: its name, by which they find it."""

    # sent by value, because a process takes seconds to import this package
    class Attempts:
        def __init__(self) -> None:
            self._begun: dict[tuple[int, int], int] = {}

        def begin(self, position: tuple[int, int]) -> int:
            """Count; returns how often the block was begun before."""
            before = self._begun.get(position, 0)
            self._begun[position] = before + 1
            return before

        def end(self, position: tuple[int, int]) -> None:
            """Forget a block that is done."""
            self._begun.pop(position, None)

    name = f"attempts-{uuid.uuid4().hex}"
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    return name, ray.remote(num_cpus=0, label_selector=here, name=name)(Attempts).remote()


def _describe(open_pipe: Callable[[], Any]) -> dict[str, Any]:
    return model_identity(open_pipe())


@dataclass
class RayWorkers:
    """
    Replicas on a Ray cluster, in the place of a [`Worker`]. A context manager, which connects to the cluster.

    Args:
        open_pipe (`Callable`): function that opens the pipeline on a worker; it is pickled.
        task (`Task`): what is computed.
        call (`Mapping[str, Any]`): options of the pipeline's call.
        options (`Mapping[str, Any]`): further arguments of [`Worker`], without `num_workers`.
        settings ([`RayOptions`]): options of the engine.
        threads (`int`, *optional*): threads of each replica that open images or videos.
        device (`str`, *optional*): `"cpu"` or `"cuda"`; by default GPUs if the cluster has any.
        keep (`Sequence[str]`, *optional*): columns of the data that the output keeps.
        paths (`Sequence[str]`, *optional*): files and folders that all nodes have to see.

    Raises:
        ImportError: Ray is not installed. ConnectionError: there is no cluster at the address. ValueError: it has no
            room for the replicas.
    """

    open_pipe: Callable[[], Any]
    task: Task
    call: Mapping[str, Any]
    options: Mapping[str, Any]
    settings: RayOptions
    threads: int | None = None
    device: str | None = None
    keep: Sequence[str] = ()
    paths: Sequence[str] = ()
    timings: Timings = field(default_factory=Timings)
    _has_results: bool = False
    _attempts: Any = None  # held while it is needed: an actor ends when nothing holds it

    def __enter__(self) -> "RayWorkers":
        self._ray: Any = require("ray", extra="ray", purpose="jobs on a Ray cluster")
        require("ray.data", extra="ray")
        self._is_own = not self._ray.is_initialized()
        if self._is_own:
            _connect(self._ray, self.settings, self.threads)
        try:
            resources = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            nodes = [Node(found.get("CPU", 0), found.get("GPU", 0)) for found in resources]
            self.plan = plan(nodes, self.settings.replicas, self.threads, self.device)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._is_own:
            self._ray.shutdown()

    def identity(self) -> dict[str, Any] | None:
        """What identifies the model on the workers; `None` if it is what it is here, on a CPU."""
        if not self.plan.on_gpus:
            return None
        describe = self._ray.remote(num_gpus=1, max_retries=0)(_describe)
        try:
            return dict(self._ray.get(describe.remote(self.open_pipe)))
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise _failure(error) from error

    def expect_results(self) -> None:
        """As that of [`Worker`]."""
        self._has_results = True

    def stream(self, blocks: Blocks) -> Iterator[tuple[Block, list[Result]]]:
        """
        Compute blocks.

        Args:
            blocks ([`Blocks`]): the blocks; pickled.

        Yields:
            `tuple[Block, list[Result]]`: each block, and one result per item, in order. Items have no images, unless
            they are to be written again.

        Raises:
            TypeError: the data cannot be sent to workers. RuntimeError: a block killed its process several times.
        """
        last = None
        try:
            runs = blocks.runs(_MOST_RUNS)
            for row in self._dataset(blocks, runs).iter_rows() if runs else ():
                answer = pickle.loads(row["content"])
                if isinstance(answer, Exception):
                    raise answer
                if last is not None and answer.block.position <= last:
                    raise RuntimeError(f"Ray gave the block {answer.block.position} after {last}.")
                last = answer.block.position
                if answer.problem is not None and not self._has_results:
                    raise answer.problem
                self._has_results |= any(result.record is not None for result in answer.results)
                self._add(answer.timings)
                yield answer.block, answer.results
        except self._ray.exceptions.RayError as error:
            raise _failure(error) from error

    def _add(self, timings: Timings) -> None:
        self.timings.model += timings.model
        self.timings.waiting += timings.waiting
        self.timings.halved_batches += timings.halved_batches

    def _dataset(self, blocks: Blocks, runs: Sequence[Blocks]) -> Any:
        """A data set of answers, in the order of the blocks."""
        data: Any = require("ray.data", extra="ray")
        count, threads, on_gpus = self.plan
        options = {**self.options, "num_workers": threads}
        paths = tuple(map(os.path.abspath, self.paths))
        name, self._attempts = _count_attempts(self._ray)
        setup = _Setup(
            self.open_pipe, self.task, self.call, options, tuple(self.keep), os.getcwd(), paths, name, _ATTEMPTS
        )
        try:
            source = self._ray.put(blocks)
        except Exception as error:  # pickle raises errors of several types
            raise TypeError(
                f"The data cannot be sent to workers: {error}. Give files, or a data set on disk."
            ) from error
        reading: dict[str, Any] = {"num_cpus": _READER_CPUS}
        if len(runs) == 1:  # the list of files is on this node
            reading["label_selector"] = {"ray.io/node-id": self._ray.get_runtime_context().get_node_id()}
        rows = [{"content": pickle.dumps(run.shard)} for run in runs]
        dataset = data.from_items(rows, override_num_blocks=len(rows))
        dataset.context.execution_options.preserve_order = True
        dataset.context.enable_progress_bars = False
        dataset.context.target_max_block_size = 1  # a block of the job is one of Ray's, whatever its size
        dataset = dataset.map_batches(
            _read,
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs={"blocks": source, "setup": setup},
            compute=data.TaskPoolStrategy(size=min(len(runs), count)),
            **reading,
        )
        return dataset.map_batches(
            _Replica,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(setup,),
            compute=data.ActorPoolStrategy(size=count),
            **({"num_gpus": 1} if on_gpus else {"num_cpus": threads}),
        )


def _failure(error: Exception) -> RuntimeError:
    """What Ray could not do, whose messages end with the reason."""
    lines = str(error).strip().splitlines()
    return RuntimeError(f"Ray gave up: {lines[-1].strip() if lines else type(error).__name__}")


def _connect(ray: Any, settings: RayOptions, threads: int | None) -> None:
    """Connect to a cluster, or start one on this machine. Ray reports errors alone, beside the job's own progress."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if settings.address is not None:
        ray.init(address=settings.address, log_to_driver=False, logging_level="ERROR")
        return
    cpus = max(os.cpu_count() or 1, (settings.replicas or 1) * (threads or 1))
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


__all__ = ["Node", "Plan", "RayOptions", "RayWorkers", "plan"]
