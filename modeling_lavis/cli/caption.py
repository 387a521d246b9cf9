# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis caption`: pictures in, sentences out."""

import argparse
from typing import Any

from modeling_lavis.cli.options import (
    add_generation_options,
    add_inputs,
    add_model_options,
    at_least_one,
    generation_options,
    open_pipeline,
)
from modeling_lavis.cli.output import Results, UsageError, over_pictures
from modeling_lavis.cli.pictures import find_pictures


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "caption",
        help="describe pictures",
        description='Describe pictures. JSON: {"file": ..., "captions": [...]} or {"file": ..., "error": ...}.',
    )
    add_inputs(parser)
    add_model_options(parser)
    add_generation_options(parser)
    parser.add_argument("--prompt", metavar="TEXT", help="what captions go on from (that of the model's processor)")
    parser.add_argument("--num-return-sequences", metavar="N", type=at_least_one, default=1, help="captions of each")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Caption; returns the exit status."""
    options = generation_options(args)
    if args.num_return_sequences > 1:
        options["num_return_sequences"] = args.num_return_sequences
        if options.setdefault("num_beams", max(3, args.num_return_sequences)) < args.num_return_sequences:
            raise UsageError(
                f"--num-return-sequences {args.num_return_sequences} needs as many beams, but --num-beams is "
                f"{args.num_beams}."
            )
    if args.prompt is not None:
        options["prompt"] = args.prompt
    captioner = open_pipeline("image-captioning", args)
    results = Results(args.json)
    pictures = find_pictures(args.inputs)
    for name, rows in over_pictures(pictures, lambda names: captioner(names, on_error="return", **options), results):
        captions = [row["generated_text"] for row in rows]
        results.add({"file": name, "captions": captions}, "\n".join(f"{name}: {caption}" for caption in captions))
    return results.status
