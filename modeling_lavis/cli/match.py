# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis match`: how well texts describe pictures, or videos where the model is one of videos."""

import argparse
from typing import Any

from modeling_lavis.cli.options import add_inputs, add_model_options, inputs_of, open_pipeline
from modeling_lavis.cli.output import Results, over_pictures


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "match",
        help="score texts against pictures or videos",
        description="Score every text against every picture or video: the probability of a match (ITM, VTM) and the "
        'cosine of the features (ITC, VTC). JSON: {"file": ..., "matches": [{"text": ..., "score": ..., "similarity": '
        '...}]} or {"file": ..., "error": ...}.',
    )
    add_inputs(parser)
    parser.add_argument(
        "--text", metavar="TEXT", nargs="+", action="extend", required=True, help="one or several, after the inputs"
    )
    add_model_options(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Match; returns the exit status."""
    matcher = open_pipeline({"image": "image-text-matching", "video": "video-text-matching"}, args)
    results = Results(args.json)
    pictures = inputs_of(matcher, args)
    for name, rows in over_pictures(pictures, lambda names: matcher(names, text=args.text, on_error="return"), results):
        lines = [f"  match {row['score']:.3f}  cosine {row['similarity']:+.3f}  {row['text']}" for row in rows]
        results.add({"file": name, "matches": rows}, "\n".join([name, *lines]))
    return results.status
