# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis explain`: draw where a model looked."""

import argparse
from pathlib import Path
from typing import Any

from modeling_lavis.cli.options import add_model_options, non_empty_text, open_model
from modeling_lavis.cli.output import Results, UsageError, check_output_file, one_line

_METHODS = ("gradcam", "relevance", "rollout", "attention")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "explain",
        help="draw where a model looked",
        description="Draw where a model looked in an image, a pair of images or a video, for each word of a text that "
        'it reads or writes. JSON: {"file": ..., "target": ..., "score": ..., "score_name": ..., "method": ..., '
        '"layer": ..., "words": [{"word": ..., "picture": ..., "x": ..., "y": ...}], "output": ...}, where x and y are '
        "the center of the patch with the largest value, in pixels.",
    )
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="+", help="an image, two images for a model of pairs, or a video"
    )
    parser.add_argument(
        "--text", metavar="TEXT", type=non_empty_text, help="text, question or prompt (without one: a caption)"
    )
    parser.add_argument(
        "--target", metavar="TARGET", help="what is scored: match, mismatch, similarity, a class, an answer, a caption"
    )
    parser.add_argument("--method", choices=_METHODS, default="gradcam", help="%(choices)s (%(default)s)")
    parser.add_argument("--layer", metavar="N", type=int, help="layer, from 0 (that of the family's paper)")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, default=Path("maps.png"), help="drawing, .png or .jpg (%(default)s)"
    )
    add_model_options(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Draw the maps, and return the exit status."""
    check_output_file(args.output, (".png", ".jpg", ".jpeg"))
    if len(args.inputs) > 2:
        raise UsageError(f"Got {len(args.inputs)} inputs; expected an image, a pair of images or a video.")
    model, processor = open_model(args)
    from modeling_lavis.interpretability import explain

    explanation = explain(
        model,
        processor,
        args.inputs[0] if len(args.inputs) == 1 else args.inputs,
        args.text,
        method=args.method,
        target=args.target,
        layer=args.layer,
    )
    explanation.save(args.output)
    words = []
    for number, word in enumerate(explanation.words):
        picture, x, y = explanation.peak(number)
        words.append({"word": word, "picture": picture, "x": x, "y": y})
    record = {
        "file": args.inputs[0] if len(args.inputs) == 1 else args.inputs,
        "target": explanation.target,
        "score": explanation.score,
        "score_name": explanation.score_name,
        "method": explanation.method,
        "layer": explanation.layer,
        "words": words,
        "output": str(args.output),
    }
    several = len(explanation.pictures) > 1
    lines = [f"{one_line(explanation.target)}: {explanation.score_name} {explanation.score:.3f}"]
    for peak in words:
        place = f"picture {peak['picture']}, " if several else ""
        lines.append(f"  {one_line(str(peak['word']))}: {place}x {peak['x']}, y {peak['y']}")
    results = Results(args.json)
    results.add(record, "\n".join([*lines, f"Maps: {args.output}"]))
    return results.status
