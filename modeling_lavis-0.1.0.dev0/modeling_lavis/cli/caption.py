# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis caption`: describe images."""

import argparse
from typing import Any

from modeling_lavis.cli.images import find_inputs
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


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "caption",
        help="describe images",
        description='Describe images. JSON: {"file": ..., "captions": [...]} or {"file": ..., "error": ...}.',
    )
    add_inputs(parser)
    add_model_options(parser)
    add_generation_options(parser)
    parser.add_argument("--prompt", metavar="TEXT", help="start of the captions (that of the model's processor)")
    parser.add_argument(
        "--num-return-sequences", metavar="N", type=positive_int, default=1, help="captions per image (%(default)s)"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Caption images, and return the exit status."""
    options = generation_options(args)
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
    results = Results(args.json)
    files = find_inputs(args.inputs)
    for name, rows in iterate_results(files, lambda names: captioner(names, on_error="return", **options), results):
        captions = [row["generated_text"] for row in rows]
        lines = [f"{one_line(name)}: {one_line(caption)}" for caption in captions]
        results.add({"file": name, "captions": captions}, "\n".join(lines))
    return results.status
