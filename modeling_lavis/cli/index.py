# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis index`: an index of a collection on disk, for `search`."""

import argparse
from typing import Any

from modeling_lavis.cli.jobs import JOB_INPUTS, add_reading_options, given_job_options
from modeling_lavis.cli.options import add_inputs, add_model_options, flags, natural, open_pipeline, positive_float
from modeling_lavis.cli.output import Results, UsageError, one_line, warn


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "index",
        help="index images or videos for search",
        description="Index the features of images or videos in a folder, for `modeling-lavis search`. The same command "
        "brings the index up to date: files that are new or have changed are added, and it resumes after an "
        "interruption. Without inputs and --remove, files that have changed or are missing are listed."
        + JOB_INPUTS.replace("With --output also", "Also"),
    )
    add_inputs(parser, needed=False)
    parser.add_argument("--output", metavar="INDEX", required=True, help="folder of the index")
    parser.add_argument(
        "--index",
        metavar="KIND",
        help="exact, flat, hnsw, ivf-pq, faiss:DESCRIPTION, or auto: exact up to a million items, then HNSW, or IVF-PQ "
        "if that does not fit in memory (auto, or that of the index)",
    )
    parser.add_argument(
        "--memory", metavar="GB", type=positive_float, help="memory for --index auto (half of the machine's)"
    )
    parser.add_argument(
        "--disk-budget",
        metavar="BYTES",
        type=natural,
        help="hidden states to store, from which search ranks without reading files (0, or that of the index)",
    )
    parser.add_argument("--remove", metavar="FILE", nargs="+", default=[], help="remove files from the index")
    parser.add_argument("--remove-missing", action="store_true", help="remove files that do not exist any more")
    add_model_options(parser)
    add_reading_options(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Make or change an index, and return the exit status, which is 1 if an input failed or a file is missing."""
    from modeling_lavis.search import SearchIndex, build_index, remove_from_index
    from modeling_lavis.search.features import TASKS

    results = Results(args.json)
    options = given_job_options(args)
    if not args.inputs:
        given = [name for name in ("index", "memory", "disk_budget", "model") if getattr(args, name) is not None]
        if given or options:
            raise UsageError(f"{flags([*given, *options])} cannot be used without inputs. Give files or folders.")
    failed = False
    if args.inputs:
        pipe = open_pipeline(TASKS, args)
        try:
            made = build_index(
                list(args.inputs),
                pipe,
                args.output,
                index=args.index,
                memory=None if args.memory is None else int(args.memory * 2**30),
                disk_budget=args.disk_budget,
                batch_size=args.batch_size,
                progress=True,
                **options,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        text = f"{one_line(made.output)}: {made.items} items, {made.added} new or changed, search {made.search}"
        if made.with_states:
            text += f", hidden states of {made.with_states}"
        if made.failed:
            text += f", {made.failed} failed ({one_line(made.failures)})"
        results.add(made.as_dict(), text)
        if made.missing and not args.remove_missing:
            warn(f"{made.missing} files of the index do not exist any more; --remove-missing removes them.", "warning")
        failed = made.failed > 0
    if args.remove or args.remove_missing:
        removed = remove_from_index(args.output, args.remove, missing=args.remove_missing)
        results.add(removed.as_dict(), f"{one_line(removed.output)}: {removed.items} items, {removed.removed} removed")
    elif not args.inputs:
        index = SearchIndex(args.output)
        changes = index.changes()
        lines = [f"{state}: {one_line(name)}" for state, names in changes.items() for name in names]
        record = {"output": args.output, "items": len(index), "search": index.files.head.get("search"), **changes}
        results.add(record, "\n".join([*lines, f"{one_line(args.output)}: {len(index)} items"]))
        failed = any(changes.values())
    return int(failed)
