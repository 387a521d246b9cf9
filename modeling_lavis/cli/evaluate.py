# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis evaluate`: metrics of a model on a data set."""

import argparse
import contextlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modeling_lavis.cli.answer import read_answers
from modeling_lavis.cli.examples import save_examples
from modeling_lavis.cli.options import (
    GENERATION_OPTIONS,
    add_generation_options,
    add_model_options,
    check_generation,
    first_line,
    flags,
    generation_options,
    given_options,
    natural,
    non_empty_text,
    open_pipeline,
    positive_int,
)
from modeling_lavis.cli.output import Results, UsageError, check_output_file
from modeling_lavis.cli.plots import add_plot_option, check_plot, evaluation_figure, save_plot

#: Pipeline that loads a model for each task.
PIPELINES = {
    "captioning": "image-captioning",
    "retrieval": "image-text-retrieval",
    "vqa": "image-question-answering",
    "nlvr": "image-pair-classification",
    "classification": "image-text-classification",
    "video-qa": "video-question-answering",
    "video-retrieval": "video-text-retrieval",
    "pretraining": "image-text-retrieval",
    "generative-pretraining": "image-captioning",
}
_METRICS = ("vqa", "a-okvqa", "gqa", "exact")
_FORMATS = ("list", "a-okvqa")
# Options of the evaluations that are flags of the same name. Which of them a task has, its function says.
_TASK_OPTIONS = (
    "prompt",
    "java_metrics",
    "num_candidates",
    "length_normalization",
    "metric",
    "default_text",
    "k",
    "ranks",
    "rerank",
    "text_batch_size",
    "index",
    "memory_budget",
    "disk_budget",
    "work_dir",
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evaluate",
        help="metrics of a model on a data set",
        description="Predict captions, answers, classes or matches for the rows of a data set, and print the metrics "
        'of the task. JSON: {"task": ..., "metrics": {...}, "skipped": N}. Processes of torchrun share the rows.',
    )
    parser.add_argument("task", metavar="TASK", choices=PIPELINES, help=", ".join(PIPELINES))
    add_model_options(parser, default=None)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", metavar="PATH", type=non_empty_text, required=True, help="folder or file of the data set"
    )
    data.add_argument("--split", metavar="NAME", help="split of a folder, such as val")
    data.add_argument("--media-root", metavar="DIR", help="folder of relative paths (that of the file with the paths)")
    data.add_argument("--format", metavar="NAME", help="format of the files, where a folder has several")
    data.add_argument(
        "--columns",
        metavar="FIELD=NAME",
        nargs="+",
        action="extend",
        default=[],
        help="columns of the data that have other names there; without a name, a column that the data lack",
    )
    data.add_argument("--streaming", action="store_true", help="read the data while they are evaluated")
    data.add_argument(
        "--on-bad-row", choices=("raise", "skip"), default="raise", help="rows that cannot be read (%(default)s)"
    )
    data.add_argument(
        "--num-workers", metavar="N", type=natural, default=0, help="processes that load images (%(default)s)"
    )
    data.add_argument("--label2id", metavar="FILE", help="JSON: index of each label or answer, or a list (the model's)")
    output = parser.add_argument_group("predictions")
    output.add_argument("--output", metavar="FILE", type=Path, help="write the predictions, .json")
    output.add_argument("--output-format", choices=_FORMATS, help="form of the predictions (list)")
    output.add_argument(
        "--examples", metavar="FILE", type=Path, help="draw the images of the worst predictions with these, .png"
    )
    add_plot_option(
        output,
        "recall over k with the scores of right and wrong pairs (retrieval), CIDEr of the captions, accuracy by type "
        "of question, or a confusion matrix (classes and answers)",
    )
    captions = parser.add_argument_group("captions and answers")
    add_generation_options(captions)  # type: ignore[arg-type]
    captions.add_argument("--prompt", metavar="TEXT", help="start of captions, or template of questions with {}")
    captions.add_argument("--java-metrics", action="store_true", default=None, help="METEOR and SPICE, which need Java")
    captions.add_argument(
        "--metric", choices=_METRICS, help="how answers are compared (vqa, or gqa for single answers)"
    )
    captions.add_argument("--answers", metavar="FILE_OR_LIST", help="answers to rank, one per line, JSON, or yes,no")
    captions.add_argument(
        "--num-candidates", metavar="N", type=positive_int, help="answers that are scored in full (128; all)"
    )
    captions.add_argument("--length-normalization", choices=("sum", "mean"), help="of a language model's scores (sum)")
    captions.add_argument("--default-text", metavar="TEXT", help="text of rows without a sentence (empty)")
    retrieval = parser.add_argument_group("retrieval")
    retrieval.add_argument("--k", metavar="N", type=positive_int, help="candidates that are matched (128)")
    retrieval.add_argument("--ranks", metavar="K", type=positive_int, nargs="+", help="K of recall at K (1 5 10)")
    retrieval.add_argument("--no-rerank", dest="rerank", action="store_false", default=None, help="rank by similarity")
    retrieval.add_argument("--text-batch-size", metavar="N", type=positive_int, help="texts per batch (256)")
    retrieval.add_argument("--index", metavar="NAME", help="exact, or a FAISS index (exact)")
    retrieval.add_argument("--memory-budget", metavar="BYTES", type=natural, help="hidden states in memory (4 GiB)")
    retrieval.add_argument("--disk-budget", metavar="BYTES", type=natural, help="hidden states on disk (0)")
    retrieval.add_argument("--work-dir", metavar="DIR", help="folder in which an interrupted run continues")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Evaluate, and return the exit status."""
    if args.output is not None:
        check_output_file(args.output, (".json",))
    elif args.output_format is not None:
        raise UsageError("--output-format is for --output; give the file, too.")
    check_plot(args.plot)
    if args.examples is not None:
        check_output_file(args.examples, (".png",), "--examples")
        if args.streaming:
            raise UsageError("--examples looks at rows again, which --streaming cannot. Leave out one of them.")
    with process_group(args) as is_first:
        return _run(args, Results(args.json), is_first)


def _run(args: argparse.Namespace, results: Results, is_first: bool) -> int:
    from modeling_lavis.data.loading import load_data
    from modeling_lavis.evaluation.tasks import EVALUATIONS

    known = inspect.signature(EVALUATIONS[args.task]).parameters
    options = task_options(args, known)
    if "return_rankings" in known:
        options["return_rankings"] = True
    try:
        rows = load_data(
            args.data,
            args.task,
            split=args.split,
            columns=_columns(args.columns) or None,
            media_root=args.media_root,
            format=args.format,
            streaming=args.streaming,
            on_bad_row="keep" if args.on_bad_row == "skip" else "raise",
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"The data in {args.data} cannot be used: {first_line(error)}") from error
    pipe = open_pipeline(PIPELINES[args.task], args)
    if "generation_options" in options:
        check_generation(pipe, options["generation_options"])
    found = EVALUATIONS[args.task](pipe.model, pipe.processor, rows, **options)
    if not is_first:
        return 0
    metrics, skipped = found.metrics, found.skipped
    if args.output is not None:
        found.save_predictions(args.output, args.output_format or "list")
    record = {"task": args.task, "metrics": metrics, "skipped": len(skipped)}
    results.add(record, _table(metrics) if metrics else "no metrics: the data have nothing to compare with")
    if args.plot is not None:
        save_plot(args.plot, evaluation_figure(found, _labels(options.get("label2id") or pipe.model.config.label2id)))
    if args.examples is not None:
        save_examples(args.examples, rows, found)
    return 0


def task_options(args: argparse.Namespace, known: Mapping[str, Any]) -> dict[str, Any]:
    """
    Options of the function of a task.

    Args:
        args (`argparse.Namespace`): the arguments of the command.
        known (`Mapping[str, Any]`): parameters of the function by name.

    Raises:
        UsageError: If an option is given that the task does not have, or a file cannot be read.
    """
    options = given_options(args, _TASK_OPTIONS)
    unknown = [name for name in options if name not in known]
    if generation := given_options(args, GENERATION_OPTIONS):
        if "generation_options" in known:
            options["generation_options"] = generation_options(args)
        else:
            unknown += generation
    if args.answers is not None:
        if "answers" in known and generation:
            raise UsageError(f"{flags(generation)} cannot be used with --answers: answers of a list are ranked.")
        unknown += [] if "answers" in known else ["answers"]
        options["answers"] = read_answers(args.answers)
    if args.label2id is not None:
        unknown += [] if "label2id" in known else ["label2id"]
        options["label2id"] = _read_labels(args.label2id)
    if "return_predictions" not in known:
        unknown += given_options(args, ("output", "examples"))
    if unknown:
        raise UsageError(f"{flags(unknown)} cannot be used with the task {args.task}.")
    shared: dict[str, Any] = {
        "batch_size": args.batch_size,
        "num_workers": args.num_workers,
        "progress": True,
        "on_bad_row": args.on_bad_row,
    }
    if "return_predictions" in known:
        shared["return_predictions"] = True
    return {**options, **shared}


def _labels(label2id: Mapping[str, int] | None) -> list[str]:
    """Names of labels in the order of their indices."""
    known = label2id or {}
    return sorted(known, key=lambda name: known[name])


def _columns(given: list[str]) -> dict[str, str | None]:
    columns: dict[str, str | None] = {}
    for entry in given:
        field, sign, name = entry.partition("=")
        if not field or not sign:
            raise UsageError(
                f"--columns has {entry!r}; expected a field and the name of its column, such as caption=text."
            )
        columns[field] = name or None
    return columns


def _read_labels(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            labels = json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"--label2id is {path}, which cannot be read: {first_line(error)}") from error
    if isinstance(labels, list) and labels and all(isinstance(name, str) for name in labels):
        return {name: index for index, name in enumerate(labels)}
    if not isinstance(labels, dict) or not all(type(index) is int for index in labels.values()):
        raise UsageError(
            f"--label2id is {path}; expected a JSON object with an integer for each label, or a list of the labels in"
            " the order of their indices."
        )
    return labels


def _table(metrics: Mapping[str, float]) -> str:
    width = max(map(len, metrics))
    return "\n".join(f"{name:<{width}}  {value:.4f}" for name, value in metrics.items())


@contextlib.contextmanager
def process_group(args: argparse.Namespace) -> Iterator[bool]:
    """
    Context in which the processes of torchrun share the work, each on its own accelerator. Yields whether this one is
    the first, which prints and writes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield True
        return
    import torch
    from torch import distributed as dist

    if args.device is None and torch.cuda.is_available():
        args.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    is_cuda = args.device is not None and args.device.startswith("cuda")
    if is_cuda:
        torch.cuda.set_device(args.device)
    dist.init_process_group("nccl" if is_cuda else "gloo")
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


__all__ = ["PIPELINES", "add_parser", "process_group", "run", "task_options"]
