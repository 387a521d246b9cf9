# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis caption`: describe images."""

import argparse
from typing import Any

from modeling_lavis.cli.jobs import JOB_INPUTS, add_job_options, given_job_options, run_job
from modeling_lavis.cli.options import (
    add_generation_options,
    add_inputs,
    add_model_options,
    check_generation,
    generation_options,
    open_pipeline,
    positive_int,
)
from modeling_lavis.cli.output import Results, UsageError, iterate_results, one_line
from modeling_lavis.data.media_files import find_inputs


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "caption",
        help="describe images",
        description='Describe images. JSON: {"file": ..., "captions": [...], "scores": [...]} or {"file": ..., '
        '"error": ...}. A score is the mean log-probability of the tokens of a caption.' + JOB_INPUTS,
    )
    add_inputs(parser)
    add_model_options(parser)
    add_generation_options(parser)
    parser.add_argument("--top-k", metavar="N", type=positive_int, help="sample from the N most likely tokens")
    parser.add_argument("--prompt", metavar="TEXT", help="start of the captions (that of the model's processor)")
    parser.add_argument("--full-text", action="store_true", help="captions with the prompt")
    parser.add_argument("--prefix", metavar="TEXT", default="", help="text to put before each caption, as it is")
    parser.add_argument(
        "--num-return-sequences", metavar="N", type=positive_int, default=1, help="captions per image (%(default)s)"
    )
    add_job_options(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Caption images, and return the exit status."""
    given_job_options(args)
    options = generation_options(args)
    if args.top_k is not None:
        options = {"num_beams": 1, **options, "top_k": args.top_k, "do_sample": True}
    if args.num_return_sequences > 1:
        options["num_return_sequences"] = args.num_return_sequences
        if (
            not options.get("do_sample")
            and options.setdefault("num_beams", max(3, args.num_return_sequences)) < args.num_return_sequences
        ):
            raise UsageError(
                f"--num-return-sequences {args.num_return_sequences} needs at least as many beams, but --num-beams is "
                f"{args.num_beams}."
            )
    captioner = open_pipeline("image-captioning", args)
    check_generation(captioner, options)
    if args.prompt is not None:
        options["prompt"] = args.prompt
    if args.full_text:
        options["return_full_text"] = True
    if args.prefix:
        options["prefix"] = args.prefix
    if args.output is not None:
        return run_job(args, "caption", captioner, options)
    results = Results(args.json)
    files = find_inputs(args.inputs)
    for name, rows in iterate_results(files, lambda names: captioner(names, on_error="return", **options), results):
        captions = [row["generated_text"] for row in rows]
        lines = [f"{one_line(name)}: {one_line(caption)}" for caption in captions]
        record = {"file": name, "captions": captions, "scores": [row.get("score") for row in rows]}
        results.add(record, "\n".join(lines))
    return results.status
