# SPDX-License-Identifier: Apache-2.0
"""`--output` of the verbs that work on collections: a job that can be interrupted and resumed."""

import argparse
import functools
import os
from collections.abc import Mapping
from typing import Any

from modeling_lavis.cli.options import flags, open_pipeline, positive_int
from modeling_lavis.cli.output import Results, UsageError, one_line

FORMATS = ("jsonl", "parquet", "metadata", "txt", "webdataset")
# options of a job by the name of their flag, with the name that they have in Python
_OPTIONS = {
    "output_format": "output_format",
    "columns": "columns",
    "media_root": "media_root",
    "keep": "keep",
    "block_size": "block_size",
    "workers": "num_workers",
    "seed": "seed",
    "draft": "draft",
    "shard": "shard",
    "samples_per_shard": "samples_per_shard",
    "restart": "restart",
    "engine": "engine",
    "replicas": "replicas",
    "address": "address",
}
_OF_ENGINES = ("replicas", "address")
JOB_INPUTS = (
    " With --output also @FILE (a list of files and URLs, one per line), a folder with metadata.jsonl, .csv or"
    " .parquet, JSON Lines, CSV, Parquet and WebDataset shards."
)


def add_job_options(parser: argparse.ArgumentParser, output: bool = True, engine: bool = True) -> None:
    """Add the options of jobs; `output` and `engine` say whether to add `--output` and those of engines, too."""
    group = parser.add_argument_group(
        "collections",
        "With --output the results are written to files. The same command resumes a job that was interrupted; "
        "inputs that failed are listed with their reasons in failures.jsonl in the folder of the job, OUTPUT.job or "
        "OUTPUT/.VERB.job.",
    )
    if output:
        group.add_argument("--output", metavar="PATH", help="file or folder to write")
    group.add_argument(
        "--output-format",
        choices=FORMATS,
        help="JSON Lines, Parquet, metadata.jsonl in the folder of the images, a .txt beside each image, or WebDataset "
        "shards (by the suffix of the output: .jsonl or .parquet)",
    )
    add_reading_options(group)
    group.add_argument("--keep", metavar="COLUMN", nargs="+", help="further columns of the data to write")
    group.add_argument("--seed", metavar="N", type=int, help="random numbers of sampling (0)")
    group.add_argument("--shard", metavar="I/N", help="work on the I-th of N parts of the data")
    group.add_argument("--samples-per-shard", metavar="N", type=positive_int, help="samples of a full shard (10000)")
    if engine:
        group.add_argument("--engine", choices=("ray",), help="compute on the workers of a Ray cluster")
        group.add_argument(
            "--replicas",
            metavar="N",
            type=positive_int,
            help="models on the cluster (one per GPU, or per group of --workers processors if there are no GPUs)",
        )
        group.add_argument(
            "--address",
            metavar="HOST:PORT",
            help="Ray cluster, auto for that of this node ($RAY_ADDRESS; without any, one of this machine alone)",
        )


def add_reading_options(group: Any) -> None:
    """Add the options of all jobs, whatever they write, to a group of arguments."""
    group.add_argument("--columns", metavar="NAME=COLUMN", nargs="+", help="columns of the data with other names")
    group.add_argument("--media-root", metavar="DIR", help="folder of relative paths (that of the file with them)")
    group.add_argument("--block-size", metavar="N", type=positive_int, help="inputs that are written together (64)")
    group.add_argument("--workers", metavar="N", type=positive_int, help="threads that open files (one per processor)")
    group.add_argument(
        "--draft",
        action="store_true",
        default=None,
        help="decode large JPEG files at reduced size: faster, and pixels differ a little",
    )
    group.add_argument(
        "--restart", action="store_true", default=None, help="remove what an earlier run wrote, and begin again"
    )


def given_job_options(args: argparse.Namespace) -> dict[str, Any]:
    """
    Options of a job that are given, by their names in Python.

    Raises:
        UsageError: one is given without `--output`, or has another form.
    """
    given = {name: value for name in _OPTIONS if (value := getattr(args, name, None)) is not None}
    if given and args.output is None and getattr(args, "scores", None) is None:
        raise UsageError(f"{flags(given)} cannot be used without --output.")
    options = {_OPTIONS[name]: value for name, value in given.items()}
    if "columns" in options:
        pairs = [entry.partition("=") for entry in options["columns"]]
        if any(not name or not column for name, _, column in pairs):
            raise UsageError(f"--columns is {' '.join(options['columns'])}; expected NAME=COLUMN.")
        options["columns"] = {name: column for name, _, column in pairs}
    engine_options = {name: options.pop(name) for name in _OF_ENGINES if name in options}
    if "engine" in options:
        options["engine_options"] = {**_default_address(), **engine_options}
    elif engine_options:
        raise UsageError(f"{flags(engine_options)} cannot be used without --engine.")
    return options


def _default_address() -> dict[str, str]:
    """The cluster that Ray's own commands name for the jobs that they start."""
    return {"address": address} if (address := os.environ.get("RAY_ADDRESS")) else {}


def run_job(args: argparse.Namespace, verb: str, pipe: Any, call: Mapping[str, Any]) -> int:
    """
    Run a job with the inputs and options of the command line, print its summary, and return the exit status.

    Args:
        args (`argparse.Namespace`): the arguments.
        verb (`str`): name of the task.
        pipe (`LavisPipeline`): its pipeline.
        call (`Mapping[str, Any]`): options of the pipeline's call.
    """
    from modeling_lavis.jobs.api import run

    if not args.inputs:
        raise UsageError("There are no inputs. Give files, folders, globs, URLs or @FILE.")
    options = given_job_options(args)
    if "engine" in options:
        options |= {"device": args.device, "open_model": _opener(verb, args)}
    try:
        summary = run(
            verb, list(args.inputs), pipe, args.output, call, batch_size=args.batch_size, progress=True, **options
        )
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    return print_summary(summary, args.json)


def _opener(verb: str, args: argparse.Namespace) -> Any:
    """What workers of an engine call to open the pipeline as this process does, on their own device."""
    from modeling_lavis.jobs.tasks import TASKS

    names = ("model", "device", "dtype", "background", "batch_size")
    pipelines = TASKS[verb].pipelines
    tasks = pipelines if len(pipelines) > 1 else pipelines["image"]
    return functools.partial(open_pipeline, tasks, argparse.Namespace(**{name: getattr(args, name) for name in names}))


def print_summary(summary: Any, as_json: bool) -> int:
    """Print the summary of a job, and return the exit status: 1 if an input failed."""
    from modeling_lavis.progress import duration

    results = Results(as_json)
    text = f"{one_line(summary.output)}: {summary.written} of {summary.inputs} inputs"
    if summary.failed:
        text += f", {summary.failed} failed ({one_line(summary.failures)})"
    text += ", finished before" if summary.was_finished else f", {duration(summary.seconds)}"
    results.add(summary.as_dict(), text)
    return int(summary.failed > 0)


__all__ = ["JOB_INPUTS", "add_job_options", "given_job_options", "print_summary", "run_job"]
