# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis match`: score how well texts match images or videos."""

import argparse
from pathlib import Path
from typing import Any

from modeling_lavis.cli.jobs import JOB_INPUTS, add_job_options, given_job_options, run_job
from modeling_lavis.cli.options import (
    add_inputs,
    add_model_options,
    check_texts,
    find_model_inputs,
    non_empty_text,
    open_pipeline,
)
from modeling_lavis.cli.output import Results, UsageError, iterate_results, one_line
from modeling_lavis.cli.plots import MatchScores, add_plot_option, check_plot, save_plot


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "match",
        help="score texts against images or videos",
        description="Score every text against every image or video: the probability of a match (ITM, VTM) and the "
        'cosine similarity of the features (ITC, VTC). JSON: {"file": ..., "matches": [{"text": ..., "score": ..., '
        '"similarity": ...}]} or {"file": ..., "error": ...}.' + JOB_INPUTS,
    )
    add_inputs(parser)
    parser.add_argument(
        "--text",
        metavar="TEXT",
        type=non_empty_text,
        nargs="+",
        action="extend",
        help="one or several texts; must follow the inputs (with --output: the column text or caption of the data)",
    )
    add_model_options(parser)
    add_plot_option(parser, "how scores and cosines are distributed, for each of up to four texts")
    add_job_options(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Match texts with images or videos, and return the exit status."""
    given_job_options(args)
    if not args.text and args.output is None:
        raise UsageError("There is no text to match. Give --text.")
    check_plot(args.plot)
    matcher = open_pipeline({"image": "image-text-matching", "video": "video-text-matching"}, args)
    if args.text:
        check_texts(matcher, "--text", args.text)
    scores = MatchScores(args.text)
    if args.output is not None:
        status = run_job(args, "match", matcher, {"text": args.text})
        if args.plot is not None:
            from modeling_lavis.jobs.merging import open_part

            for record in open_part(Path(args.output), "match").records():
                scores.add(record.get("matches", [record]))
            save_plot(args.plot, scores.figure())
        return status
    results = Results(args.json)
    files = find_model_inputs(matcher, args)
    for name, rows in iterate_results(files, lambda names: matcher(names, text=args.text, on_error="return"), results):
        lines = [
            f"  match {row['score']:.3f}  cosine {row['similarity']:+.3f}  {one_line(row['text'])}" for row in rows
        ]
        results.add({"file": name, "matches": rows}, "\n".join([one_line(name), *lines]))
        if args.plot is not None:
            scores.add(rows)
    if args.plot is not None:
        save_plot(args.plot, scores.figure())
    return results.status
