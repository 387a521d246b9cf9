# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis answer`: pictures and questions in, answers out."""

import argparse
import json
import os
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
        "answer",
        help="answer questions about pictures",
        description="Answer a question about pictures, freely or by ranking a list of answers. JSON: "
        '{"file": ..., "question": ..., "answers": [{"answer": ..., "score": ...}]} (scores for a list only; they are '
        'log-likelihoods) or {"file": ..., "error": ...}.',
    )
    add_inputs(parser)
    add_model_options(parser, default=None)
    add_generation_options(parser)
    parser.add_argument("--question", metavar="TEXT", required=True, help="asked about every picture")
    parser.add_argument(
        "--answers",
        metavar="FILE_OR_LIST",
        help="rank these: a file with one answer per line or a JSON array, or a list such as yes,no",
    )
    parser.add_argument("--top-k", metavar="N", type=at_least_one, help="ranked answers that are shown (5)")
    parser.add_argument(
        "--num-candidates", metavar="N", type=at_least_one, help="answers of the list that are scored whole (128)"
    )
    parser.set_defaults(run=run)
    return parser


def read_answers(value: str) -> list[str]:
    """The answers in a file or in a list with commas.

    Raises:
        UsageError: there is none, or the file cannot be read.
    """
    if os.path.isfile(value):
        try:
            with open(value, encoding="utf-8-sig") as file:
                text = file.read()
            answers = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
        except (OSError, ValueError) as error:
            raise UsageError(f"The answers in {value} cannot be read: {error}") from error
        if not all(isinstance(answer, str) for answer in answers):
            raise UsageError(f"The JSON array in {value} holds something else than strings.")
    elif os.path.splitext(value)[1] in (".txt", ".json"):
        raise UsageError(f"There is no file {value} with answers.")
    else:
        answers = value.split(",")
    answers = list(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))
    if not answers:
        raise UsageError(f"--answers is {value!r}, which holds no answer.")
    return answers


def run(args: argparse.Namespace) -> int:
    """Answer; returns the exit status."""
    options = generation_options(args)
    ranking = {name: getattr(args, name) for name in ("top_k", "num_candidates") if getattr(args, name) is not None}
    if args.answers is None and ranking:
        raise UsageError("--top-k and --num-candidates belong to --answers, which is missing.")
    if args.answers is not None:
        if options:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in options)
            raise UsageError(f"{names} and --answers cannot go together: a list is ranked, not generated.")
        options = {"answers": read_answers(args.answers), **ranking}
    answerer = open_pipeline("image-question-answering", args)
    results = Results(args.json)
    pictures = find_pictures(args.inputs)
    for name, rows in over_pictures(
        pictures, lambda names: answerer(names, question=args.question, on_error="return", **options), results
    ):
        lines = [f"{name}: {row['answer']}" + (f"  {row['score']:.3f}" if "score" in row else "") for row in rows]
        results.add({"file": name, "question": args.question, "answers": rows}, "\n".join(lines))
    return results.status
